"""Tensors that stand for what is not computed yet: one step of a sequence, or the whole of it.

The model's own code runs as it is, with its own loop over time. What an operation does to the first step is done to
all steps at once, and looked up at the others; what it does to several steps together, or to random numbers, is done
as it stands. So nothing but time is gained, whatever the model does.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import partial
from sys import getrefcount
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fluctua.fusion import operations
from fluctua.fusion.errors import FuseError
from fluctua.fusion.feedback import deferred
from fluctua.fusion.folding import CONVOLUTIONS, Convolved, as_pooled, folded, pooled
from fluctua.fusion.names import identity, key_of, named
from fluctua.fusion.nodes import Given, Later, Node, Product, compute, copied
from fluctua.network.run import mapped

_OWN = nn.Parameter, type(None)
_PLAIN_WEIGHTS = frozenset({*_OWN, Tensor})


class Handle(Tensor):
    """A tensor of the model that knows where its numbers come from."""

    node: Node
    family: list[ref[Tensor]] | None = None  # itself, and all that would share its memory

    @property
    def stored(self) -> Tensor:
        """The tensor itself, in the order in which it lies in memory."""
        raise NotImplementedError

    @property
    def actual(self) -> Tensor:
        """The tensor as the model's own code may take it: contiguous, as its operations would have made it."""
        return self.stored.contiguous()

    def __repr__(self, *, tensor_contents: Any = None) -> Any:  # type: ignore[override]
        """For messages."""
        return f"{type(self).__name__}({tuple(self.shape)})"

    def __copy__(self) -> Tensor:
        """As torch has it: the same numbers, without a history."""
        return Whole.of(copied(self.node)) if isinstance(self, Whole) else self.actual.detach()

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Do what torch is asked for."""
        kwargs = kwargs or {}
        if func is F.linear and len(args) > 1 and isinstance(args[0], Handle) and _of_the_model(args[1:], kwargs):
            return _product(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name == "__getitem__" and type(args[0]) is Whole and type(args[1]) is int:
            return _related(args[0], _step_of(args[0].node, args[1]))
        if name == "__get__" and func == operations.DATA:
            func, name = Tensor.detach, "detach"
        if name in ("view", "view_as") and isinstance(args[0], Handle) and not isinstance(args[1], torch.dtype):
            func = Tensor.reshape if name == "view" else Tensor.reshape_as  # whatever the order in memory
        if name in operations.CONVERSIONS and isinstance(args[0], Handle):
            like, *others = mapped(tuple(args), lambda x: x.node.like.new_empty(0) if isinstance(x, Handle) else x)
            found = func(like, *others, **kwargs)
            if found is like or isinstance(found, str):  # nothing to convert, or the name of the type
                return args[0] if found is like else found
        if name in operations.FACTS or func in operations.PROPERTIES:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        if name in operations.PLAIN_LIKE and isinstance(args[0], Handle) and not handles_in(args[1:]):
            with torch._C.DisableTorchFunctionSubclass():
                small = args[0].node.like.new_empty(()).expand(args[0].shape)
                return func(small, *args[1:], **kwargs).contiguous()
        if func in operations.BACKWARD and any(isinstance(handle, Step) for handle in handles_in(args)):
            raise FuseError("the model runs backward within its forward pass, so its steps cannot be joined")
        if name == "__setitem__" or (name.endswith("_") and not name.endswith("__")):
            return _changed(func, name, args, kwargs)
        if kwargs.get("inplace") is True and isinstance(args[0], Handle):
            return _replaced(args[0], name, _operation(func, name, args, {**kwargs, "inplace": False}))
        if func is F.dropout and args[3:] == (True,) and isinstance(args[0], Handle):  # as its module calls it
            return _replaced(args[0], name, _operation(func, name, args[:3], {}))
        result = _operation(func, name, args, kwargs)
        views = name in operations.VIEWS or (name == "__get__" and func in operations.OF_TENSORS)
        return _related(args[0], result) if views and isinstance(args[0], Handle) else result

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        """What reaches torch past the above, such as an autograd function of the model's own."""
        return func(*reals(args), **reals(dict(kwargs or {})))


