"""Whether a user's hook only observes, so that fluctua's passes silence it, or acts, so that they keep it.

A monitor must not record passes that the user did not make. A hook that changes a module's input or output, or computes
its weight, is part of the network. The hook's bytecode tells which of the two it is, without a call.
"""

import dis
import inspect
import re
from collections import ChainMap, deque
from contextlib import suppress
from functools import partial
from types import FunctionType
from typing import Any

from torch import nn

_LOADS = ("LOAD_GLOBAL", "LOAD_DEREF", "LOAD_NAME")
_ATTRIBUTES = ("LOAD_ATTR", "LOAD_METHOD")
_PLACES = (*_ATTRIBUTES, "LOAD_CONST", "LOAD_SMALL_INT", "BINARY_SUBSCR")  # in Python 3.14 x[0] is an operation "[]"
_SILENT = ("RESUME", "CACHE", "PRECALL", "COPY_FREE_VARS", "PUSH_NULL", "NOP", "MAKE_CELL", "EXTENDED_ARG")


def acts(hook: Any) -> bool:
    """Whether a hook may change what is computed: it returns something, or writes to its module or in place."""
    while isinstance(hook, partial):
        hook = hook.func
    if not inspect.isroutine(hook):
        hook = type(hook).__call__
    if getattr(getattr(hook, "__self__", None), "only_watches", False):
        return False
    if str(getattr(hook, "__module__", "")).partition(".")[0] in ("torch", "fluctua"):  # a weight's, or ours
        return True
    function = getattr(hook, "__func__", hook)
    if not isinstance(function, FunctionType):
        return not isinstance(getattr(hook, "__self__", None), list | dict | set | deque | type(inspect))
    steps = [step for step in dis.get_instructions(function) if step.opname not in _SILENT]
    return _writes(function, steps) or _returns(function, steps)


def _writes(function: FunctionType, steps: list[dis.Instruction]) -> bool:
    """Whether it sets an attribute of an argument, changes one in place, or resets a state."""
    code, defaults = function.__code__, len(function.__defaults__ or ())
    given = {name for name in code.co_varnames[: code.co_argcount - defaults] if name != "self"}
    for k, step in enumerate(steps):
        changing = step.opname in _ATTRIBUTES and re.search(r"[a-z0-9]_$", str(step.argval))
        if changing or step.opname == "STORE_ATTR":
            if given.intersection(_root(steps[:k])):
                return True
        elif step.opname in ("STORE_SUBSCR", "STORE_SLICE"):  # x[key] = value
            places, before = 1 if step.opname == "STORE_SUBSCR" else 2, steps[:k]
            if before[-1].opname == "SWAP":  # x[key] *= value, which keeps copies of x and key
                before = before[: max(j for j, s in enumerate(before) if s.opname == "COPY") - places]
            if given.intersection(_root(_without_last(before, places))):
                return True
        elif step.opname == "BINARY_OP" and step.argrepr.endswith("=") and given.intersection(_names(steps[k + 1])):
            return True  # x *= value
    if any(isinstance(constant, tuple) and "out" in constant for constant in code.co_consts):
        return True  # f(..., out=x)
    return any(name == "setattr" or name.startswith("reset") for name in code.co_names)


def _names(step: dis.Instruction) -> tuple[Any, ...]:
    return step.argval if isinstance(step.argval, tuple) else (step.argval,)


def _root(steps: list[dis.Instruction]) -> tuple[Any, ...]:
    """The variable from which the attribute or item on top of the stack comes."""
    root = next((s for s in reversed(steps) if s.opname not in _PLACES and s.argrepr != "[]"), None)
    return () if root is None else _names(root)


def _without_last(steps: list[dis.Instruction], values: int) -> list[dis.Instruction]:
    """The steps up to those that put the last values on the stack."""
    for k in range(len(steps) - 1, -1, -1):
        values -= dis.stack_effect(steps[k].opcode, steps[k].arg)
        if values <= 0:
            return steps[: k + (values < 0)]  # one step may load two variables
    return []


def _returns(function: FunctionType, steps: list[dis.Instruction]) -> bool:
    """Whether it may return something other than None."""
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
    """Whether an expression is a call that returns nothing, such as `seen.append(output)`."""
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
