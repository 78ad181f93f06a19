"""What can be wrong with a network's input and activity: one small check for each kind of finding."""

from collections.abc import Iterator, Mapping
from math import inf, sqrt

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fluctua.explain.evidence import FAR, Activity, Evidence
from fluctua.explain.finding import Finding
from fluctua.network.adapters.framework import THRESHOLDS
from fluctua.network.adapters.registry import KnownNeurons
from fluctua.network.facts import INPUT, Pathway
from fluctua.network.run import modules_of, named_modules_of, named_parameters_of, tensors_in
from fluctua.state.facts import PopulationState
from fluctua.state.summary import counted, listed, settled

FEW_VALUES = 16  # up to this number of distinct values weights lie on a grid
LARGE = 5.0  # sigma_U in units of the threshold, from which a spike is no event
LATE = 2 / 3  # of the trial, after which little time is left to learn from
FEW_PASS = 0.1  # share of neurons that pass a gradient, below which a population does not learn
FORGETS = 0.05  # fraction of U left after a step, below which spikes do not add up
RESTLESS = "fires without input"  # as the errors say of neurons that cannot be read for that reason
UNSETTLED = 0.2  # fraction of the stationary variance of U, below which a trial is too short for the time constants


def not_numbers(model: nn.Module, call: str) -> Iterator[Finding]:
    """Parameters, and statistics of norms, with NaN or infinite values: all else would follow from them.

    The call of `initialize` mends what it sets.
    """
    inside = {m for neuron in KnownNeurons().found_in(model) for m in modules_of(neuron)}
    found: dict[str, str] = {}
    for path, module in named_modules_of(model):
        tensors: dict[str, Tensor] = {n: p for n, p in named_parameters_of(module, False) if not is_lazy(p)}
        tensors |= {n: b for n, b in module.named_buffers(recurse=False) if n in ("running_mean", "running_var")}
        for name in (n for n, t in tensors.items() if not bool(t.isfinite().all())):
            kind = "statistics" if name.startswith("running") else "neuron" if module in inside else "weight"
            found[f"{path}.{name}".lstrip(".")] = kind
    if found:
        mends = ["[m.reset_running_stats() for m in model.modules() if hasattr(m, 'reset_running_stats')]"]
        mends = mends * ("statistics" in found.values()) + [call] * ("weight" in found.values())
        if "neuron" in found.values():
            mends = ["# set the constants of the neurons again"]
        yield Finding("values", next(iter(found)), f"NaN or infinite values in {listed(list(found))}", "; ".join(mends))


def named_input(e: Evidence) -> Iterator[Finding]:
    """An input that is too large or too uniform for the network."""
    raw = next(tensors_in(e.raw), None)
    x = next(tensors_in(e.network.batch), None)
    first = next((a for a in e.activity if a.population.heard & {INPUT} or not a.population.heard), None)
    if x is None or first is None:
        return
    largest = float(x.detach().abs().max())
    size = max(_in_thresholds(first.state, u) for u in (first.state.mu_u, first.state.sigma_u))
    if largest >= 10 and size > LARGE:
        kind = "integers" if raw is not None and not raw.is_floating_point() else "values"
        said = (
            f"the batch has {kind} up to {largest:g}, which drive the potential of {first.state.name} to {size:.3g} "
            "times its threshold: scale it to about 1"
        )
        yield Finding("input", "", said, "batch = batch / batch.max()")
    channels = x.detach().flatten(2) if x.ndim > 2 else x.detach()
    if channels.shape[-1] > 1 and bool((channels == channels[..., :1]).all()):
        said = (
            f"all {channels.shape[-1]} channels of the batch are the same at every step, so they tell nothing about "
            "the sample: check how it was encoded; values above 1, for instance, are no probabilities"
        )
        yield Finding("input", "", said, "# encode the samples again, from values between 0 and 1")


def _in_thresholds(p: PopulationState, potential: float) -> float:
    """The size of a potential in units of the threshold; unscaled for a readout."""
    return abs(potential) / abs(p.threshold or 1.0)


