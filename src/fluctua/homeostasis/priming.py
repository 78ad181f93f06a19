"""Priming: gradient steps on activity regularisers alone (paper, section on homeostatic plasticity)."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fluctua.homeostasis.bounds import ActivityBound, paper_bounds
from fluctua.homeostasis.optimizers import make_optimizer
from fluctua.homeostasis.refinement import Refinement, TrainingDiverged, rates
from fluctua.layers.dale import constrain_
from fluctua.methods.weights import new_generator
from fluctua.network.errors import Axis, BatchError
from fluctua.network.intake import alike
from fluctua.network.network import Network
from fluctua.network.preserve import all_or_nothing, gpus_of, seed_torch
from fluctua.network.run import Forward, modules_of, named_parameters_of, parameters_of, recorded, tensors_in
from fluctua.neurons.leaky import Neuron
from fluctua.state.inspection import inspect_network

Penalties = dict[tuple[str, ActivityBound], float]  # by name of the population


@all_or_nothing
def prime(
    model: nn.Module,
    batches: Tensor | Iterable[Any],
    regularizers: Sequence[ActivityBound] = paper_bounds("shd"),
    *,
    epochs: int = 20,
    lr: float = 5e-3,
    optimizer: str = "smorms3",
    tolerance: float = 0.1,
    forward: Forward | None = None,
    time: Axis = 0,
    steps: int | None = None,
    seed: int | None = None,
    dt: float | None = None,
) -> Refinement:
    """Train on activity regularisers alone, in place, until every population stays within its bounds.

    All trainable weights, biases and gains that lead to a spiking population take part; weights with a sign (modules
    with `constrain_`) keep it. Parameters of neurons, such as time constants and thresholds, and buffers such as
    batch-norm statistics stay as they are. Penalties are measured in units
    of `strength * threshold^order`, so a silent population has the penalty 1 for a lower bound. Each batch with a
    penalty above `tolerance` causes a step; the first epoch without a step is the last.

    The gradient comes through the surrogate derivative. A layer whose afferents are silent gets none, so silent layers
    wake up one after the other. Steps that are too large are not undone: they can leave neurons so far from threshold
    that no gradient brings them back.

    Args:
        model: any model of known neurons.
        batches: what an epoch iterates over, such as a list or a `DataLoader`: inputs `[T, B, ...]`, or pairs that
            begin with one; a single input is an epoch by itself. Rates and report are those on the first.
        regularizers: bounds on the spike counts of every spiking population (default: the paper's for SHD).
        epochs: maximal number.
        lr: learning rate.
        optimizer: its name, see `fluctua.homeostasis.make_optimizer`.
        tolerance: largest penalty of a population on a batch, in the units above.
        forward: `forward(model, batch)` runs all time steps of an element of `batches`, if a plain call does not.
        time: axis of an input that is time, 0 or 1; None for a static input `[B, ...]`.
        steps: how many steps a static input is shown for; not needed if the model makes a sequence of it.
        seed: for randomness on the way, such as dropout and the order of a loader; default: drawn from torch's
            generator.
        dt: time step in seconds, for frameworks that count time in steps.

    Raises:
        ValueError: no bounds, a number out of range, batches that can be read only once, no spiking
            population, or nothing to train.
        BatchError: a batch that is empty or not finite, or a first batch that is all zero or misshapen.
        WiringError: no known neuron found, or a model that cannot be traced.
        TrainingDiverged: a penalty or a gradient that is not finite.

    Example:
        >>> from fluctua.neurons import LI, LIF
        >>> _ = torch.manual_seed(0)
        >>> model = nn.Sequential(nn.Linear(30, 20), LIF(), nn.Linear(20, 2), LI())
        >>> x = (torch.rand(100, 8, 30) < 0.1).float()
        >>> prime(model, x, [ActivityBound("lower", 2.0, per="population")], epochs=100, seed=0).reached
        True
    """
    if not regularizers:
        raise ValueError("priming needs at least one activity bound: pass some, such as paper_bounds('shd')")
    if epochs < 1 or not 0 < lr < math.inf or not 0 <= tolerance < math.inf:
        raise ValueError(
            "priming needs at least one epoch, a positive lr, and a tolerance of 0 or more, got "
            f"epochs={epochs}, lr={lr}, tolerance={tolerance}"
        )
    if isinstance(batches, Iterator):
        raise ValueError("batches can be read only once: pass a list or a DataLoader, not an iterator")
    inputs: Iterable[Any] = [batches] if isinstance(batches, Tensor | np.ndarray) else batches
    draws = new_generator(seed, None)
    with torch.random.fork_rng(gpus := gpus_of(model)):
        _reseed(draws, gpus)
        if not (first := list(islice(inputs, 1))):
            raise ValueError("there are no batches: pass at least one")
        network = Network.of(model, first[0], forward=forward, time=time, steps=steps, dt=dt, active=True)
        before, gradients = rates(network.spiking, network.spikes()), [(p, p.grad) for p in parameters_of(model)]
        priming = _Priming(network, tuple(regularizers), _optimizer(network, optimizer, lr), tolerance, draws, gpus)
        for rounds in range(epochs + 1):  # the last one only measures
            penalties = priming.epoch(rounds + 1, inputs, learn=rounds < epochs)
            missed = {key: value for key, value in penalties.items() if value > tolerance}
            if not missed:
                break
        for parameter, gradient in gradients:
            parameter.grad = gradient
        report = inspect_network(network)
    worst_last = sorted(missed.items(), key=lambda item: item[1])
    reasons = {name: f"{bound.kind} bound missed, penalty {value:.2g}" for (name, bound), value in worst_last}
    return Refinement(before, reasons, rounds, report)


@dataclass(frozen=True, eq=False)
class _Priming:
    """A network being trained on its bounds."""

    network: Network
    bounds: Sequence[ActivityBound]
    optimizer: torch.optim.Optimizer
    tolerance: float
    draws: torch.Generator
    gpus: Sequence[int]

    def epoch(self, number: int, inputs: Iterable[Any], *, learn: bool) -> Penalties:
        """Largest penalties over the batches; if `learn`, with a step on each batch above the tolerance."""
        worst: Penalties = {}
        _reseed(self.draws, self.gpus)
        for given in inputs:
            batch = given if self.network.time == "own" else alike(given, self.network.batch)
            _check_batch(next(tensors_in(batch), None))
            with self.network.preserved(), torch.set_grad_enabled(learn):
                _reseed(self.draws, self.gpus)
                with recorded(self.network.spiking) as spikes:
                    self.network.forward(self.network.model, batch)
                losses = {(p.name, b): b(spikes[p.name]) for p in self.network.spiking for b in self.bounds}
                loss = torch.stack(list(losses.values())).sum()
                _check_finite("penalty", loss, number)
                penalties = {(name, b): float(x.detach()) / _unit(b) for (name, b), x in losses.items()}
                step = learn and max(penalties.values()) > self.tolerance
                if step:
                    self._differentiate(loss, number)
            if step:
                self.optimizer.step()
                constrain_(self.network.model)
            worst = {key: max(x, worst.get(key, 0.0)) for key, x in penalties.items()}
        return worst

    def _differentiate(self, loss: Tensor, number: int) -> None:
        if not loss.requires_grad:
            raise ValueError(
                "no trainable parameter leads to a spiking population, so none can be primed: unfreeze one"
            )
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for parameter in parameters_of(self.network.model):
            if parameter.grad is not None:
                _check_finite("gradient norm", parameter.grad.norm(), number)


def _optimizer(network: Network, name: str, lr: float) -> torch.optim.Optimizer:
    weights = {q.name for p in network.populations for q in p.pathways}
    neurons: set[nn.Module] = {
        module for p in network.populations for module in modules_of(p.module) if isinstance(module, Neuron)
    }
    neurons |= {p.module for p in network.populations}
    own = {id(parameter) for module in neurons for parameter in parameters_of(module, recurse=False)}
    every = named_parameters_of(network.model)
    trainable = [p for name, p in every if p.requires_grad and (name in weights or id(p) not in own)]
    if not trainable:
        raise ValueError("the model has no trainable parameters, so none can be primed: unfreeze one")
    return make_optimizer(name, trainable, lr)


def _unit(bound: ActivityBound) -> float:
    """The penalty for missing the whole threshold."""
    return bound.strength * bound.threshold**bound.order or 1.0


def _check_batch(x: Tensor | None) -> None:
    if x is not None and not (x.numel() and bool(x.isfinite().all())):
        raise BatchError(f"a batch {[*x.shape]} is empty or has NaN or infinite values: leave it out")


def _check_finite(what: str, value: Tensor, epoch: int) -> None:
    """Stop at once: NaN weights may not show in the spikes, since a NaN potential is not above threshold."""
    if not math.isfinite(number := float(value.detach())):
        raise TrainingDiverged(
            f"priming diverged in epoch {epoch} ({what} {number}): try a smaller lr, and inspect the network before"
        )


def _reseed(draws: torch.Generator, gpus: Sequence[int]) -> None:
    seed_torch(int(torch.randint(2**62, (), generator=draws)), gpus)