class Step(Handle):
    """One step of a node."""

    step: int

    @staticmethod
    def of(node: Node, step: int) -> "Step":
        """The step of this number; in the tensor of an earlier one that nobody holds, as making tensors takes long."""
        spare = node.spare
        if len(spare) == spare.maxlen and getrefcount(spare[0]) == 2 and spare[0]._use_count() == 1:
            made: Step = spare.popleft()
            made.step, made.family = step, None
        else:
            made = Step.fresh(node, step)
        spare.append(made)
        return made

    @staticmethod
    def fresh(node: Node, step: int) -> "Step":
        """The step of this number, which nobody else has."""
        like = node.like
        made: Step = Tensor._make_wrapper_subclass(Step, node.shape[1:], dtype=like.dtype, device=like.device)  # type: ignore[attr-defined]
        made.node, made.step = node, step
        return made

    @property
    def stored(self) -> Tensor:
        return self.node.at(self.step)


class Whole(Handle):
    """A node as it is: a sequence, of which steps are taken, or what is the same at every step."""

    @staticmethod
    def of(node: Node) -> "Whole":
        """All of it."""
        like = node.like
        made: Whole = Tensor._make_wrapper_subclass(Whole, node.shape, dtype=like.dtype, device=like.device)  # type: ignore[attr-defined]
        made.node = node
        return made

    @property
    def stored(self) -> Tensor:
        return self.node.value

    def __iter__(self) -> Iterator[Tensor]:
        """The steps along the first axis."""
        return iter(self.unbind(0))  # type: ignore[no-untyped-call]


def handles_in(value: Any, kinds: Any = Handle) -> list[Any]:
    """The handles in arguments or results, or what is of other kinds."""
    if isinstance(value, kinds):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [handle for item in items for handle in handles_in(item, kinds)]


def reals(value: Any, but: Any = ()) -> Any:
    """The same with tensors in the place of handles, but for nodes of this kind."""
    compute([h.node for h in handles_in(value) if not isinstance(h.node, but)])
    return mapped(value, lambda x: x.actual if isinstance(x, Handle) and not isinstance(x.node, but) else x)


