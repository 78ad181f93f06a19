"""Which engine serves which request; the single entry to the time loops.

The loops of the fused engines are derived from a neuron's step: one pass over the data forward, one backward. A loop is
one operation of torch: an autograd function, or operators for `torch.compile` (see `operators.py`).
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter

from fluctua.timeloop import contract
from fluctua.timeloop.contract import Dynamics, Engine, LoopResult, Maybe, Step, Tensors, constant_when_compiled
from fluctua.timeloop.derivation import Device, Kind, Loop, has_potential
from fluctua.timeloop.reference import REFERENCE
from fluctua.timeloop.tracing import untraceable

log = logging.getLogger(__name__)

_wanted: ContextVar[str] = ContextVar("fluctua_engine", default="auto")


@contextmanager
def engine(name: str) -> Iterator[None]:
    """Run the time loops inside the `with` block on one engine.

    "auto" is the fastest that fits, of "cpu", "gpu" and "reference". "cpu-bfloat16" keeps less for backward than "cpu",
    at a price in exactness (see `FusedEngine`). A fused engine that cannot serve a request falls back to the
    reference, and a log line says why. Code of `torch.compile` keeps the engine that was wanted when it was compiled.

    >>> from fluctua.neurons import LI
    >>> with engine("reference"):
    ...     LI(tau_mem=4e-3, tau_syn=None)(torch.ones(3, 1, 1)).flatten()
    tensor([0.0000, 1.0000, 1.6065])
    """
    if name != "auto" and name not in _ENGINES:
        raise ValueError(f"unknown engine {name!r}: choose 'auto' or one of {sorted(_ENGINES)}")
    token = _wanted.set(name)
    try:
        yield
    finally:
        _wanted.reset(token)


def integrate(inputs: Tensors, dynamics: Dynamics, state: Tensors) -> LoopResult:
    """Integrate input currents, each `[T, B, *N]`, over all time steps of any neuron, from `state` on.

    Half precision input is integrated in float32 and the output returned in the input's type.

    Raises:
        ValueError: fewer than two axes, no time step, an integer current, currents of different shapes, or `torch.vmap`
            over neurons that spike.
    """
    for current in inputs:
        _check(current)
        if current.shape != inputs[0].shape:
            raise ValueError(
                f"the currents of a population have one shape, got {[tuple(current.shape) for current in inputs]}"
            )
    if any(part.shape != inputs[0].shape[1:] for part in state):
        raise ValueError(
            f"a state has the shape of one step of the current, {tuple(inputs[0].shape[1:])}, got "
            f"{[tuple(part.shape) for part in state]}"
        )
    if dynamics.spiking and any(_is_mapped(tensor) for tensor in (*inputs, *state)):
        raise ValueError("torch.vmap cannot map over spiking neurons: make the mapped axis part of the batch axis")
    wide = tuple(widened(current) for current in inputs)
    dynamics, state = dynamics.to(wide[0]), tuple(part.to(wide[0]) for part in state)
    result = _in_order_of_memory(wide, dynamics, state)
    return result._replace(output=result.output.to(inputs[0].dtype))


def _in_order_of_memory(inputs: Tensors, dynamics: Dynamics, state: Tensors) -> LoopResult:
    """The loop with the axes of neurons, alike to it, as they lie in memory: the channels of maps may come last."""
    if any(is_special(part) for part in state):
        return REFERENCE.run(inputs, dynamics, state)
    first, axes, strides = inputs[0], range(inputs[0].ndim), inputs[0].stride()
    order = [0, 1, *sorted(axes[2:], key=lambda axis: -strides[axis])]
    if first.is_contiguous() or order == [*axes] or not first[0].permute([k - 1 for k in order[1:]]).is_contiguous():
        return choose(inputs, dynamics).run(inputs, dynamics, state)
    back = sorted(axes, key=order.__getitem__)

    def turned(parts: Tensors, to: list[int], leading: int = 0) -> Tensors:
        return tuple(part.permute([axis - leading for axis in to[leading:]]) for part in parts)

    def of_neurons(constant: Tensor) -> Tensor:
        return turned((constant.expand(first.shape[2:]),), order, 2)[0] if constant.numel() > 1 else constant

    inputs, state = turned(inputs, order), turned(state, order, 1)
    dynamics = replace(dynamics, constants=tuple(map(of_neurons, dynamics.constants)))
    result = choose(inputs, dynamics).run(inputs, dynamics, state)
    output, potential = turned((result.output, result.potential), back)
    return LoopResult(output, potential, turned(result.state, back, 1))


def step_by_step(dynamics: Dynamics) -> Callable[[Tensors, Tensors], tuple[Tensor, Tensors]]:
    """One step at a time, for networks that feed output back within the step.

    Returns:
        A function `(inputs, each [B, *N], state) -> (output, next state)`. Called T times in turn it gives exactly what
        `integrate` gives for T steps, and has the same gradients. It spares the checks.
    """
    converted: tuple[object, Dynamics] | None = None

    def advance(inputs: Tensors, state: Tensors) -> tuple[Tensor, Tensors]:
        nonlocal converted
        wide = tuple(widened(current) for current in inputs)
        like = wide[0].dtype, wide[0].device, torch.is_grad_enabled()
        if converted is None or converted[0] != like:
            converted = like, dynamics.to(wide[0])
        output, state = contract.step_of(converted[1].step)(wide, state, converted[1].constants)
        return output.to(inputs[0].dtype), state

    return advance


def widened(current: Tensor) -> Tensor:
    """The current itself, or in float32 where it comes in half precision: nothing is integrated in less."""
    return current.float() if current.dtype in (torch.float16, torch.bfloat16) else current


def wants(name: str) -> bool:
    """Whether an engine may serve, for all that is asked for."""
    return _wanted.get() in ("auto", name)


def choose(inputs: Tensors, dynamics: Dynamics, neurons: torch.Size | None = None) -> Engine:
    """The engine that serves this request: the wanted one, or the first that supports it.

    `neurons` is the shape of the population, by default that of the inputs.
    """
    chosen = wanted()
    for name in _ENGINES if chosen == "auto" else (chosen, "reference"):
        candidate = _ENGINES[name]
        reason = candidate.unsupported(inputs, dynamics, neurons)
        if reason is None:
            return candidate
        if not torch.compiler.is_compiling():
            log.info("engine %r falls back: %s", name, reason)
    raise AssertionError("the reference engine serves every request")


@constant_when_compiled
def wanted() -> str:
    """The name of the engine that `engine` chose here."""
    return _wanted.get()


def _is_mapped(tensor: Tensor) -> bool:
    """Whether `torch.vmap` is at work, under `torch.func.grad` too."""
    if torch.compiler.is_compiling():
        return False
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(tensor):
        if functorch.is_batchedtensor(tensor):
            return True
        tensor = functorch.get_unwrapped(tensor)
    return False


def _check(current: Tensor) -> None:
    if current.ndim < 2 or current.shape[0] == 0:
        raise ValueError(
            f"a time loop takes a current [T, B, ...] with T >= 1 steps, got the shape {tuple(current.shape)}"
        )
    if not current.is_floating_point():
        raise ValueError(f"a time loop takes a floating-point current, got {current.dtype}: call .float() on it")


@dataclass(frozen=True)
class FusedEngine:
    """Serves float32 and float64 on a device, for every neuron that can be traced; see `unsupported`.

    On the CPU neurons and samples are split over threads. The GPU's kernels use Triton; under its interpreter (the
    variable TRITON_INTERPRET=1 in the environment) they take CPU tensors too, slowly: that is how they are tested.

    Attributes:
        name: for choosing it.
        device: where it runs.
        compact: whether the potential of spiking neurons is kept for backward in bfloat16, as its distance from
            threshold: half the memory. Spikes are the same. A distance is off by up to 2^-8 of itself, so the surrogate
            of SuperSpike by up to 2^-7 of itself, and gradients by less than one percent of the largest.
    """

    name: str
    device: Device
    compact: bool = False

    def unsupported(self, inputs: Tensors, dynamics: Dynamics, neurons: torch.Size | None = None) -> str | None:
        """See `Engine.unsupported`."""
        first, *others = (t.device for t in (*inputs, *dynamics.constants))
        if self.device == "gpu":
            if first.type != "cuda" and not contract.interpreted():
                return f"it takes CUDA tensors, not one on {first}"
            if not has_triton():
                return "triton is not installed: pip install 'fluctua[gpu]'"
            if any(device != first for device in others):
                return f"a constant is not on the current's device {first}"
        elif elsewhere := [device for device in (first, *others) if device.type != "cpu"]:
            return f"it takes CPU tensors, not one on {elsewhere[0]}"
        return _unsupported_numbers(inputs, dynamics, neurons)

    def run(self, inputs: Tensors, dynamics: Dynamics, state: Tensors) -> LoopResult:
        """See `Engine.run`."""
        return _run(inputs, dynamics, state, self.device, self.compact)


CPU, COMPACT_CPU, GPU = FusedEngine("cpu", "cpu"), FusedEngine("cpu-bfloat16", "cpu", True), FusedEngine("gpu", "gpu")

_ENGINES: dict[str, Engine] = {one.name: one for one in (CPU, COMPACT_CPU, GPU, REFERENCE)}

_found = cache(find_spec)


@constant_when_compiled
def has_triton() -> bool:
    """Whether Triton is installed; asked for once."""
    return _found("triton") is not None


def recurrent(
    x: Tensor, dynamics: Dynamics, state: Tensors, weight: Tensor, bias: Maybe, split: int | None = None
) -> LoopResult:
    """Integrate recurrent neurons on the GPU, with spikes one step late; the engine must support the request.

    Args:
        x: current from outside `[T, B, N]`, or that of maps `[T, B, C, *N]`, not empty.
        dynamics: of spiking neurons; current and bias go to their first input.
        state: before the first step.
        weight: `[N, N]`; row n has the weights into neuron n, from the second step on. Of maps `[C, C, *K]`, that of a
            convolution which keeps their shape.
        bias: `[N]`, added from the second step on, or None.
        split: the spikes of units before it reach the first input, those of the others the last; all by default.
    """
    inputs = x, *(torch.zeros_like(x) for _ in range(dynamics.inputs - 1))
    split = x.shape[2:].numel() if split is None else split
    return _run(inputs, dynamics, state, "gpu", heard=(weight, bias), split=split)


def _run(
    inputs: Tensors,
    dynamics: Dynamics,
    state: Tensors,
    device: Device,
    compact: bool = False,
    heard: tuple[Maybe, ...] = (),
    split: int = 0,
) -> LoopResult:
    tensors = *inputs, *state, *dynamics.constants, *heard
    trains = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    kind = Kind.of(device, dynamics, trains, compact, split)
    results: Sequence[Tensor]
    if torch.compiler.is_compiling():
        from fluctua.timeloop.operators import compiled  # defining operators takes a moment

        results = compiled(tensors, kind)  # type: ignore[arg-type]
    else:
        loop = Loop(kind, inputs[0].shape)
        results = contract.apply(loop, tensors) if trains else loop.forth(tensors)
    output, *others = results
    potential = others.pop(0) if has_potential(*dynamics.form) else output
    return LoopResult(output, potential, tuple(others[: dynamics.states]))


def _unsupported_numbers(inputs: Tensors, dynamics: Dynamics, neurons: torch.Size | None) -> str | None:
    """Why an engine with loops in float32 and float64 does not support a request, or None if it does.

    Args:
        inputs: each `[T, B, *N]`.
        dynamics: of the population.
        neurons: its shape, by default that of the inputs.
    """
    if not torch.compiler.is_compiling() and torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call]
        return "torch.jit traces the network, and sees only plain operations"
    if torch.compiler.is_exporting():
        return "torch.export writes plain operations, which any program can run"
    current = inputs[0]
    neurons = current.shape[2:] if neurons is None else neurons
    if any(is_special(tensor) for tensor in (*inputs, *dynamics.constants)):
        return "it takes plain tensors, not subclasses, sparse or dual tensors, nor those of torch.func"
    if current.dtype not in (torch.float32, torch.float64):
        return f"it computes in float32 and float64, not {current.dtype}"
    if any(t.dtype != current.dtype for t in (*inputs, *dynamics.constants)):
        return f"a constant is not of the current's type {current.dtype}"
    if not all(_broadcasts(c.shape, neurons) for c in dynamics.constants):
        return f"a constant does not broadcast to the population's shape {tuple(neurons)}"
    return _untraceable(*dynamics.form)


@constant_when_compiled
def _untraceable(step: Step | str, inputs: int, states: int, constants: int) -> str | None:
    return untraceable(step, inputs, states, constants)


def is_special(tensor: Tensor) -> bool:
    """Whether a tensor is more than numbers in memory: a subclass, sparse, dual, or inside a transformation."""
    if torch.compiler.is_compiling():
        return tensor.layout != torch.strided
    return (
        type(tensor) not in (Tensor, Parameter)
        or tensor.layout != torch.strided
        or torch._C._functorch.is_functorch_wrapped_tensor(tensor)
        or forward_ad.unpack_dual(tensor).tangent is not None  # type: ignore[no-untyped-call]
    )


def _broadcasts(shape: torch.Size, to: torch.Size) -> bool:
    return len(shape) <= len(to) and all(m in (1, n) for m, n in zip(reversed(shape), reversed(to), strict=False))


@dataclass(frozen=True)
class _Filter:
    """One step of a linear system, whose response is a neuron's free potential.

    Attributes:
        rows: for each part of the state after a step the columns that it takes, in the order in which they are added.
        output: those of the response, or the part of the state that it is.
    """

    rows: tuple[tuple[int, ...], ...]
    output: tuple[int, ...] | int

    def __call__(self, inputs: Tensors, state: Tensors, constants: Tensors) -> tuple[Tensor, Tensors]:
        given, numbers = (*state, *inputs), iter(constants)

        def added(columns: tuple[int, ...]) -> Tensor:
            parts = [next(numbers) * given[k] for k in columns]
            return sum(parts[1:], parts[0]) if parts else torch.zeros_like(given[0])

        after = tuple(added(columns) for columns in self.rows)
        return after[self.output] if isinstance(self.output, int) else added(self.output), after


def filtered(x: Tensor, system: NDArray[np.float64], delay: int) -> Tensor:
    """The response to an input `[T, ...]` of a linear system, as `PspKernel.system` gives it, from rest."""
    u = torch.empty_like(x)
    u[:delay] = 0
    if delay >= len(x):
        return u
    first, *others = np.moveaxis(system, -2, 0)
    if not others:  # without memory
        u[delay:] = x[: len(x) - delay] * torch.as_tensor(first[..., 0]).to(x)
        return u
    same = next((k for k, row in enumerate(others) if np.array_equal(row, first)), None)
    size, taken, numbers = len(others), list[tuple[int, ...]](), list[NDArray[np.float64]]()
    for k, row in enumerate(others if same is not None else [*others, first]):
        order = sorted(range(size + 1), key=lambda j, k=k: (j != k, j != size, j))  # type: ignore[misc]
        taken.append(tuple(j for j in order if row[..., j].any()))
        numbers += [row[..., j] for j in taken[-1]]
    step = _Filter(tuple(taken[:size]), taken[size] if same is None else same)
    constants = tuple(torch.as_tensor(np.ascontiguousarray(number)).to(x) for number in numbers)
    dynamics = Dynamics(step, constants, size, spiking=False)
    u[delay:] = integrate((x[: len(x) - delay],), dynamics, (torch.zeros_like(x[0]),) * size).output
    return u
