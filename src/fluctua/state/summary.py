"""From measurements to the report: states, shares of the variance, and warnings."""

from collections.abc import Container, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fluctua.network.facts import Pathway, Population
from fluctua.network.network import Network, rests_quietly
from fluctua.state.facts import PathwayState, PlotData, PopulationState
from fluctua.state.measure import OUTSIDE, Measurements, Parts, first_event, neuron_mean, population_mean, silent_share
from fluctua.state.report import Report
from fluctua.theory.psp import PspKernel
from fluctua.theory.target import Moments, crossing_rate

if TYPE_CHECKING:
    from fluctua.state.backward import Passage

RASTER_NEURONS = 40
NEVER = 40.0  # standard deviations, beyond which the probability underflows a double
SHARE = 0.4  # participation share that lets deep networks learn
FEW = 0.1  # participation share below which too few neurons carry the gradient through a deep network
DEEP = 6  # number of spiking populations from which this matters
LOST = 1000.0  # ratio between the gradients of two layers from which one does not learn beside the other


def report_of(
    network: Network,
    measured: Mapping[str, Measurements],
    targets: Mapping[str, Moments],
    gradients: Mapping[str, float],
    notes: tuple[str, ...],
    warnings: tuple[str, ...],
    outside: Mapping[str, Parts] | None = None,
    *,
    ran: Iterable[str] = (),
) -> Report:
    """The report on what `watch` has measured.

    `outside`, see `shares`, adds the shares of more pathways; `ran` says how, besides the numbers of steps and samples.
    How the gradient passes populations is told where their drive was measured.
    """
    populations = network.populations
    passed: Mapping[str, Passage] = {}
    if any(m.drive is not None for m in measured.values()):
        from fluctua.state.backward import passages  # only where gradients are of interest

        passed = passages(populations, measured)
    known = {p.name: shares(p, measured[p.name].parts, (outside or {}).get(p.name)) for p in populations}
    states = tuple(
        _state(p, measured[p.name], known[p.name], targets.get(p.name), gradients.get(p.name), passed.get(p.name))
        for p in populations
    )
    steps, samples = measured[populations[0].name].mask.shape
    said = [f"T = {counted(steps, 'step')} x B = {counted(samples, 'sample')}", *_time_step(populations), *ran]
    warnings = (*network.doubts(steps, samples), *warnings, *warnings_of(states, network.outputs))
    return Report(states, tuple(dict.fromkeys(notes)), tuple(dict.fromkeys(warnings)), ", ".join(said))


def _time_step(populations: Iterable[Population]) -> list[str]:
    steps = {f"{1e3 * p.neuron.kernel.dt:g} ms" for p in populations if not p.neuron.in_steps}
    return [f"dt = {' or '.join(sorted(steps))}"] if steps else []


def counted(n: int, what: str) -> str:
    """A number of things, in words."""
    return f"{n} {what}{'' if n == 1 else 's'}"


def _state(
    p: Population,
    m: Measurements,
    known: Parts,
    target: Moments | None,
    gradient: float | None,
    passage: "Passage | None",
) -> PopulationState:
    temporal, across = float(m.variance.mean()), float(m.mean.var(correction=0))
    mu, sigma = float(m.mean.mean()), float(np.sqrt(temporal + across))
    theta, kernel = p.neuron.threshold, p.neuron.kernel
    thresholds = torch.as_tensor(_each(p.neuron.theta, len(m.mean))).to(m.mean)
    unit = torch.where(thresholds == 0, 1.0, thresholds.abs())  # one per neuron where thresholds differ
    distance, deviation = (thresholds - m.mean) / unit, m.variance.sqrt() / unit
    xi = None if theta is None or temporal == 0 else float(distance.mean() / deviation.square().mean().sqrt())
    rates, raster = np.zeros(0), np.zeros((0, 2))
    spiking: dict[str, float | None] = dict.fromkeys(("rate", "rate_predicted", "latency", "silent", "saturated"))
    if m.spikes is not None and theta is not None:
        rates = (neuron_mean(m.spikes, m.mask) / kernel.dt).cpu().numpy()
        raster = _raster(m.spikes, kernel.dt)
        spiking = {
            "rate": population_mean(m.spikes, m.mask) / kernel.dt,
            "rate_predicted": None if xi is None or np.isnan(xi) else _predicted_rate(distance / deviation, kernel),
            "latency": _latency(m.spikes, kernel.dt),
            "silent": silent_share(m.spikes),
            "saturated": float((distance < 0).double().mean()),
        }
    histogram, shown = (m.edges.double().numpy(), m.density.double().numpy()), min(len(m.mean), RASTER_NEURONS)
    return PopulationState(
        name=p.name,
        n=len(m.mean),
        threshold=theta,
        mu_u=mu,
        sigma_u=sigma,
        sigma_temporal=float(np.sqrt(temporal)),
        sigma_across=float(np.sqrt(across)),
        xi=xi,
        **spiking,
        target_mu_u=None if target is None else float(np.mean(target.mu_u)),
        target_sigma_u=None if target is None else float(np.sqrt(np.mean(target.sigma_u**2))),
        gradient_norm=gradient,
        pathways=tuple(_pathway_state(q, known.get(q.name)) for q in p.pathways),
        plot_data=PlotData(*histogram, rates, raster, shown, m.mask.shape[0] * kernel.dt),
        in_steps=p.neuron.in_steps,
        silent_maps=m.silent_maps,
        **({} if passage is None else vars(passage)),
    )