def _changed(func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """A change in place. A handle then stands for the new numbers, wherever the model keeps it."""
    handle, without = args[0], operations.IN_PLACE.get(name)
    if isinstance(handle, Handle) and name == "zero_" and isinstance(handle.node, Later):  # a reset
        handle.node.set(handle.node.like.new_zeros(handle.shape))
        return handle
    if not isinstance(handle, Handle) or isinstance(handle.node, Later):
        with torch._C.DisableTorchFunctionSubclass():
            func(*reals(args), **reals(dict(kwargs)))
        return handle  # type: ignore[no-any-return]
    return _replaced(handle, name, without and _operation(without, without.__name__, args, kwargs))


def _replaced(handle: Handle, name: str, made: Any) -> Handle:
    """The handle, which from now on stands for other numbers, wherever the model keeps it."""
    old, item = handle.node, name == "__setitem__"
    advice = "copy it before, x = x.clone()" if item else f"write x = x.{name.rstrip('_')}(...) instead"
    if old.depth == 0 or not isinstance(made, Tensor) or made.shape != handle.shape:
        raise FuseError(f"the model changes a step in place ({name}): {advice}")
    if _seen_elsewhere(handle):
        raise FuseError(f"the model changes a step in place ({name}), and a view of it: {advice}")
    old.spare.clear()
    if isinstance(handle, Step):
        made = made if isinstance(made, Step) else Step.fresh(Given(made.unsqueeze(0), old.depth + 1), 0)
        handle.step = made.step
    handle.node = made.node if isinstance(made, Handle) else Given(made, old.depth + 1)
    return handle


def _seen_elsewhere(handle: Handle) -> bool:
    """Whether the model holds a view of it, or what it is a view of."""
    for seen in (family := handle.family or []):
        if isinstance(other := seen(), Handle):
            other.node.spare.clear()  # which nobody asks
        del other
    return any((other := seen()) is not None and other is not handle for seen in family)


def _related(source: Handle, views: Any) -> Any:
    """Views, which remember what they would share memory with; what the model is given is never changed."""
    if source.node.depth:
        source.family = source.family or [ref(source)]
        for view in handles_in(views):
            source.family.append(ref(view))
            view.family = source.family
    return views


def _operation(func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    steps = [h for h in handles_in([args, kwargs]) if isinstance(h, Step)]
    if not steps:
        return _on_whole(func, name, args, kwargs)
    joined = _joined(name, steps, args, kwargs)
    if joined is not None:
        return joined
    delayed = _after_a_step(func, args, kwargs, steps)
    if delayed is not None:
        return delayed
    with torch._C.DisableTorchFunctionSubclass():
        plain = name in operations.ANSWERS or "out" in kwargs
        plain = plain or (name == "__get__" and func not in operations.OF_TENSORS) or len({h.step for h in steps}) > 1
        node = None if plain else _at_all_steps(func, name, args, kwargs, steps)
        return func(*reals(args), **reals(dict(kwargs))) if node is None else _steps_of(node, steps[0].step)


def _at_all_steps(
    func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], steps: Sequence[Step]
) -> Any:
    """What an operation on one step gives at all of them; None where it was not done to the first step."""
    memo, step = steps[0].node.memo, steps[0].step
    key: Hashable = func, key_of(func, args, memo), key_of(func, tuple(kwargs.items()), memo)
    if name in operations.RANDOM:  # done twice in a step, it gives two results
        drawn = memo.setdefault(("drawn", key), {})
        drawn[step] = drawn.get(step, 0) + 1
        key = key, drawn[step]
    waits = key not in memo and any(h.node.waits for h in steps)
    if key not in memo and (step == 0 or (step == 1 and waits)):
        nodes = list(dict.fromkeys(h.node for h in steps))
        try:
            made = (
                deferred(func, args, kwargs, steps, step)
                if waits or (name in operations.ADDS and any(type(x) is Tensor for x in args))
                else folded(func, nodes, partial(_bound, args, kwargs))
            )
        except (RuntimeError, ValueError):  # such as a function that gives no tensor: it is done step by step
            made = None
        memo[key] = made, named(args, kwargs)
    return memo[key][0] if key in memo else None


def _after_a_step(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], steps: Sequence[Step]
) -> Any:
    """What an operation on different steps gives, where some depend on spikes that are heard; None for anything else.

    It is done from the second step on; what is done to the first has the model's own beginning in the place of spikes.
    """
    number = max(h.step for h in steps)
    lags = tuple(number - h.step for h in steps)
    if not any(lags):
        return None
    memo = steps[0].node.memo
    key = "late", func, lags, key_of(func, args, memo), key_of(func, tuple(kwargs.items()), memo)
    if key not in memo:
        if number != 1 or not any(h.node.waits for h in steps):
            return None
        memo[key] = deferred(func, args, kwargs, steps, number), named(args, kwargs)
    made = memo[key][0]
    return None if made is None else _steps_of(made, number)


