"""Hooks of the user's own during fluctua's passes: those that only look on are silent, those that act do their part.

A monitor would note passes that the user has not made; a hook that changes what a module takes or gives, or computes
its weight, is part of the network. Which of the two one is, its bytecode tells without a call.
"""

import dis
import inspect
import re
from collections import ChainMap, deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import FunctionType
from typing import Any

from torch import nn
from torch.nn.modules import module as of_all

_KINDS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
_LOADS = ("LOAD_GLOBAL", "LOAD_DEREF", "LOAD_NAME")
_ATTRIBUTES = ("LOAD_ATTR", "LOAD_METHOD")
_SILENT = ("RESUME", "CACHE", "PRECALL", "COPY_FREE_VARS", "PUSH_NULL", "NOP", "MAKE_CELL", "EXTENDED_ARG")


@contextmanager
def silent_hooks(model: nn.Module) -> Iterator[None]:
    """Inside the block, hooks that only observe are not called."""
    tables = [getattr(m, kind) for m in nn.Module.modules(model) for kind in _KINDS]
    tables += [getattr(of_all, f"_global{kind}") for kind in _KINDS]
    tables += [p._backward_hooks for p in nn.Module.parameters(model)]
    with _without([(table, {key for key, hook in table.items() if not acts(hook)}) for table in tables if table]):
        yield


@contextmanager
def silent_gradients(model: nn.Module) -> Iterator[None]:
    """Inside the block gradients of parameters are what they are, not what hooks, which may clip them, make of them."""
    tables: list[Any] = [p._backward_hooks for p in nn.Module.parameters(model) if p._backward_hooks]
    with _without([(table, set(table)) for table in tables]):
        yield


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
            table.clear()  # else the silent ones would come last from now on
            table.update({key: hook for key, hook in hooks.items() if key in keys or key in now} | now)


def acts(hook: Any) -> bool:
    """Whether a hook may change what is computed: it returns something, or writes to its module or in place."""
    while isinstance(hook, partial):
        hook = hook.func
    if not inspect.isroutine(hook):
        hook = type(hook).__call__
    if str(getattr(hook, "__module__", "")).partition(".")[0] in ("torch", "fluctua"):  # computes a weight, or is ours
        return True
    function = getattr(hook, "__func__", hook)
    if not isinstance(function, FunctionType):
        return not isinstance(getattr(hook, "__self__", None), list | dict | set | deque | type(inspect))
    steps = [step for step in dis.get_instructions(function) if step.opname not in _SILENT]
    return _writes(function, steps) or _returns(function, steps)


def _writes(function: FunctionType, steps: list[dis.Instruction]) -> bool:
    """Whether it sets an attribute of what it is given, changes that in place, or resets a state."""
    code, defaults = function.__code__, len(function.__defaults__ or ())
    given = {name for name in code.co_varnames[: code.co_argcount - defaults] if name != "self"}
    for k, step in enumerate(steps):
        changing = step.opname in _ATTRIBUTES and re.search(r"[a-z0-9]_$", str(step.argval))
        if changing or step.opname == "STORE_ATTR":
            before = reversed(steps[:k])
            root = next((s for s in before if s.opname not in (*_ATTRIBUTES, "LOAD_CONST", "BINARY_SUBSCR")), None)
            if root is not None and given.intersection(
                root.argval if isinstance(root.argval, tuple) else [root.argval]
            ):
                return True
    return any(name == "setattr" or name.startswith("reset") for name in code.co_names)


def _returns(function: FunctionType, steps: list[dis.Instruction]) -> bool:
    """Whether it may return something else than None."""
    ends = [k for k, step in enumerate(steps) if step.opname in ("RETURN_VALUE", "RETURN_CONST")]
    for k in ends:
        end = steps[k] if steps[k].opname == "RETURN_CONST" else steps[k - 1]
        if end.opname in ("RETURN_CONST", "LOAD_CONST"):
            if end.argval is not None:
                return True
        elif not (end.opname.startswith("CALL") and len(ends) == 1 and _only_records(function, steps)):
            return True
    return False


def _only_records(function: FunctionType, steps: list[dis.Instruction]) -> bool:
    """Whether an expression that is a call, such as `seen.append(output)`, calls what returns nothing."""
    if steps[0].opname not in _LOADS:
        return False
    scope = inspect.getclosurevars(function)
    with suppress(KeyError, AttributeError):
        called = ChainMap(dict(scope.nonlocals), dict(scope.globals), dict(scope.builtins))[steps[0].argval]
        for step in steps[1:]:
            if step.opname not in _ATTRIBUTES:
                break
            called = getattr(called, step.argval)
        unknown = isinstance(called, type | nn.Module) or not callable(called)
        return isinstance(called, list | dict | set | deque) or not (unknown or acts(called))
    return False
