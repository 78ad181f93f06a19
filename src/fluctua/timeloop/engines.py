"""Which engine serves which request; the single entry to the time loops."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from importlib import import_module

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fluctua.timeloop.contract import Dynamics, Engine, LoopResult, Tensors, constant_when_compiled, step_of

log = logging.getLogger(__name__)

# An engine is imported when first needed: numba alone takes half a second.
_ENGINES = {
    "cpu": ("fluctua.timeloop.fused", "CPU"),
    "cpu-bfloat16": ("fluctua.timeloop.fused", "COMPACT_CPU"),
    "gpu": ("fluctua.timeloop.fused", "GPU"),
    "reference": ("fluctua.timeloop.reference", "REFERENCE"),
}
_loaded: dict[str, Engine] = {}
_wanted: ContextVar[str] = ContextVar("fluctua_engine", default="auto")


@contextmanager
def engine(name: str) -> Iterator[None]:
    """Run the time loops inside the `with` block on one engine.

    "auto" is the fastest that fits, of "cpu", "gpu" and "reference". "cpu-bfloat16" keeps less for backward than "cpu",
    at a price in exactness (see `fused.FusedEngine`). A fused engine that cannot serve a request falls back to the
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
    if dynamics.spiking and any(_is_mapped(current) for current in inputs):
        raise ValueError("torch.vmap cannot map over spiking neurons: make the mapped axis part of the batch axis")
    wide = tuple(widened(current) for current in inputs)
    dynamics, state = dynamics.to(wide[0]), tuple(part.to(wide[0]) for part in state)
    result = _in_order_of_memory(wide, dynamics, state)
    return result._replace(output=result.output.to(inputs[0].dtype))


def _in_order_of_memory(inputs: Tensors, dynamics: Dynamics, state: Tensors) -> LoopResult:
    """The loop with the axes of neurons, alike to it, as they lie in memory: the channels of maps may come last."""
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
    converted: Dynamics | None = None

    def advance(inputs: Tensors, state: Tensors) -> tuple[Tensor, Tensors]:
        nonlocal converted
        wide = tuple(widened(current) for current in inputs)
        like = (wide[0].dtype, wide[0].device)
        if converted is None or (converted.constants[0].dtype, converted.constants[0].device) != like:
            converted = dynamics.to(wide[0])
        output, state = step_of(converted.step)(wide, state, converted.constants)
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
    wanted = _wanted_name()
    for name in _ENGINES if wanted == "auto" else (wanted, "reference"):
        candidate = _load(name)
        reason = candidate.unsupported(inputs, dynamics, neurons)
        if reason is None:
            return candidate
        if not torch.compiler.is_compiling():
            log.info("engine %r falls back: %s", name, reason)
    raise AssertionError("the reference engine serves every request")


@constant_when_compiled
def _wanted_name() -> str:
    return _wanted.get()


def _load(name: str) -> Engine:
    _import(name)
    return _loaded[name]


@constant_when_compiled
def _import(name: str) -> None:
    if name not in _loaded:
        module, attribute = _ENGINES[name]
        _loaded[name] = getattr(import_module(module), attribute)


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
    u = torch.zeros_like(x)
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