def _bound(args: Any, kwargs: Any, values: Mapping[Node, Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments with tensors in the place of handles: of steps these, of nodes as they are their own."""

    def tensor(x: Tensor) -> Tensor:
        if isinstance(x, Step):
            return values[x.node]
        return x.stored if isinstance(x, Whole) else x

    return mapped(tuple(args), tensor), mapped(dict(kwargs), tensor)


def _steps_of(value: Any, step: int) -> Any:
    """Steps of the nodes in a result."""
    if isinstance(value, Node):
        return Step.of(value, step)
    return type(value)(_steps_of(item, step) for item in value) if isinstance(value, tuple | list) else value


def _on_whole(func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """An operation on sequences as a whole, or on what is the same at every step: once, unless it is random."""
    taken = _taken(func, name, args, kwargs)
    if taken is not None:
        return taken
    with torch._C.DisableTorchFunctionSubclass():
        memo = handles_in([args, kwargs])[0].node.memo
        if func in operations.BACKWARD or all(isinstance(h.node, Later) for h in handles_in([args, kwargs])):
            return func(*reals(args), **reals(dict(kwargs)))
        key = func, key_of(func, args, memo), key_of(func, tuple(kwargs.items()), memo)
        if key not in memo:
            node = _on_whole_node(func, name, args, kwargs)
            if not isinstance(node, Node):
                return node
            memo[key] = node, named(args, kwargs)
        return Whole.of(memo[key][0])


def _on_whole_node(func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """A node for the result, or what has to be done anew every time: itself."""
    whole = args[0] if args and isinstance(args[0], Whole) else None
    joined = None if whole is None else pooled(func, whole.node, args, kwargs)
    if joined is not None:
        return joined
    compute([h.node for h in handles_in([args, kwargs])])
    given, options = _bound(args, kwargs, {})
    if whole is not None and whole.ndim == CONVOLUTIONS.get(func):
        return Convolved(func, given[0], given[1:], options, whole.node.depth + 1)
    result = as_pooled(func, func(*given, **options))
    once = name not in operations.RANDOM and "out" not in kwargs
    depth = 1 + max(h.node.depth for h in handles_in([args, kwargs]))
    return Given(result, depth) if once and isinstance(result, Tensor) else result


def _taken(func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Steps that are taken of a sequence, by an index, `select`, `unbind` or a loop; None for anything else."""
    whole = args[0] if args else None
    if not isinstance(whole, Whole):
        return None
    if name == "unbind":
        axis = kwargs.get("dim", args[1] if len(args) > 1 else 0)
        node = _along(whole, axis)
        return tuple(Step.of(node, k) for k in range(node.shape[0]))
    axis, index = operations.axis_of(args[1], whole.ndim) if name == "__getitem__" else (None, None)
    if name == "select" and len(args) == 3:
        axis, index = args[1] % whole.ndim, args[2]
    if axis is None or isinstance(index, bool) or not isinstance(index, int):
        return None
    return _step_of(_along(whole, axis), index, axis)


def _step_of(node: Node, index: int, axis: int = 0) -> Step:
    steps = node.shape[0]
    if not -steps <= index < steps:
        raise IndexError(f"index {index} is out of bounds for dimension {axis} with size {steps}")
    return Step.of(node, index % steps)


def _along(whole: Whole, axis: int) -> Node:
    """The node with this axis in front."""
    axis %= whole.ndim
    if axis == 0:
        return whole.node
    key = "along", axis
    if key not in whole.node.memo:
        whole.node.memo[key] = Given(whole.node.value.movedim(axis, 0), whole.node.depth + 1)
    found: Node = whole.node.memo[key]
    return found


def _joined(name: str, steps: Sequence[Step], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
    """Steps in their order, stacked again; None for anything else."""
    if name not in ("stack", "cat", "concat") or len(args) > 2 or not set(kwargs) <= {"dim"}:
        return None
    items, node, first = args[0], steps[0].node, steps[0].step
    if len(items) != len(steps) or any(h.node is not node or h.step != first + k for k, h in enumerate(steps)):
        return None
    axis = kwargs.get("dim", args[1] if len(args) > 1 else 0)
    if name == "stack" and axis == 0 and len(steps) == node.shape[0]:
        return Whole.of(node)
    value = node.value[first : first + len(steps)]
    if name == "stack":
        return value.movedim(0, axis).contiguous()
    return value.flatten(0, 1) if axis == 0 else None


def _of_the_model(weights: Sequence[Any], options: Mapping[str, Any]) -> bool:
    """Whether these are plain weights, or none."""
    return _PLAIN_WEIGHTS.issuperset(map(type, (*weights, *options.values())))


def weighted(module: nn.Linear, x: Tensor) -> Tensor:
    """A call of `nn.Linear`, past what takes torch longer than all else of a step."""
    own = module._parameters  # torch looks for a parameter among other attributes first
    weight, bias = own.get("weight"), own.get("bias", x)
    if isinstance(x, Handle) and type(weight) is nn.Parameter and type(bias) in _OWN:
        return _product(x, weight, bias)
    return F.linear(x, module.weight, module.bias)


def _product(handle: Handle, weight: Tensor, bias: Tensor | None = None) -> Handle:
    memo = handle.node.memo
    key = F.linear, identity(weight, memo), None if bias is None else identity(bias, memo)
    if key not in memo:
        memo[key] = Product(handle.node, weight, bias)
        if torch.is_autocast_enabled(weight.device.type):
            memo[key].like = memo[key].value.new_empty(0)
    made = memo[key]
    return Step.of(made, handle.step) if isinstance(handle, Step) else Whole.of(made)
