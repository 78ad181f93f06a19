"""Trace one step of a neuron and its gradient through torch, operation by operation, into expressions.

The step is an ordinary function of torch. It runs once on a few numbers, and torch differentiates it, surrogate
gradients included; torch's operations along the way are the step and its adjoint. This file knows no neuron.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from fluctua.timeloop.contract import Step, Tensors, step_of
from fluctua.timeloop.expressions import UNKNOWN, Expression, Graph, Value, walk

if TYPE_CHECKING:
    from fluctua.timeloop.evaluation import Evaluation

_NEURONS = 3  # to trace a step with, unless it needs a certain number; a number that steps hardly mention


@dataclass(frozen=True, eq=False)
class Traced:
    """A step and its adjoint.

    Attributes:
        graph: the graph of all these expressions.
        inputs: number of inputs.
        output: the output of the step.
        state: the state after it.
        by_input: gradient with respect to each input, from those of output and state after the step.
        by_state: with respect to each part of the state before the step.
        by_constant: with respect to each constant.
    """

    graph: Graph
    inputs: int
    output: Value
    state: tuple[Value, ...]
    by_input: tuple[Value, ...]
    by_state: tuple[Value, ...]
    by_constant: tuple[Value, ...]

    @property
    def potential(self) -> Expression:
        """The first part of the state."""
        return self.leaf("state", 0)

    @cached_property
    def fired(self) -> Expression | None:
        """For spikes, the comparison that makes them, else None."""
        out = self.output
        is_spike = isinstance(out, Expression) and out.op == "float" and out.args[0].op in ("gt", "ge")
        return out.args[0] if is_spike and isinstance(out, Expression) else None

    @cached_property
    def distance(self) -> Value | None:
        """How far the greater side of that comparison is above the other."""
        return None if self.fired is None else self.graph("sub", *self.fired.args)

    @cached_property
    def separate(self) -> bool:
        """Whether the potential is not the output itself."""
        return self.output is not self.potential

    @cached_property
    def evaluations(self) -> "tuple[Evaluation, Evaluation]":
        """The step, and its gradients, by torch."""
        from fluctua.timeloop.evaluation import Evaluation  # only the reference engine needs it

        return Evaluation([self.output, *self.state]), Evaluation([*self.by_input, *self.by_state, *self.by_constant])

    @property
    def ends(self) -> list[Value]:
        """All results of the step and its adjoint."""
        return [self.output, *self.state, *self.by_input, *self.by_state, *self.by_constant]

    def roots(self, wanted: Sequence[int]) -> list[Value]:
        """The gradients; of constants only the wanted ones."""
        return [*self.by_input, *self.by_state, *(self.by_constant[k] for k in wanted)]

    def leaf(self, kind: str, number: int) -> Expression:
        """An input of the step or of its adjoint."""
        return self.graph.leaf(kind, number)

    def leaves(self, kind: str, count: int) -> tuple[Expression, ...]:
        """All inputs of one kind."""
        return tuple(self.leaf(kind, number) for number in range(count))


@torch.inference_mode(False)
@torch.enable_grad()
def trace(step: Step | str, inputs: int, states: int, constants: int) -> Traced:
    """Trace a step with the given numbers of inputs, state parts and constants.

    Raises:
        ValueError: it does something that no loop over neurons can do, such as summing over them.
    """
    if isinstance(step, Followed):
        return step.traced
    # Hide this from whatever torch is doing around us, such as tracing for its own compiler.
    with _disable_current_modes(), torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
        return _traced(step_of(step), inputs, states, constants)


traced = lru_cache(maxsize=256)(trace)
"""As `trace`, once for each step."""


def _traced(step: Step, inputs: int, states: int, constants: int) -> Traced:
    graph, neurons = Graph(), getattr(step, "neurons", _NEURONS)
    recorder = _Recorder(graph, neurons)
    counts = {"input": inputs, "state": states, "constant": constants}
    numbers = torch.Generator().manual_seed(0)

    def leaves(kind: str, count: int) -> list[Tensor]:
        made = [torch.rand(neurons, dtype=torch.float64, generator=numbers, device="cpu") for _ in range(count)]
        for k, tensor in enumerate(made):
            recorder.know(tensor, graph.leaf(kind, k))
        return made

    given = [tensor.requires_grad_() for kind, count in counts.items() for tensor in leaves(kind, count)]
    incoming = leaves("gradient", 1 + states)
    with recorder:
        x, s, c = given[:inputs], given[inputs : inputs + states], given[inputs + states :]
        output, after = step(tuple(x), tuple(s), tuple(c))
        ends = [output, *after]
        pairs = [(end, g) for end, g in zip(ends, incoming, strict=True) if end.requires_grad]
        # As `torch.autograd.grad(..., allow_unused=True)`, which would import sympy to look at shapes.
        found: Sequence[Tensor | None] = torch.autograd.Variable._execution_engine.run_backward(  # type: ignore[attr-defined]
            *(tuple(end for end, _ in pairs), tuple(g for _, g in pairs), False, False, tuple(given)),
            allow_unreachable=True,
            accumulate_grad=False,
        )
    out, *state = (recorder.value(end) for end in ends)
    gradients = iter([0.0 if g is None else recorder.value(g) for g in found])
    by_input, by_state, by_constant = (tuple(islice(gradients, count)) for count in counts.values())
    traced = Traced(graph, inputs, out, tuple(state), by_input, by_state, by_constant)
    for e in walk(traced.ends):
        if e.op == UNKNOWN:  # of what nothing depends on, nobody asks
            raise ValueError(e.args[0])
    return traced


@dataclass(frozen=True)
class Followed:
    """A step that was followed already, of which nothing is left but its trace. Equal ones do the same.

    Attributes:
        text: all that it does.
        traced: the trace.
    """

    text: str
    traced: Traced = field(compare=False, repr=False)

    @classmethod
    def of(cls, traced: Traced) -> "Followed":
        """Of a trace."""
        numbers = {e: f"e{k}" for k, e in enumerate(walk(traced.ends))}

        def said(a: Any) -> str:
            return numbers[a] if isinstance(a, Expression) else repr(a)

        lines = [f"{name} = {e.op}({', '.join(map(said, e.args))})" for e, name in numbers.items()]
        return cls("\n".join([*lines, ", ".join(map(said, traced.ends))]), traced)

    def __call__(self, inputs: Tensors, state: Tensors, constants: Tensors) -> tuple[Tensor, Tensors]:
        output, *after = _Evaluated.apply(self.traced, *inputs, *state, *constants)  # type: ignore[no-untyped-call]
        return output, tuple(after)


class _Evaluated(torch.autograd.Function):
    """One step, and its adjoint, as they were followed."""

    @staticmethod
    def forward(ctx: Any, traced: Traced, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.traced, ctx.shapes = traced, [t.shape for t in tensors]
        with torch._C.DisableTorchFunction():  # no code but ours: whoever follows the call has seen it
            given = torch.broadcast_tensors(*tensors)  # type: ignore[no-untyped-call]
            found = traced.evaluations[0](_leaves(traced, given))
            ctx.save_for_backward(*given)
            return tuple(value.expand_as(given[0]).clone() for value in found)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        t, given = ctx.traced, ctx.saved_tensors
        with torch._C.DisableTorchFunction():
            found = t.evaluations[1](_leaves(t, given) | {("gradient", k): g for k, g in enumerate(grads)})
            return None, *(g.expand_as(given[0]).sum_to_size(shape) for g, shape in zip(found, ctx.shapes, strict=True))


def _leaves(t: Traced, given: Sequence[Tensor]) -> dict[tuple[str, int], Tensor]:
    kinds = {"input": t.inputs, "state": len(t.state), "constant": len(t.by_constant)}
    return dict(zip(((kind, k) for kind, count in kinds.items() for k in range(count)), given, strict=True))


@lru_cache(maxsize=256)
def untraceable(step: Step | str, inputs: int, states: int, constants: int) -> str | None:
    """Why no loop can be made of a step, or None."""
    try:
        traced(step, inputs, states, constants)
    except ValueError as error:
        return str(error)
    return None


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps what torch does as expressions, by the memory that holds the results."""

    def __init__(self, graph: Graph, neurons: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._graph, self._neurons = graph, neurons
        self._values: dict[int, Value] = {}
        self._kept: list[Tensor] = []  # so that no memory is used twice

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: the wrapper that torch would put around `__torch_dispatch__` imports the whole compiler."""
        return False

    def know(self, tensor: Tensor, value: Value) -> None:
        """Say what a tensor is."""
        self._kept.append(tensor)
        self._values[tensor.data_ptr()] = value

    def value(self, given: Any) -> Any:
        """The expression of a tensor; anything else as it is."""
        if not isinstance(given, Tensor):
            return float(given) if isinstance(given, int) and not isinstance(given, bool) else given
        if given.data_ptr() in self._values:
            return self._values[given.data_ptr()]
        if given.requires_grad or given.numel() != 1:
            raise ValueError(
                f"the step uses a tensor of the shape {tuple(given.shape)} that is neither input, state nor constant: "
                "make it one of the constants"
            )
        return float(given)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do what torch asks for, and keep it as an expression."""
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::")
        result = func(*args, **kwargs)
        parts = result if isinstance(result, list | tuple) else [result]
        if all(isinstance(part, Tensor) for part in parts):
            for part in parts:
                self.know(part, self._expression(name.lstrip("_").removesuffix("_"), args, kwargs, part))
        elif name not in ("set_", "detach_"):
            raise ValueError(f"the step asks for more than numbers ({name}), so it cannot run as one loop")
        return result

    def _expression(self, name: str, args: Any, kwargs: dict[str, Any], result: Tensor) -> Value:
        if name in _FILLED:
            return float(result.reshape(-1)[0]) if result.numel() else 0.0
        if result.numel() not in (1, self._neurons):
            return self._unknown(
                f"the step is not neuron by neuron: {name} gives the shape {tuple(result.shape)}", args
            )
        if name in _SAME:
            given = args[0] if isinstance(args[0], Tensor) or len(args[0]) > 1 else args[0][0]
            if isinstance(given, Tensor) and given.numel() in (1, result.numel()):
                source: Value = self.value(given)
                return source if result.dtype == torch.bool else self._graph("float", source)
        make = _OPERATIONS.get(name)
        if make is None:
            return self._unknown(f"the step uses {name}, which is not among the operations of a loop", args)
        plain = {k: self.value(v) for k, v in kwargs.items() if k not in ("dtype", "layout", "device", "memory_format")}
        value: Value = make(self._graph, *(self.value(a) for a in args), **plain)
        return value

    def _unknown(self, why: str, args: Any) -> Expression:
        """What cannot be expressed, for the first reason on its way."""
        given = [self._values.get(a.data_ptr()) for a in args if isinstance(a, Tensor)]
        return next((v for v in given if isinstance(v, Expression) and v.op == UNKNOWN), self._graph.unknown(why))


_FILLED = {
    *("zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full", "zeros", "ones", "full", "zero"),
    *("scalar_tensor", "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"),  # to be written to
}

_SAME = {"detach", "clone", "alias", "view", "to_copy", "lift_fresh", "lift_fresh_copy", "expand", "expand_as"} | {
    "view_as", "reshape", "contiguous", "unsafe_view", "reshape_alias",
    # of one step, one sample or one neuron:
    "select", "select_backward", "slice", "slice_backward", "unsqueeze", "squeeze", "stack", "cat", "unbind", "split",
    "sum", "mean", "as_strided", "permute", "transpose", "t", "repeat",
}  # fmt: skip

Maker = Callable[..., Value]


def _plain(op: str) -> Maker:
    return lambda graph, *args: graph(op, *args)


def _sum(op: str) -> Maker:
    return lambda graph, a, b, alpha=1.0: graph(op, a, graph("mul", b, alpha))


def _power(graph: Graph, a: Value, exponent: Value) -> Value:
    if isinstance(exponent, Expression):
        return graph("exp", graph("mul", exponent, graph("log", a)))
    if exponent < 0:
        return graph("div", 1.0, _power(graph, a, -exponent))
    if exponent == 0.5:
        return graph("sqrt", a)
    if exponent == int(exponent) and 1 <= exponent <= 4:
        out = a
        for _ in range(int(exponent) - 1):
            out = graph("mul", out, a)
        return out
    return graph("exp", graph("mul", exponent, graph("log", a)))


def _sign(graph: Graph, a: Value) -> Value:
    return graph("select", graph("gt", a, 0.0), 1.0, graph("select", graph("lt", a, 0.0), -1.0, 0.0))


def _clamped(graph: Graph, a: Value, min: Value | None = None, max: Value | None = None) -> Value:
    a = a if min is None else graph("max", a, min)
    return a if max is None else graph("min", a, max)


_OPERATIONS: dict[str, Maker] = {
    **{op: _plain(op) for op in ("mul", "neg", "abs", "gt", "ge", "lt", "le", "eq", "ne", "exp", "log", "sqrt")},
    **{op: _plain(op) for op in ("sigmoid", "tanh", "erf", "sin", "cos", "round", "floor", "trunc")},
    **{op: _sum(op) for op in ("add", "sub")},
    "rsub": lambda graph, a, b, alpha=1.0: graph("sub", b, graph("mul", a, alpha)),
    "div": lambda graph, a, b, rounding_mode=None: (
        graph("div", a, b) if rounding_mode is None else graph(rounding_mode, graph("div", a, b))
    ),
    "reciprocal": lambda graph, a: graph("div", 1.0, a),
    "square": lambda graph, a: graph("mul", a, a),
    "pow": _power,
    "maximum": _plain("max"),
    "minimum": _plain("min"),
    "clamp": _clamped,
    "clamp_min": _plain("max"),
    "clamp_max": _plain("min"),
    "relu": lambda graph, a: graph("max", a, 0.0),
    "sign": _sign,
    "sgn": _sign,
    "heaviside": lambda graph, a, at_zero: graph(
        "select", graph("eq", a, 0.0), at_zero, graph("float", graph("gt", a, 0.0))
    ),
    **{f"{kind}_{op}": _plain(op) for kind in ("logical", "bitwise") for op in ("and", "or", "not")},
    "where": _plain("select"),
    "masked_fill": lambda graph, a, mask, value: graph("select", mask, value, a),
    "copy": lambda graph, a, b, non_blocking=False: graph("float", b),
    "threshold_backward": lambda graph, g, a, at: graph("select", graph("gt", a, at), g, 0.0),
    "sigmoid_backward": lambda graph, g, s: graph("mul", g, graph("mul", graph("sub", 1.0, s), s)),
    "tanh_backward": lambda graph, g, s: graph("mul", g, graph("sub", 1.0, graph("mul", s, s))),
}