def noise(e: Evidence) -> Iterator[Finding]:
    """Spikes at the same rate in all channels, samples and steps, whose sums vary only by chance."""
    x = next(tensors_in(e.network.batch), None)
    if e.labels is None or e.network.time not in (0, 1) or x is None or x.ndim < 3:
        return
    x = x.detach().movedim(e.network.time, 0).flatten(2).double()  # [T, B, C]
    if x.shape[2] == 1 or not x.var() > 0 or not bool((x.frac() == 0).all()):
        return
    parts = torch.stack([part.sum(0) for part in x.tensor_split(8)])
    if not any(_varies(s, x) for s in (x.sum(0), x.sum(1), x.sum(2), x.sum((0, 1)), parts, parts.sum(2))):
        said = (
            f"the batch looks like noise: all {x.shape[2]} channels fire at the same rate, {x.mean():.3g} spikes "
            "in a step, in every sample, so there is nothing to learn"
        )
        yield Finding("input", "", said, "# encode samples by rates or times that differ", serious=False)


def _varies(sums: Tensor, x: Tensor) -> bool:
    """Whether sums over equal parts vary more or less than chance allows, by four standard deviations."""
    chance = x.var() * x.numel() / sums.numel()
    return sums.numel() > 1 and bool((sums.var() / chance - 1).abs() > 4 * sqrt(2 / (sums.numel() - 1)))


def exchanged_axes(e: Evidence) -> Iterator[Finding]:
    """Samples that were read as time steps."""
    for doubt in e.network.doubts(e.steps, e.samples):
        yield Finding("axes", "", doubt, "batch = batch.transpose(0, 1)")


def carried_state(e: Evidence) -> Iterator[Finding]:
    """A forward that continues where the last batch ended."""
    if e.forgets is False:
        said = "the same batch gave a different output in a second run: the model continues from its last state"
        own = e.network.time == "own"
        yield Finding("state", "", said, _resetting(e) if own else "# start from rest: an attribute keeps the state")


def _resetting(e: Evidence) -> str:
    """A line that makes the user's forward start from rest, with the resets of the neurons' framework."""
    for name in ("reset_mem", "reset_states", "reset_state", "reset"):
        if any(callable(getattr(a.population.module, name, None)) for a in e.activity):
            resets = f"[m.{name}() for m in model.modules() if hasattr(m, {name!r})]"
            return f"forward = lambda model, batch, run=forward: ({resets}, run(model, batch))[1]"
    return "# make forward start from rest: reset the states of all its neurons"


