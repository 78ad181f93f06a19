"""Why a network does not learn: one run, examined by many small checks."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from fluctua.explain import checks, learning
from fluctua.explain.evidence import Evidence, Loss, gather
from fluctua.explain.finding import KINDS, Diagnosis, Finding
from fluctua.fusion.model import FusedModel
from fluctua.network.adapters.registry import KnownNeurons
from fluctua.network.errors import Axis, BatchError, UnsupportedNeuronError, WiringError
from fluctua.network.network import Network, check_values
from fluctua.network.preserve import in_turn
from fluctua.network.probe import ProbedNeuron
from fluctua.network.run import Forward, named_modules_of

Check = Callable[[Evidence], Iterator[Finding]]

CHECKS: tuple[Check, ...] = (
    checks.named_input,
    checks.noise,
    checks.exchanged_axes,
    checks.carried_state,
    checks.batch_norms,
    checks.silence,
    checks.late,
    checks.growth,
    checks.saturation,
    learning.cut_graph,
    learning.frozen,
    learning.gradients,
    learning.readout,
    checks.time_step,
)


@in_turn
def diagnose(
    model: nn.Module,
    batch: Any,
    loss: Loss | None = None,
    labels: Tensor | None = None,
    *,
    forward: Forward | None = None,
    time: Axis = 0,
    steps: int | None = None,
    dt: float | None = None,
    neurons: Mapping[type[nn.Module], ProbedNeuron] | None = None,
    readouts: Collection[str] | None = None,
) -> Diagnosis:
    """Find out why a network does not learn, with a line of code that fixes each cause; changes nothing itself.

    Args:
        model: any model of known neurons, of any framework.
        batch: input as in training, `[T, B, ...]` or what the model takes: see `fluctua.initialize`.
        loss: `loss(output)`, or `loss(output, labels)` with labels; then gradients are examined too. Default with
            labels: the cross entropy of the output summed over time.
        labels: of the samples.
        forward: runs all time steps and resets the state: see `fluctua.initialize` for this and the rest.
        time: axis of the batch that is time.
        steps: how many steps a static input is shown for.
        dt: time step in seconds, for neurons that count time in steps.
        neurons: facts about unknown neuron classes.
        readouts: names of populations whose potential is read.

    Returns:
        The findings, those that keep the network from learning first; empty if nothing is wrong.

    Raises:
        ValueError: a loss that is not one number, or labels that are not classes of the output.

    Example:
        >>> import fluctua
        >>> from fluctua.neurons import LI, LIF
        >>> _ = torch.manual_seed(0)
        >>> model = nn.Sequential(nn.Linear(30, 20), LIF(), nn.Linear(20, 2), LI())
        >>> batch = (torch.rand(100, 16, 30) < 0.01).float()
        >>> found = diagnose(model, batch)
        >>> found[0].kind, found[0].where, found[0].remedy
        ('silent', '1', 'fluctua.rescale(model, batch)')
        >>> exec(found[0].remedy)
        >>> diagnose(model, batch)
        <Diagnosis: nothing found>
    """
    if isinstance(model, FusedModel):  # its loops have no single steps to look at
        forward, model = forward or model.given, model.unfused
    named = {"forward": forward, "steps": steps, "dt": dt, "neurons": neurons, "readouts": readouts}
    options = "".join(f", {name}={name}" for name, value in named.items() if value is not None)
    options += f", time={time}" if time != 0 else ""
    if broken := tuple(checks.not_numbers(model, f"fluctua.initialize(model, batch, seed=0{options})")):
        return Diagnosis(broken)
    try:
        pair = labels is not None and forward is None and isinstance(batch, Tensor | np.ndarray)
        given = (batch, labels) if pair else batch  # labels tell which axis is that of the samples
        network = Network.of(
            model, given, forward=forward, time=time, steps=steps, dt=dt, neurons=neurons, readouts=readouts
        )
        network = replace(network, notes=tuple(note for note in network.notes if not pair or "is a pair" not in note))
        check_values(network.batch)
    except UnsupportedNeuronError as error:
        if checks.RESTLESS not in str(error):
            raise
        refused = KnownNeurons(dt, neurons or {}).refused_in(model)
        low = [m for m, why in refused.items() if checks.RESTLESS in str(why)]
        restless = {name: m for name, m in named_modules_of(model) if m in low}
        return Diagnosis((Finding("saturated", "", str(error), checks.set_thresholds(restless, 1.0)),))
    except (BatchError, WiringError) as error:
        return Diagnosis((_refused(error, time),))
    required = {name: p.requires_grad for name, p in nn.Module.named_parameters(model)}
    e = gather(network, batch, loss, labels, options, required)
    order = list(KINDS)
    found = [finding for check in CHECKS for finding in check(e)]
    return Diagnosis(tuple(sorted(found, key=lambda f: (not f.serious, order.index(f.kind)))), e.report)


def _refused(error: Exception, time: Axis) -> Finding:
    """The finding that a model or a batch cannot be run."""
    said = str(error)
    if "labels but was read as" in said:
        return Finding("axes", "", said, "batch = batch.transpose(0, 1)")
    if "detaches" in said or "no_grad" in said:
        return Finding("detached", "", said, "# remove .detach(), rounding or torch.no_grad() from the forward")
    if "more than 1 value per channel" in said:
        return Finding("norm", "", f"batch norm needs more than one sample in training: {said}", "# take more samples")
    if isinstance(error, BatchError):
        mends = "batch = torch.nan_to_num(batch)" if "NaN" in said else "# take another batch, with activity"
        return Finding("input", "", said, mends)
    return Finding("wiring", "", said, "# see the message, and docs/errors.md")
