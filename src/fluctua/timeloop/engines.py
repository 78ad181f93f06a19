"""Which engine serves which request; the one door to the time loops."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from functools import cache
from importlib import import_module

import torch
from torch import Tensor

from fluctua.timeloop.contract import Engine, LoopParameters, LoopResult, State

log = logging.getLogger(__name__)

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
    wide = current.float() if current.dtype in (torch.float16, torch.bfloat16) else current
    parameters = _matching(parameters, wide)
    if state is None:
        rest = wide.new_zeros(wide.shape[1:])
        state = State(rest, rest)
    elif any(tensor.shape != wide.shape[1:] for tensor in state):
        shapes = [tuple(tensor.shape) for tensor in state]
        raise ValueError(f"a state has the shape of one step of the current, {tuple(wide.shape[1:])}, got {shapes}")
    else:
        state = State(*(tensor.to(wide) for tensor in state))
    result = choose(wide, parameters).run(wide, parameters, state)
    if wide.dtype != current.dtype:
        result = result._replace(output=result.output.to(current.dtype))
    return result


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
    decay_syn = p.decay_syn if p.decay_syn is None else p.decay_syn.to(current)
    threshold = p.threshold if p.threshold is None else p.threshold.to(current)
    return replace(p, decay_mem=p.decay_mem.to(current), decay_syn=decay_syn, threshold=threshold)


def _check(current: Tensor) -> None:
    if current.ndim < 2 or current.shape[0] == 0:
        raise ValueError(
            f"a time loop takes a current [T, B, ...] with T >= 1 steps, got the shape {tuple(current.shape)}"
        )
    if not current.is_floating_point():
        raise ValueError(f"a time loop takes a floating-point current, got {current.dtype}: call .float() on it")
