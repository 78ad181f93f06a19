"""Leave a model as it was: by passes that only look at it, and by calls that fail.

Passes run on copies of everything that modules keep besides parameters, while user hooks that only observe are silent.
A call that changes a model is done completely, one at a time, or not at all.
"""

import copy
import os
import random
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from operator import is_
from threading import RLock
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import module as of_all
from torch.nn.parameter import is_lazy

from fluctua.network.run import Copies, mapped, memory_of, modules_of, parameters_of, within

_P = ParamSpec("_P")
_R = TypeVar("_R")

# What torch keeps in a module besides state: hooks must stay, parameters are handled below.
_MACHINERY = frozenset(name for name in vars(nn.Module()) if "hooks" in name) | {"_parameters"}


TURN = RLock()
"""Held by the active thread: random number generators belong to the whole process, hooks to a model."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=TURN.acquire, after_in_parent=TURN.release, after_in_child=TURN.release)


def _as_it_is(module: nn.Module) -> None:
    """For a model whose modules torch's hooks all see."""


@contextmanager
def preserved(model: nn.Module, prepare: Callable[[nn.Module], None] = _as_it_is) -> Iterator[None]:
    """Leave everything as it was, except the values of parameters.

    Inside the block the modules have copies of their buffers (batch-norm statistics, states of neurons) and plain
    attributes; at its end they get back the untouched originals, and the parameters that were replaced.
    `requires_grad` and torch's random number generators are restored. Compiled modules run uncompiled, since hooks must
    see what happens inside. The user's own hooks are silent, unless they are part of the network: see `silent_hooks`.

    Args:
        model: any model.
        prepare: makes modules observable that torch's hooks do not see; undone at the end.
    """
    flags = [(p, p.requires_grad) for p in parameters_of(model)]
    compiled = [m for m in modules_of(model) if isinstance(m, torch.jit.ScriptModule)]
    held = [(m._parameters, dict(m._parameters)) for m in modules_of(model) if m not in compiled]
    put_back = _values([b for m in compiled for b in nn.Module.buffers(m, False)])  # which no copies replace
    with TURN, torch.random.fork_rng(gpus_of(model)), silent_hooks(model):
        try:
            with States(model, prepare).lent():
                yield
        finally:
            put_back()
            for parameters, originals in held:
                parameters.update(originals)
            for parameter, flag in flags:
                parameter.requires_grad_(flag)


@contextmanager
def in_double(module: nn.Module) -> Iterator[None]:
    """Inside the block everything floating-point in a module is float64; afterwards it is as it was."""
    with preserved(module):
        for m in modules_of(module):
            for name, value in list(vars(m).items()):
                if name != "_modules" and type(value) in (Tensor, tuple, list, dict) and "hooks" not in name:
                    vars(m)[name] = value if name == "_parameters" else mapped(value, _double)
            for name, p in m._parameters.items():
                if p is not None and p.is_floating_point():
                    m._parameters[name] = nn.Parameter(p.detach().double(), requires_grad=False)
        yield


def _double(x: Tensor) -> Tensor:
    return x.double() if x.is_floating_point() and not isinstance(x, nn.Parameter) else x