def batch_norms(e: Evidence) -> Iterator[Finding]:
    """Batch norm that normalises with statistics it has not learned."""
    norms = {n: m for n, m in named_modules_of(e.network.model) if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    unlearned = [n for n, m in norms.items() if not m.training and m.num_batches_tracked == 0]
    if unlearned:
        said = (
            f"in eval mode, without having seen a batch, {listed(unlearned)} assume{'s' * (len(unlearned) == 1)} "
            "mean 0 and variance 1 for the input"
        )
        yield Finding("norm", unlearned[0], said, "model.train()")


def silence(e: Evidence) -> Iterator[Finding]:
    """The first population that does not fire, and why; those behind it are silent because of it."""
    dead = [a for a in e.spiking if a.dead]
    if dead:
        yield _why_silent(e, dead[0], [a.state.name for a in dead[1:]])
        return
    for a in e.spiking:
        spikes = (a.state.rate or 0.0) * a.state.plot_data.duration * e.samples
        if spikes > 5 and (a.state.silent_units or 0.0) > 0.5 and not a.waits:
            said = (
                f"{_never(a.state)}, others do: their mean potentials differ by {a.state.sigma_across:.2g}, and U "
                f"fluctuates by {a.state.sigma_temporal:.2g}"
            )
            yield Finding("silent", a.state.name, said, e.call("rescale"), serious=False)


def _why_silent(e: Evidence, a: Activity, behind: list[str]) -> Finding:
    p, theta = a.state, a.state.threshold or 0.0
    said = _never(p) + (f", nor do most in {listed(behind)} behind it" if behind else "")
    zero = [q.name for q in a.population.pathways if not bool(q.weight.detach().any())]
    few = [q.name for q in a.population.pathways if _on_grid(q)]
    xi = inf if p.sigma_temporal == 0 else (theta - p.mu_u) / p.sigma_temporal
    if zero:
        return Finding("grid", p.name, f"{said}: all weights of {zero[0]} are zero", e.call("initialize", ", seed=0"))
    left = max(e.steps - a.arrival, 0) / e.steps
    if a.arrival >= LATE * e.steps and xi * sqrt(left) < 2 * FAR:  # it would fire with more time
        when = f"arrives only in step {a.arrival}" if left else "does not arrive within the trial"
        return Finding("late", p.name, f"{said}: activity {when} of {counted(e.steps, 'step')}", _longer(e))
    if xi == inf and not p.mu_u < -theta / 2:
        message = f"{said}: its input never changes, so nothing makes U move"
        return Finding("silent", p.name, message, f"# find what blocks the input before it reaches {p.name}")
    far = f"the threshold {theta:g} is {xi:.3g} standard deviations of U away, instead of 1 to 3"
    if a.passing is not None and a.passing < FEW_PASS:
        far += ", where the surrogate passes no gradient"
    if few:
        message = f"{said}: {few[0]} takes only few values, which cause too little fluctuation; {far}"
        return Finding("grid", p.name, message, _toward(e, a))
    if a.from_biases < -theta / 2 and p.mu_u < -theta / 2:
        why = f"biases hold its mean potential {-a.from_biases:.3g} below rest"
    elif p.mu_u < -theta / 2:
        why = f"its mean potential is {p.mu_u:.3g}, held down by more inhibition than excitation"
    else:
        what = "the weights are" if a.population.pathways else "what reaches it without weights in between is"
        why = f"{what} too small by a factor of about {xi:.0f}"
    return Finding("silent", p.name, f"{said}: {why}; {far}", _toward(e, a))


def _never(p: PopulationState) -> str:
    """A phrase on how many neurons, or feature maps, never fire."""
    share, what = p.silent_units or 0.0, "neurons" if p.silent_maps is None else "feature maps"
    return f"no {what[:-1]} of {p.name} fires" if share == 1 else f"{share:.0%} of the {what} of {p.name} never fire"


def _toward(e: Evidence, a: Activity) -> str:
    """The line that brings the network to its target: with its own weights if possible, else with new ones.

    A population that no weight feeds gets another threshold.
    """
    if not a.population.pathways:
        level = a.state.mu_u + 2 * a.state.sigma_temporal
        if level > a.population.neuron.rest:
            return set_thresholds({a.state.name: a.population.module}, level)
        return f"# {a.state.name} is inhibited, and no weight feeds it: change what reaches it"
    movable = any((q.bias is not None and q.bias.requires_grad) or q.norms for q in a.population.pathways)
    possible = movable or (a.state.mu_u > -a.state.sigma_u and a.state.sigma_u > 0)
    weights = [q.weight for other in e.activity for q in other.population.pathways]
    return (
        e.call("rescale")
        if possible and all(bool(w.detach().any()) for w in weights)
        else e.call("initialize", ", seed=0")
    )


def _longer(e: Evidence) -> str:
    if e.network.time is None:
        return f"steps = {2 * e.steps}"
    return f"batch = torch.cat([batch, batch], {e.network.time if e.network.time == 1 else 0})"


def _on_grid(q: Pathway) -> bool:
    return q.weight.numel() > 4 * FEW_VALUES and len(q.weight.detach().unique()) <= FEW_VALUES  # type: ignore[no-untyped-call]


def late(e: Evidence) -> Iterator[Finding]:
    """Activity that arrives when the trial is nearly over."""
    for a in [a for a in e.spiking if not a.dead and a.arrival > LATE * e.steps][:1]:
        said = f"activity reaches {a.state.name} only in step {a.arrival} of {e.steps}: every layer adds a delay"
        yield Finding("late", a.state.name, said, _longer(e), serious=False)


def growth(e: Evidence) -> Iterator[Finding]:
    """Fluctuations that grow with depth or are large throughout, or a population that drives itself."""
    sizes = [(a, _in_thresholds(a.state, a.state.sigma_temporal)) for a in e.spiking]
    for a, size in sizes:
        shares = {q.name: q.share or 0.0 for q in a.state.pathways}
        loops = [q for q in a.population.pathways if q.recurrent and a.state.name in q.sources]
        own = sum(shares[q.name] for q in loops) if len(loops) < len(shares) else 1.0
        if loops and size > LARGE and own > 0.8 and a.per_step > 0.05:
            said = (
                f"{a.state.name} drives itself: {own:.0%} of the variance of U comes from {loops[0].name}, and "
                f"{a.per_step:.0%} of its neurons fire in a step"
            )
            yield Finding("exploding", a.state.name, said, e.call("initialize", ", seed=0"))
            return
    if len(sizes) >= 3 and sizes[-1][1] > LARGE > 1.5 * sizes[0][1] and sizes[-1][1] > 4 * sizes[0][1]:
        (first, low), (last, high) = sizes[0], sizes[-1]
        said = (
            f"U fluctuates by {low:.2g} thresholds in {first.state.name} and by {high:.2g} in {last.state.name}: "
            "activity grows from layer to layer"
        )
        yield Finding("exploding", last.state.name, said, e.call("rescale"))
        return
    for a, size in sizes:
        if size > LARGE and settled(a.population) < 1.01:  # above, it integrates, and U grows along the trial
            said = (
                f"U of {a.state.name} fluctuates by {size:.3g} thresholds, so a single spike hardly counts, and it is "
                "seldom near enough to the threshold to learn: its weights are too large"
            )
            yield Finding("exploding", a.state.name, said, _toward(e, a), serious=False)
            return


def saturation(e: Evidence) -> Iterator[Finding]:
    """Neurons that fire whatever the input, and thresholds not above rest."""
    low = [a for a in e.spiking if (a.state.threshold or 0.0) <= a.population.neuron.rest]
    left = {one.name: one.module for one in e.network.left if RESTLESS in one.reason}
    if low or left:
        rest = max([a.population.neuron.rest for a in low], default=0.0)
        found = left | {a.state.name: a.population.module for a in low}
        said = f"the threshold of {listed(list(found))} is not above the resting potential: they fire without input"
        yield Finding("saturated", next(iter(found)), said, set_thresholds(found, rest + 1.0))
        return
    for a in e.spiking:
        p = a.state
        if (p.saturated or 0.0) > 0.5 or a.per_step > 0.6:
            said = (
                f"{p.saturated:.0%} of the neurons of {p.name} have a mean potential above threshold (mean "
                f"{p.mu_u:.3g}, threshold {p.threshold:g}), and {a.per_step:.0%} fire in a step, whatever the input"
            )
            yield Finding("saturated", p.name, said, _toward(e, a))
            return


def set_thresholds(found: Mapping[str, nn.Module], value: float) -> str:
    """A line that gives modules, by name, a threshold."""
    lines: dict[str, list[str]] = {}
    for path, module in found.items():
        name = next((n for n in THRESHOLDS if getattr(module, n, None) is not None), "")
        change = f"setattr(m, {name!r}, {value:.3g})"
        if isinstance(getattr(module, name, None), Tensor):
            change = f"m.{name}.data.fill_({value:.3g})"
        if hasattr(getattr(module, "p", None), "v_th"):  # of Norse
            name, change = "p", f"setattr(m, 'p', m.p._replace(v_th=torch.as_tensor({value:.3g})))"
        if name:
            lines.setdefault(change, []).append(path)
    changes = [f"[{change} for m in map(model.get_submodule, {paths})]" for change, paths in lines.items()]
    return "; ".join(changes) or f"# set the threshold of {next(iter(found))} to {value:.3g}"


def time_step(e: Evidence) -> Iterator[Finding]:
    """Neurons that forget within a step, or trials that end before the neurons have settled."""
    for a in e.spiking:
        left, reached = float(np.mean(a.population.neuron.kernel.lag_one)), settled(a.population)
        if left < FORGETS:
            said = f"keeps only {max(left, 0.01):.0%} or less in a step, which is far longer than its time constants"
        elif reached < UNSETTLED:
            share = max(sqrt(reached), 0.01)
            said = f"reaches only {share:.0%} or less of its fluctuations: the trial is short for its time constants"
        else:
            continue
        remedy = "# change time constants, time step or length of the trial: are all in seconds?"
        yield Finding("time", a.state.name, f"U of {a.state.name} {said}", remedy, serious=a.dead)
        return
