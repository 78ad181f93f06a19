"""Which engine serves which request; the one door to the time loops."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from functools import cache
from importlib import import_module

import torch
from torch import Tensor

from fluctua.timeloop.contract import Adaptation, Engine, LoopParameters, LoopResult, State
from fluctua.timeloop.reference import step

log = logging.getLogger(__name__)

Stepper = Callable[[Tensor, State], tuple[Tensor, State]]

# An engine is imported when it is first needed: numba alone takes half a second.
_ENGINES = {
    "cpu": ("fluctua.timeloop.cpu", "CpuEngine"),
    "reference": ("fluctua.timeloop.reference", "ReferenceEngine"),
}
_wanted: ContextVar[str] = ContextVar("fluctua_engine", default="auto")


@contextmanager
def engine(name: str) -> Iterator[None]:
    """Run the time loops inside the `with` block on one engine: "auto" (the fastest that fits), "cpu", "reference".

    A fused engine that cannot serve a request steps aside for the reference, and a log line says why.
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
        ValueError: fewer than two axes, no time step, an integer current, or a state of another shape.
    """
    _check(current)
    wide = widened(current)
    parameters = _matching(parameters, wide)
    state = _at_rest(wide, parameters) if state is None else _checked(state, wide, parameters)
    result = choose(wide, parameters).run(wide, parameters, state)
    return result._replace(output=result.output.to(current.dtype))


def stepper(parameters: LoopParameters) -> Stepper:
    """One step at a time, for networks that feed output back within the step.

    Returns:
        A function `(current [B, *N], state) -> (output [B, *N], next state)`. Called T times in turn it gives exactly
        what `run` gives for T steps, and has the same gradients. It spares the checks of `run`.
    """
    matching: LoopParameters | None = None

    def advance(current: Tensor, state: State) -> tuple[Tensor, State]:
        nonlocal matching
        wide = widened(current)
        if matching is None or matching.decay_mem.dtype != wide.dtype or matching.decay_mem.device != wide.device:
            matching = _matching(parameters, wide)
        output, _, state = step(wide, matching, state)
        return output.to(current.dtype), state

    return advance


def widened(current: Tensor) -> Tensor:
    """The current itself, or in float32 where it comes in half precision: nothing is integrated in less."""
    return current.float() if current.dtype in (torch.float16, torch.bfloat16) else current


def choose(current: Tensor, parameters: LoopParameters) -> Engine:
    """The engine that serves this request: the wanted one, or the first that does not refuse."""
    wanted = _wanted.get()
    for name in _ENGINES if wanted == "auto" else (wanted, "reference"):
        candidate = _load(name)
        reason = candidate.refusal(current, parameters)
        if reason is None:
            return candidate
        log.info("engine %r steps aside: %s", name, reason)
    raise AssertionError("the reference engine serves every request")


@cache
def _load(name: str) -> Engine:
    module, attribute = _ENGINES[name]
    loaded: Engine = getattr(import_module(module), attribute)()
    return loaded


def _matching(p: LoopParameters, current: Tensor) -> LoopParameters:
    """The constants in the current's type and on its device, so that no engine has to think of it."""

    def like(constant: Tensor | None) -> Tensor | None:
        return None if constant is None else constant.to(current)

    q = p.adaptation
    return replace(
        p,
        decay_mem=p.decay_mem.to(current),
        decay_syn=like(p.decay_syn),
        threshold=like(p.threshold),
        adaptation=None if q is None else Adaptation(q.decay.to(current), q.strength.to(current), like(q.coupling)),
    )


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


def _check(current: Tensor) -> None:
    if current.ndim < 2 or current.shape[0] == 0:
        raise ValueError(
            f"a time loop takes a current [T, B, ...] with T >= 1 steps, got the shape {tuple(current.shape)}"
        )
    if not current.is_floating_point():
        raise ValueError(f"a time loop takes a floating-point current, got {current.dtype}: call .float() on it")