class States:
    """What the modules of a model keep besides parameters, and the copies on which passes run.

    The copies are made once and refreshed before each pass, so that many passes cost little. Between passes nobody else
    may change what the modules keep.

    Args:
        model: any model.
        prepare: see `preserved`.
    """

    def __init__(self, model: nn.Module, prepare: Callable[[nn.Module], None] = _as_it_is) -> None:
        self._model, self._prepare = model, prepare
        self._modules = list(modules_of(model))
        self._twins: list[dict[str, Any]] = []
        self._pairs: dict[int, tuple[Any, Any, list[tuple[Any, Any]]]] = {}  # copies, originals, where the copies are

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Inside the block the modules have the copies."""
        originals = [state_of(module) for module in self._modules]
        if not (self._twins and self._restored()):
            self._copy(originals)
        try:
            self._give(self._twins)
            yield
        finally:
            self._give(originals)

    def _copy(self, originals: list[dict[str, Any]]) -> None:
        copies = Copies(self._model)
        try:
            self._give(copies.of(originals))
            for module in self._modules:
                _run_as_written(module)
                self._prepare(module)
            self._twins = [state_of(module) for module in self._modules]
        finally:
            self._give(originals)
        containers = (c for c in within(self._twins, set()) if isinstance(c, dict | list | deque | set))
        self._within = [(c, copy.copy(c)) for c in containers]
        self._pairs = {id(new): (new, old, []) for new, old in copies.pairs}
        memories = Counter(memory_of(new) for new, _ in copies.pairs if isinstance(new, Tensor))
        for c, then in self._within:
            for key, item in c.items() if isinstance(c, dict) else enumerate(c) if isinstance(c, list) else ():
                if isinstance(item, Tensor) and memories[memory_of(item)] == 1 and id(item) in self._pairs:
                    self._pairs[id(item)][2].extend(((c, key), (then, key)))

    def _restored(self) -> bool:
        """Refresh the copies from the originals; False if all must be made anew.

        Objects changed in place are replaced, since somebody may have kept them.
        """
        for container, then in self._within:
            if not _holds(container, then):
                container.clear()
                (container.update if isinstance(container, dict | set) else container.extend)(then)
        for new, old, places in [*self._pairs.values()]:
            if isinstance(new, Tensor) and new.shape == old.shape and torch.equal(new, old) and not new.requires_grad:
                continue
            if not places:
                return False
            fresh = old.detach().clone()
            for container, key in places:
                container[key] = fresh
            del self._pairs[id(new)]
            self._pairs[id(fresh)] = fresh, old, places
        return True

    def _give(self, states: list[dict[str, Any]]) -> None:
        for module, state in zip(self._modules, states, strict=True):
            attributes = vars(module)
            for name in attributes.keys() - state.keys() - _MACHINERY:
                del attributes[name]
            attributes.update(state)


def _holds(container: Any, then: Any) -> bool:
    """Whether a container holds exactly what it held."""
    if len(container) != len(then):
        return False
    if isinstance(container, dict):
        return all(map(is_, container.values(), then.values())) and list(container) == list(then)
    return container == then if isinstance(container, set) else all(map(is_, container, then))


def gpus_of(model: nn.Module) -> list[int]:
    """The CUDA devices that its parameters lie on."""
    return sorted({p.device.index for p in parameters_of(model) if p.is_cuda})


@contextmanager
def only_requiring_grad(parameters: Iterable[nn.Parameter], tensors: list[Tensor] | None) -> Iterator[None]:
    """Inside the block exactly these parameters require gradients (None: all floating-point ones)."""
    flags = [(p, p.requires_grad) for p in parameters]
    wanted = None if tensors is None else {id(t) for t in tensors}
    try:
        for p, _ in flags:
            p.requires_grad_(p.is_floating_point() and (wanted is None or id(p) in wanted))
        with torch.enable_grad():
            yield
    finally:
        for p, flag in flags:
            p.requires_grad_(flag)


def state_of(module: nn.Module) -> dict[str, Any]:
    """What a module itself keeps, except hooks and parameters."""
    return {name: value for name, value in vars(module).items() if name not in _MACHINERY}


def _run_as_written(module: nn.Module) -> None:
    vars(module).pop("_compiled_call_impl", None)  # of `module.compile()`
    if "_orig_mod" in module._modules:  # of `torch.compile(module)`
        vars(module)["forward"] = module._orig_mod


@contextmanager
def as_written(model: nn.Module) -> Iterator[None]:
    """Inside the block compiled modules run uncompiled."""
    compiled = [m for m in modules_of(model) if m._compiled_call_impl is not None or "_orig_mod" in m._modules]
    names: list[str] = ["_compiled_call_impl", "forward"]
    before = [{name: vars(m)[name] for name in names if name in vars(m)} for m in compiled]
    try:
        for module in compiled:
            _run_as_written(module)
        yield
    finally:
        for module, own in zip(compiled, before, strict=True):
            vars(module).pop("forward", None)
            vars(module).update(own)


# -- hooks of the user's own -----------------------------------------------------------------------------------------

_KINDS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


def silent_hooks(model: nn.Module) -> AbstractContextManager[None]:
    """Inside the block, hooks that only observe are not called."""
    tables = [getattr(m, kind) for m in nn.Module.modules(model) for kind in _KINDS]
    tables += [getattr(of_all, f"_global{kind}") for kind in _KINDS]
    tables += [p._backward_hooks for p in nn.Module.parameters(model)]
    return _without([(table, {key for key, hook in table.items() if not _acts(hook)}) for table in tables if table])


def silent_gradients(model: nn.Module) -> AbstractContextManager[None]:
    """Inside the block no hook changes gradients of parameters, for example by clipping."""
    tables: list[Any] = [p._backward_hooks for p in nn.Module.parameters(model) if p._backward_hooks]
    return _without([(table, set(table)) for table in tables])


@contextmanager
def _without(silent: list[tuple[dict[Any, Any], set[Any]]]) -> Iterator[None]:
    before = [dict(table) for table, _ in silent]
    for table, keys in silent:
        for key in keys:
            del table[key]
    try:
        yield
    finally:
        for (table, keys), hooks in zip(silent, before, strict=True):
            now = dict(table)
            table.clear()  # else the silent ones would move to the end
            table.update({key: hook for key, hook in hooks.items() if key in keys or key in now} | now)


def _acts(hook: Any) -> bool:
    """Whether a hook is part of the network, rather than only observing."""
    from fluctua.network.hooks import acts  # most models have none

    return acts(hook)


def in_turn(call: Callable[_P, _R]) -> Callable[_P, _R]:
    """Decorate a function of a model: threads take turns, and an error restores all random number generators.

    Those are the global ones of torch, NumPy and Python, and any that is given.
    """

    @wraps(call)
    def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        given: tuple[Any, ...] = *args, *kwargs.values()
        with TURN, _undone(_generators(given)):
            return call(*args, **kwargs)

    return wrapped


def all_or_nothing(call: Callable[_P, _R]) -> Callable[_P, _R]:
    """As `in_turn`; also, an error restores the model, or the given weight and bias, bit for bit.

    This covers values and gradients of parameters, buffers, and attributes of modules.
    """

    @in_turn
    @wraps(call)
    def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        model: Any = args[0] if args else kwargs.get("model", kwargs.get("weight"))
        with _undone(*_model(model) if isinstance(model, nn.Module) else [_values([model, kwargs.get("bias")])]):
            return call(*args, **kwargs)

    return wrapped


Undo = Callable[[], object]


@contextmanager
def _undone(*steps: Undo) -> Iterator[None]:
    try:
        yield
    except BaseException:
        for step in steps:
            step()
        raise


def _generators(given: tuple[Any, ...]) -> Undo:
    """How to restore all random number generators."""
    gpus = sorted({gpu for one in given if isinstance(one, nn.Module) for gpu in gpus_of(one)})
    own = [(one, one.get_state()) for one in given if isinstance(one, torch.Generator)]
    torchs, numpys, pythons = torchs_own(gpus), np.random.get_state(), random.getstate()  # noqa: NPY002

    def put_back() -> None:
        for generator, state in own:
            generator.set_state(state)
        torchs()
        np.random.set_state(numpys)  # noqa: NPY002
        random.setstate(pythons)

    return put_back


def seed_torch(seed: int, gpus: Iterable[int]) -> None:
    """As `torch.manual_seed`, but of the CPU and these GPUs alone: no others are saved and restored."""
    torch.default_generator.manual_seed(seed)
    for gpu in gpus:
        torch.cuda.default_generators[gpu].manual_seed(seed)


def torchs_own(gpus: list[int]) -> Undo:
    """How to restore torch's generators."""
    state, others = torch.get_rng_state(), [(torch.cuda.get_rng_state(gpu), gpu) for gpu in gpus]

    def put_back() -> None:
        torch.set_rng_state(state)
        for other, gpu in others:
            torch.cuda.set_rng_state(other, gpu)

    return put_back


def _values(tensors: list[Any]) -> Undo:
    kept = [(t, t.detach().clone()) for t in tensors if isinstance(t, Tensor) and not (is_lazy(t) or t.is_inference())]

    def put_back() -> None:
        with torch.no_grad():
            for tensor, value in kept:
                tensor.copy_(value)

    return put_back


def _model(model: nn.Module) -> list[Undo]:
    """How to restore a model: attributes and their contents, then values, then gradients."""
    attributes = [vars(module) for module in modules_of(model)]
    inside = [value for found in attributes for value in found.values() if isinstance(value, dict)]
    kept = [(found, dict(found)) for found in (*inside, *attributes)]
    gradients = [(p, p.grad, p.requires_grad) for p in parameters_of(model) if not is_lazy(p)]

    def put_back() -> None:
        for now, before in kept:
            now.clear()
            now.update(before)

    def give_back() -> None:
        for parameter, gradient, flag in gradients:
            parameter.grad = gradient
            if parameter.requires_grad is not flag:
                parameter.requires_grad_(flag)

    return [put_back, _values([*parameters_of(model), *nn.Module.buffers(model)]), give_back]
