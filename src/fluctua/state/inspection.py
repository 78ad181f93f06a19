"""Look at a network: run it once and measure the state of every population."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fluctua.network.network import Axis, Network
from fluctua.network.probe import ProbedNeuron
from fluctua.network.run import Copies, Forward, hooked, only_requiring_grad
from fluctua.state.measure import Measurements, Window, watch
from fluctua.state.report import Report
from fluctua.state.shares import needs_passes, outer_parts
from fluctua.state.summary import report_of
from fluctua.theory.membrane import Moments


def inspect(
    model: nn.Module,
    batch: Any,
    *,
    window: Window = "trial",
    loss: Callable[[Any], Tensor] | None = None,
    forward: Forward | None = None,
    time: Axis = 0,
    dt: float | None = None,
    neurons: Mapping[type[nn.Module], ProbedNeuron] | None = None,
) -> Report:
    """The state of every population of a network on a batch; nothing is changed.

    Args:
        model: any model of known neurons, of any framework.
        batch: input `[T, B, ...]`, or whatever the model or `forward` takes.
        window: take the moments over the whole "trial", or from the "arrival" of activity at each population on.
        loss: scalar loss of the model's output; with it the report has the gradient norm of every population.
        forward: `forward(model, batch)` runs all time steps and resets the state; by default the model is called, or
            looped over time, as its neurons ask for.
        time: axis of the batch that is time, 0 or 1.
        dt: time step in seconds, for frameworks that count time in steps; without it rates are per step.
        neurons: what neuron classes are like that fluctua does not know.

    Raises:
        WiringError: see `fluctua.network.Network.of`, and so are the errors of a batch.
        ValueError: an unknown window, or a loss that is no scalar or does not depend on any weight.

    Example:
        >>> from fluctua.neurons import LI, LIF
        >>> _ = torch.manual_seed(0)
        >>> model = nn.Sequential(nn.Linear(30, 20), LIF(), nn.Linear(20, 2), LI())
        >>> report = inspect(model, (torch.rand(100, 4, 30) < 0.1).float())
        >>> print(f"{report['1'].sigma_u:.1f}")  # in the unit of the threshold
        0.2
    """
    network = Network.of(model, batch, forward=forward, time=time, dt=dt, neurons=neurons)
    return inspect_network(network, window=window, loss=loss)


def inspect_network(
    network: Network,
    *,
    window: Window = "trial",
    loss: Callable[[Any], Tensor] | None = None,
    targets: Mapping[str, Moments] | None = None,
    notes: tuple[str, ...] = (),
    warnings: tuple[str, ...] = (),
) -> Report:
    """`inspect` for a network that is known already, with the targets it was initialised for, by name."""
    populations = network.populations
    measured: dict[str, Measurements] = {}
    modules = dict.fromkeys(p.module for p in populations)
    answers: dict[nn.Module, list[Any]] = {module: [] for module in modules}
    within = [[p for p in populations if p.module is module] for module in modules]
    handles = [handle for together in within for handle in watch(together, window, measured)]
    if any(map(needs_passes, populations)):
        handles += [module.register_forward_hook(_keeping(answers, Copies(network.model))) for module in modules]
    with hooked(handles):
        if loss is None:
            with torch.no_grad():
                network.run()
            gradients: dict[str, float] = {}
        else:
            gradients = _gradient_norms(network, loss)
    outside = outer_parts(network, answers, {name: m.mask for name, m in measured.items()})
    return report_of(populations, measured, targets or {}, gradients, notes, warnings, outside)


def _keeping(answers: dict[nn.Module, list[Any]], copies: Copies) -> Any:
    def after(module: nn.Module, args: Any, output: Any) -> None:
        with torch.no_grad():
            answers[module].append(copies.of(output))

    return after


def _gradient_norms(network: Network, loss: Callable[[Any], Tensor]) -> dict[str, float]:
    """Norm of the loss gradient with respect to all weights into each population."""
    # Cached, so that a parametrised weight is one tensor.
    with network.preserved(), only_requiring_grad(network.model, None), parametrize.cached():
        value = loss(network.forward(network.model, network.batch))
        if not (isinstance(value, Tensor) and value.numel() == 1 and value.requires_grad):
            raise ValueError("the loss must return one number, a tensor with a gradient with respect to the weights")
        weights = {p.name: [q.weight for q in p.pathways] for p in network.populations}
        flat = [w for group in weights.values() for w in group]
        gradients = iter(torch.autograd.grad(value, flat, allow_unused=True))
    norms = {}
    for name, group in weights.items():
        squares = [float(g.double().square().sum()) for _ in group if (g := next(gradients)) is not None]
        norms[name] = float(np.sqrt(sum(squares)))
    return norms
