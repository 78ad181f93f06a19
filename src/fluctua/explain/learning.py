"""What can be wrong with the loss and its gradients: one small check for each kind of finding."""

from collections.abc import Iterator
from math import exp, isnan, log

import torch
from torch import Tensor

from fluctua.explain.checks import FEW_PASS
from fluctua.explain.evidence import Activity, Evidence, cross_entropy
from fluctua.explain.finding import Finding
from fluctua.network.run import modules_of
from fluctua.state.summary import FEW, LOST, listed, sharp, sharply

SURE = 8.0  # spread of the logits from which the softmax is certain of one class
_SURROGATES = (  # attribute of the neuron, import, a surrogate with long tails
    ("spike_grad", "from snntorch import surrogate; ", "surrogate.atan(alpha=2.0)"),
    ("surrogate_function", "from spikingjelly.activation_based import surrogate; ", "surrogate.ATan()"),
    ("surrogate", "", "fluctua.neurons.SuperSpike(beta=2.5)"),
)


def cut_graph(e: Evidence) -> Iterator[Finding]:
    """An output without a gradient, or a place where the gradient stops."""
    cut = "# remove what cuts the graph there: .detach(), .data, .item(), torch.no_grad(), rounding"
    if not e.connected:
        what = "output" if e.loss is None else "loss"
        yield Finding("detached", "", f"the {what} depends on no parameter: its graph is cut", cut)
        return
    still = [a.state.name for a in e.spiking if not (a.through_time or a.dead)]
    if still:
        said = f"the graph of {listed(still)} is cut between steps, so that no gradient flows back in time"
        yield Finding("detached", still[0], said, cut, serious=False)
    reached = [(a, [e.norms.get(q.name) for q in a.population.pathways]) for a in e.activity]
    lost = [a for a, norms in reached if norms and all(norm is None for norm in norms)]
    wanted = any(q.weight.requires_grad for a in lost for q in a.population.pathways)
    if wanted and len(lost) < len([1 for _, norms in reached if norms]):
        last = lost[-1]
        yield Finding("detached", last.state.name, f"the output has no graph back to {last.state.name}", cut)


def frozen(e: Evidence) -> Iterator[Finding]:
    """Weights of populations that do not require a gradient."""
    weights = dict.fromkeys(q.name for a in e.activity for q in a.population.pathways)
    still = [name for name in weights if e.required.get(name) is False]
    if still:
        every = len(still) == len(weights)
        said = f"requires_grad is False for {'all weights' if every else listed(still)}"
        remedy = f"[model.get_parameter(n).requires_grad_(True) for n in {still}]"
        yield Finding("frozen", "" if every else still[0], said, remedy, serious=every)


def gradients(e: Evidence) -> Iterator[Finding]:
    """Neurons that pass no gradient, and a gradient that vanishes or explodes on its way back."""
    alive = [a for a in e.spiking if not a.dead]
    for a in alive:
        if a.passing is not None and isnan(a.passing):
            said = f"the gradient that {a.state.name} passes is NaN: its surrogate overflows far from threshold"
            yield Finding("gradient", a.state.name, said, blunter(a))
            return
        if a.passing is not None and a.passing < FEW_PASS:
            said = (
                f"{f'only {a.passing:.0%} of the neurons' if a.passing else 'no neuron'} of {a.state.name} "
                f"pass{'es' * (not a.passing)} a gradient: its surrogate is zero, or too sharp for the distance of U "
                f"from threshold (mean {a.state.mu_u:.2g}, sigma_U {a.state.sigma_u:.2g})"
            )
            yield Finding("gradient", a.state.name, said, blunter(a))
            return
    shares = [a.state.participation for a in alive]
    if few := sharp(e.report):
        first = next(a for a in alive if a.state is few[0])
        yield Finding("gradient", first.state.name, sharply(few), blunter(first), serious=False)
        return
    norms = [(a, norm) for a in alive[1:] if (norm := _norm(e, a)) is not None]
    if len(norms) < 2 or any(a.dead for a in e.spiking):
        return
    (first, low), (last, high) = norms[0], norms[-1]
    if high > 0 and not 1 / LOST < low / high < LOST:
        fades, blunt = low < high, all(share is not None and share >= FEW for share in shares)
        clip = "# clip the gradient, or train with an optimiser that rescales it, such as Adam"
        remedy = blunter(first) if fades else clip if blunt else e.call("rescale")
        said = (
            f"the gradient {'fades' if fades else 'grows'} from {high:.1e} in {last.state.name} to {low:.1e} in "
            f"{first.state.name}"
        )
        yield Finding("gradient", first.state.name, said, remedy, serious=fades or not blunt)


def readout(e: Evidence) -> Iterator[Finding]:
    """An output that is the same for all classes, or far too large."""
    output, last = e.output, e.activity[-1]
    if output is None or output.shape[-1] < 2 or any(a.dead for a in e.spiking):
        return
    logits = output.detach().double()
    if bool((logits == logits[..., :1]).all()):
        if any(a.waits for a in e.spiking):  # no spike yet
            return
        chance = "" if e.loss is None else f", so the loss stays at {e.loss:.3g}"
        c = output.shape[-1]
        said = f"the output is the same for all {c} classes (ln {c} = {log(c):.3g}){chance}"
        yield Finding("readout", last.state.name, said, e.call("initialize", ", seed=0"))
        return
    if _softmaxed_twice(e, logits):
        said = (
            f"the output is already a softmax, and the cross entropy applies another: the loss, {e.loss:.3g}, "
            f"cannot fall below {log(1 + (output.shape[-1] - 1) / exp(1)):.3g}"
        )
        remedy = "loss = lambda output, labels: nn.functional.nll_loss(output.clamp_min(1e-9).log(), labels)"
        yield Finding("readout", last.state.name, said, remedy)
        return
    spread = float(logits.std(-1).mean())
    weight = next((q for q in reversed(last.population.pathways)), None)
    if e.labels is not None and last.state.threshold is None and spread > SURE and weight is not None:
        said = f"the outputs of the classes differ by {spread:.3g}, so the softmax is certain before any learning"
        yield Finding("readout", last.state.name, said, f"model.get_parameter({weight.name!r}).data.div_({spread:.3g})")


def _softmaxed_twice(e: Evidence, output: Tensor) -> bool:
    """Whether the loss is the cross entropy of an output `[B, C]` of probabilities."""
    if output.ndim != 2 or e.labels is None or e.loss is None:
        return False
    if bool((output < 0).any()) or not torch.allclose(output.sum(-1), torch.ones(len(output)).to(output), atol=1e-4):
        return False
    return abs(float(cross_entropy(output, e.labels)) - e.loss) < 1e-4


def blunter(a: Activity) -> str:
    """A line that gives all neurons of the population's class a surrogate with long tails."""
    module = a.population.module
    for attribute, before, value in _SURROGATES:
        if any(hasattr(m, attribute) for m in modules_of(module)):
            given = f"setattr(m, {attribute!r}, {value}) for m in model.modules() if hasattr(m, {attribute!r})"
            return f"{before}[{given}]"
    return f"# give {a.state.name} a surrogate with long tails, such as SuperSpike or ATan"


def _norm(e: Evidence, a: Activity) -> float | None:
    found = [n for q in a.population.pathways if (n := e.norms.get(q.name)) is not None]
    return float(torch.tensor(found).norm()) if found else None
