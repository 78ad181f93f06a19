"""Which engine serves which request; the one door to the time loops."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from typing import Any, TypeVar

import torch
from torch import Tensor

from fluctua.timeloop.contract import Engine, LoopParameters, LoopResult, State
from fluctua.timeloop.reference import step

log = logging.getLogger(__name__)

Stepper = Callable[[Tensor, State], tuple[Tensor, State]]
Function = TypeVar("Function", bound=Callable[..., Any])

# An engine is imported when it is first needed: numba alone takes half a second.
_ENGINES = {
    "cpu": ("fluctua.timeloop.cpu", "CpuEngine"),
    "cpu-bfloat16": ("fluctua.timeloop.cpu", "CompactCpuEngine"),
    "gpu": ("fluctua.timeloop.gpu", "GpuEngine"),
    "reference": ("fluctua.timeloop.reference", "ReferenceEngine"),
}
_loaded: dict[str, Engine] = {}
_wanted: ContextVar[str] = ContextVar("fluctua_engine", default="auto")


@contextmanager
def engine(name: str) -> Iterator[None]:
    """Run the time loops inside the `with` block on one engine.

    "auto" is the fastest that fits, of "cpu", "gpu" and "reference". "cpu-bfloat16" keeps less for backward than "cpu",
    at a price in exactness (see `CompactCpuEngine`). A fused engine that cannot serve a request falls back to the
    reference, and a log line says why. Code of `torch.compile` keeps the engine that was wanted when it was compiled.

    >>> p = LoopParameters(decay_mem=torch.tensor(0.5), decay_syn=None)
    >>> with engine("reference"):
    ...     run(torch.ones(3, 1, 1), p).output.flatten()
    tensor([0.0000, 1.0000, 1.5000])
    """
    if name != "auto" and name not in _ENGINES:
        raise ValueError(f"unknown engine {name!r}: choose 'auto' or one of {sorted(_ENGINES)}")
    token = _wanted.set(name)
    try:
        yield
    finally:
        _wanted.reset(token)


def run(current: Tensor, parameters: LoopParameters, state: State | None = None) -> LoopResult:
    """Integrate an input current `[T, B, *N]` over all time steps, from `state` (default: rest, zero) on.

    Half precision input is integrated in float32 and the output returned in the input's type.

    Raises:
        ValueError: fewer than two axes, no time step, an integer current, a state of another shape, or `torch.vmap`
            over neurons that spike.
    """
    _check(current)
    if parameters.spiking and _is_mapped(current):
        raise ValueError("torch.vmap cannot map over spiking neurons: make the mapped axis part of the batch axis")
    wide = widened(current)
    parameters = parameters.to(wide)
    state = _at_rest(wide, parameters) if state is None else _checked(state, wide, parameters)
    result = choose(wide, parameters).run(wide, parameters, state)
    return result._replace(output=result.output.to(current.dtype))


def stepper(parameters: LoopParameters) -> Stepper:
    """One step at a time, for networks that feed output back within the step.

    Returns:
        A function `(current [B, *N], state) -> (output [B, *N], next state)`. Called T times in turn it gives exactly
        what `run` gives for T steps, and has the same gradients. It spares the checks of `run`.
    """
    converted: LoopParameters | None = None

    def advance(current: Tensor, state: State) -> tuple[Tensor, State]:
        nonlocal converted
        wide = widened(current)
        if converted is None or converted.decay_mem.dtype != wide.dtype or converted.decay_mem.device != wide.device:
            converted = parameters.to(wide)
        output, _, state = step(wide, converted, state)
        return output.to(current.dtype), state

    return advance


def widened(current: Tensor) -> Tensor:
    """The current itself, or in float32 where it comes in half precision: nothing is integrated in less."""
    return current.float() if current.dtype in (torch.float16, torch.bfloat16) else current


def choose(current: Tensor, parameters: LoopParameters) -> Engine:
    """The engine that serves this request: the wanted one, or the first that supports it."""
    wanted = _wanted_name()
    for name in _ENGINES if wanted == "auto" else (wanted, "reference"):
        candidate = _load(name)
        reason = candidate.unsupported(current, parameters)
        if reason is None:
            return candidate
        if not torch.compiler.is_compiling():
            log.info("engine %r falls back: %s", name, reason)
    raise AssertionError("the reference engine serves every request")


def _constant_when_compiled(function: Function) -> Function:
    """Let `torch.compile` call the function when it compiles and take the result for a constant."""
    # What `torch.compiler.assume_constant_result` does, which would import the whole compiler here.
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@_constant_when_compiled
def _wanted_name() -> str:
    return _wanted.get()


def _load(name: str) -> Engine:
    _import(name)
    return _loaded[name]


@_constant_when_compiled
def _import(name: str) -> None:
    if name not in _loaded:
        module, attribute = _ENGINES[name]
        _loaded[name] = getattr(import_module(module), attribute)()


def _at_rest(current: Tensor, p: LoopParameters) -> State:
    rest = current.new_zeros(current.shape[1:])
    return State(rest, rest, None if p.adaptation is None else rest)


def _checked(state: State, current: Tensor, p: LoopParameters) -> State:
    """The state in the current's type, without an adaptation that the population does not have."""
    parts = state[:2] if p.adaptation is None else state
    if any(part is None or part.shape != current.shape[1:] for part in parts):
        names = ", ".join(State._fields[: len(parts)])
        shapes = [None if part is None else tuple(part.shape) for part in parts]
        raise ValueError(
            f"a state ({names}) has the shape of one step of the current, {tuple(current.shape[1:])}, got {shapes}"
        )
    return State(*(part.to(current) for part in parts if part is not None))


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