def _each(theta: float | np.ndarray[Any, Any] | None, n: int) -> np.ndarray[Any, Any]:
    """Thresholds of n neurons, flat, from one for all or one for each index of their first axes."""
    values = np.ravel(np.nan if theta is None else theta)
    return np.repeat(values, n // len(values))


def _predicted_rate(xi: Tensor, kernel: PspKernel) -> float:
    """Mean of the crossing rates of neurons `[N]`; a neuron without fluctuations never crosses."""
    own = kernel.lag_one  # [] or of the neurons' shape, or of the first axes of it
    each = xi.nan_to_num(NEVER).clamp(-NEVER, NEVER).cpu().numpy().reshape(max(np.size(own), 1), -1)
    return float(crossing_rate(each.T.reshape(-1, *np.shape(own)), kernel).mean())


def _latency(spikes: Tensor, dt: float) -> float | None:
    """Median over samples of the time of the first spike; None if at least half have no spike."""
    first = first_event(spikes).cpu()
    steps = int(first.kthvalue(len(first) // 2 + 1).values)  # with an even number, the later of the middle two
    return None if steps >= spikes.shape[0] else steps * dt


def _raster(spikes: Tensor, dt: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Time and neuron of the first sample's spikes, for neurons spread evenly over the population."""
    n = spikes.shape[2]
    chosen = torch.linspace(0, n - 1, min(n, RASTER_NEURONS)).long()
    events = spikes[:, 0, chosen.to(spikes.device)].nonzero().double().cpu().numpy()
    return np.column_stack([events[:, 0] * dt, events[:, 1]])


def _pathway_state(q: Pathway, share: float | None) -> PathwayState:
    weight = q.weight.detach()  # in its own precision: it may be large
    mean, size = weight.mean(), torch.linalg.vector_norm(weight)
    std = (size.square() / weight.numel() - mean.square()).clamp_min(0).sqrt()  # many times faster than .std()
    if weight.numel() < 2**20 or std < mean.abs():
        std, mean = torch.std_mean(weight, correction=0)
    return PathwayState(q.name, q.sources, q.fan_in, float(mean), float(std), q.skipped_because, share)


def shares(p: Population, parts: Parts, outside: Parts | None = None) -> Parts:
    """The shares of a population's pathways, by name: the variance of each alone, over the sum of all.

    Args:
        p: the population. Shares are unknown, and left out, if it has a single pathway, two weights in one
            module, or several pathways from outside without `outside`.
        parts: variance of the input from outside, and of each recurrent pathway.
        outside: variance of each pathway from outside, and of what arrives without a weight: see `outer_parts`.
    """
    names = {q.name for q in p.pathways}
    if len(names) < 2 or len({q.synapse for q in p.pathways}) < len(names):
        return {}
    found = {name: part for name, part in parts.items() if name != OUTSIDE}
    if outside is not None:
        found |= outside
    elif needs_passes(p):
        return {}
    else:
        found |= {q.name: parts[OUTSIDE] for q in p.pathways if not q.inside}
    total = sum(found.values())
    return {name: found[name] / total for name in names} if total > 0 else {}


def needs_passes(p: Population) -> bool:
    """Whether the input from outside has parts that only extra passes of the model can separate."""
    outer = {q.name for q in p.pathways if not q.inside}
    return len({q.name for q in p.pathways}) > 1 and (len(outer) > 1 or bool(p.unweighted))


def warnings_of(states: tuple[PopulationState, ...], ends: Container[str] = ()) -> list[str]:
    """Broken numbers, silence, saturation, late activity and missed targets, a sentence each; `ends` are outputs."""
    length = states[0].plot_data.duration if states else 0.0
    trial = counted(round(length), "step") if states and states[0].in_steps else f"{length:g} s"
    broken = [p.name for p in states if not np.isfinite([p.mu_u, p.sigma_u]).all()]
    culprits = [q.name for p in states for q in p.pathways if not np.isfinite(q.mean + q.std)]
    mute = [p for p in states if p.rate is not None and p.latency is None]
    silent = [p.name for p in mute if not (p.name in ends and rests_quietly(p.xi))]
    late = [p.name for p in states if p.latency is not None and p.latency > 2 / 3 * p.plot_data.duration]
    missed = [
        p for p in states if p.target_sigma_u is not None and abs(p.sigma_u - p.target_sigma_u) > 0.1 * p.target_sigma_u
    ]
    above = [p.name for p in states if p.saturated is not None and p.saturated > 0.5]
    off = [p for p in states if p.target_mu_u is not None and abs(p.mu_u - p.target_mu_u) > 0.1 * _wanted_sigma(p)]
    warnings = []
    if broken:
        warnings.append(
            f"the potential of {listed(broken)} has NaN or infinite values: "
            + (f"so have the weights {listed(culprits)}" if culprits else "look for them in the batch and in biases")
        )
    if silent:
        warnings.append(f"no spike within the trial of {trial}, in half of the samples or more: {listed(silent)}")
    if above:
        warnings.append(
            "the mean potential of at least half of the neurons is above threshold, so that they fire whatever the "
            f"input: {listed(above)}; lower their mean, for instance that of biases"
        )
    if off:
        worst = max(off, key=lambda p: abs(p.mu_u - (p.target_mu_u or 0.0)) / _wanted_sigma(p))
        warnings.append(
            f"mu_U misses its target by more than a tenth of sigma_U: {listed([p.name for p in off])} "
            f"(worst: {worst.mu_u:.2f} for {worst.target_mu_u:.2f} in {worst.name})"
        )
    if late:
        warnings.append(
            f"first spike only in the last third of the trial of {trial}: {listed(late)}; activity needs time in "
            "every layer, so use longer trials or fewer layers"
        )
    if missed:
        worst = max(missed, key=lambda p: abs(np.log(max(p.sigma_u, 1e-9) / (p.target_sigma_u or 1.0))))
        warnings.append(
            f"sigma_U misses its target by more than 10 %: {listed([p.name for p in missed])} "
            f"(worst: {worst.sigma_u:.2f} for {worst.target_sigma_u:.2f} in {worst.name})"
        )
    return [*warnings, *_gradient_warnings(states)]


def _wanted_sigma(p: PopulationState) -> float:
    return p.sigma_u if p.target_sigma_u is None else p.target_sigma_u


def _gradient_warnings(states: tuple[PopulationState, ...]) -> list[str]:
    """Whether few neurons carry the gradient, or it vanishes or explodes on its way back.

    The first population is left out: its weights receive the input, whose size is not that of spikes.
    """
    if few := sharp(states):
        return [f'{sharply(few)}: use blunter surrogates, which initialize(..., surrogate="share") sets']
    spiking = [p for p in states if p.threshold is not None and p.gradient_norm is not None]
    norms = [p.gradient_norm or 0.0 for p in spiking]
    if len(norms) < 3 or any(p.latency is None for p in spiking) or not 0 < norms[-1] < np.inf:
        return []
    if 1 / LOST < norms[1] / norms[-1] < LOST or np.isnan(norms[1]):
        return []
    what, cure = "fades", "give the neurons a blunter surrogate, such as SuperSpike with a smaller beta"
    if norms[1] > norms[-1]:
        what, cure = "grows", "harmless with Adam and similar optimizers; with SGD or in half precision, clip it"
    return [
        f"the gradient {what} from {norms[-1]:.1e} in {spiking[-1].name} to {norms[1]:.1e} in {spiking[1].name}: {cure}"
    ]


def sharp(states: Iterable[PopulationState]) -> list[PopulationState]:
    """The populations of a deep network in which too few neurons carry the gradient."""
    spiking = [p for p in states if p.threshold is not None]
    few = [p for p in spiking if p.participation is not None and p.participation < FEW and p.latency is not None]
    return few if len(spiking) >= DEEP else []


def sharply(few: list[PopulationState]) -> str:
    """The sentence on these populations."""
    worst = min(few, key=lambda p: p.participation or 0.0)
    return (
        f"few neurons carry the gradient through {listed([p.name for p in few])}: the participation share is "
        f"{worst.participation:.2f} in {worst.name}, and {SHARE:g} lets networks of {DEEP} layers and more learn better"
    )


def listed(names: list[str]) -> str:
    """Names, the first five of many."""
    return ", ".join(names) if len(names) <= 6 else f"{', '.join(names[:5])} and {len(names) - 5} more"


def of_whom(said: Iterable[tuple[str | None, str]]) -> dict[str, str]:
    """Each sentence once, with the names that it holds for; from pairs of a sentence, or None, and a name."""
    names: dict[str, list[str]] = {}
    for sentence, name in said:
        if sentence is not None:
            names.setdefault(sentence, []).append(name)
    return {sentence: listed(list(dict.fromkeys(found))) for sentence, found in names.items()}


def short_batch_warnings(populations: tuple[Population, ...]) -> Iterator[str]:
    """A warning for each length of batch in which the potential of spiking populations has no time to settle."""
    short = [p for p in populations if p.neuron.threshold is not None and settled(p) < 0.95]
    for length, names in of_whom((_length(p), p.name) for p in short).items():
        yield (
            f"the batch of {length} is short for the time constants of {names}: the potential settles only partly, and "
            "what is measured holds for trials of this length"
        )


def _length(p: Population) -> str:
    steps = p.steps or 0
    return counted(steps, "step") if p.neuron.in_steps else f"{steps * p.neuron.kernel.dt:g} s"


def settled(p: Population) -> float:
    """The fraction of the stationary variance reached at the end of a trial."""
    kernel = p.neuron.kernel
    return float(((kernel.response(p.steps or 1) ** 2).sum(0) * kernel.dt / kernel.eps_hat).min())
