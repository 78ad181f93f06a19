"""Calls that are done as a whole: one at a time, and after an error all is as it was."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fluctua.network.run import TURN, gpus_of, modules_of, parameters_of

_P = ParamSpec("_P")
_R = TypeVar("_R")


def in_turn(call: Callable[_P, _R]) -> Callable[_P, _R]:
    """Of a function of a model: threads take turns, and after an error all generators of random numbers are as before.

    Those are the global ones of torch, NumPy and Python, and any that is given.
    """

    @wraps(call)
    def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        given: tuple[Any, ...] = *args, *kwargs.values()
        with TURN, _undone(_generators(given)):
            return call(*args, **kwargs)

    return wrapped


def all_or_nothing(call: Callable[_P, _R]) -> Callable[_P, _R]:
    """As `in_turn`; and after an error the model, or the weight and bias in its place, are as before, to the bit.

    That is values and gradients of parameters, buffers, and attributes of its modules.
    """

    @in_turn
    @wraps(call)
    def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        model: Any = args[0] if args else kwargs.get("model", kwargs.get("weight"))
        undo = [*_model(model)] if isinstance(model, nn.Module) else [*_values([model, kwargs.get("bias")])]
        with _undone(undo):
            return call(*args, **kwargs)

    return wrapped


Undo = Callable[[], object]


@contextmanager
def _undone(steps: list[Undo]) -> Iterator[None]:
    try:
        yield
    except BaseException:
        for step in steps:
            step()
        raise


def _generators(given: tuple[Any, ...]) -> list[Undo]:
    """How to put back all generators of random numbers."""
    models = [one for one in given if isinstance(one, nn.Module)]
    own = [(one, one.get_state()) for one in given if isinstance(one, torch.Generator)]
    gpus = [(gpu, torch.cuda.get_rng_state(gpu)) for gpu in sorted({gpu for one in models for gpu in gpus_of(one)})]
    torchs, numpys, pythons = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002

    def put_back() -> None:
        for generator, state in own:
            generator.set_state(state)
        for gpu, state in gpus:
            torch.cuda.set_rng_state(state, gpu)
        torch.set_rng_state(torchs)
        np.random.set_state(numpys)  # noqa: NPY002
        random.setstate(pythons)

    return [put_back]


def _values(tensors: list[Any]) -> Iterator[Undo]:
    kept = [(t, t.detach().clone()) for t in tensors if isinstance(t, Tensor) and not is_lazy(t)]

    def put_back() -> None:
        with torch.no_grad():
            for tensor, value in kept:
                tensor.copy_(value)

    yield put_back


def _model(model: nn.Module) -> Iterator[Undo]:
    """How to put back a model: attributes and what lies in them, then values, then gradients."""
    attributes = [vars(module) for module in modules_of(model)]
    inside = [value for found in attributes for value in found.values() if isinstance(value, dict)]
    kept = [(found, dict(found)) for found in (*inside, *attributes)]

    def put_back() -> None:
        for now, before in kept:
            now.clear()
            now.update(before)

    yield put_back
    yield from _values([*parameters_of(model), *nn.Module.buffers(model)])
    gradients = [(p, p.grad, p.requires_grad) for p in parameters_of(model) if not is_lazy(p)]

    def give_back() -> None:
        for parameter, gradient, flag in gradients:
            parameter.grad = gradient
            parameter.requires_grad_(flag)

    yield give_back
