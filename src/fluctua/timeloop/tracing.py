"""Trace one step of a neuron and its gradient through torch, operation by operation, into expressions.

The step is an ordinary function of torch. It runs once on a few numbers, and torch differentiates it, surrogate
gradients included; torch's operations along the way are the step and its adjoint. This file knows no neuron.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from fluctua.timeloop.contract import Step, step_of
from fluctua.timeloop.expressions import UNKNOWN, Expression, Graph, Value, walk

if TYPE_CHECKING:
    from fluctua.timeloop.evaluation import Evaluation

_PLAIN = (bool, int, float, str, tuple, type(None))
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
        """For spikes, the truth that makes them, else None."""
        out = self.output
        return out.args[0] if isinstance(out, Expression) and out.op == "float" else None

    @cached_property
    def distance(self) -> Value | None:
        """If one comparison makes them, how far its greater side is above the other."""
        fired = self.fired
        return self.graph("sub", *fired.args) if fired is not None and fired.op in ("gt", "ge") else None

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

    def leaves_of(self, given: Sequence[Tensor], incoming: Sequence[Tensor] = ()) -> dict[tuple[str, int], Tensor]:
        """Inputs, state and constants of a step, and gradients of its results, by leaf."""
        kinds = {"input": self.inputs, "state": len(self.state), "constant": len(self.by_constant)}
        names = [(kind, k) for kind, count in kinds.items() for k in range(count)]
        return dict(zip([*names, *(("gradient", k) for k in range(len(incoming)))], [*given, *incoming], strict=True))

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
    if isinstance(found := getattr(step, "traced", None), Traced):
        return found
    step = step_of(step)
    # Hide this from whatever torch is doing around us, such as tracing for its own compiler.
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t)
    with _disable_current_modes(), hooks, _outside_of_transforms():
        try:
            found = _traced(step, inputs, states, constants)
            if _is_foreign(step):
                _check(found, step)
        except ValueError:
            raise
        except Exception as error:  # of a stranger's code: any
            raise ValueError(f"the step cannot be followed ({said(error)})") from error
    return found


def said(error: Exception) -> str:
    """What an error says in its first line; torch adds a list of everything that it would accept."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


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
        ends, found = _called(step, inputs, states, given, incoming)
    out, *state = (recorder.value(end) for end in ends)
    gradients = iter([0.0 if g is None else recorder.value(g) for g in found])
    by_input, by_state, by_constant = (tuple(islice(gradients, count)) for count in counts.values())
    traced = Traced(graph, inputs, out, tuple(state), by_input, by_state, by_constant)
    for e in walk(traced.ends):
        if e.op == UNKNOWN:  # of what nothing depends on, nobody asks
            raise ValueError(e.args[0])
    return traced


def _outside_of_transforms() -> AbstractContextManager[Any]:
    """Inside the block no `vmap` or `grad` of torch is active."""
    if not torch._C._are_functorch_transforms_active():
        return nullcontext()
    from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

    return temporarily_clear_interpreter_stack()


def _called(
    step: Step, inputs: int, states: int, given: list[Tensor], incoming: list[Tensor]
) -> tuple[list[Tensor], Sequence[Tensor | None]]:
    """Output and state after a step, and gradients with respect to all that it is given."""
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
    return ends, found


def _is_foreign(step: Step) -> bool:
    """Whether nobody but us can check a step, a function or with somebody's surrogate. `fuse` compares whole models."""
    parts = [part for part in (step, *vars(step).values()) if not isinstance(part, _PLAIN)]
    return not (hasattr(step, "neurons") or all(type(part).__module__.startswith("fluctua.") for part in parts))


def _check(traced: Traced, step: Step) -> None:
    """Compare a trace with the step itself, on samples, in single precision, and on numbers of both signs.

    Raises:
        ValueError: they differ, as the step asks for shapes, types or signs.
    """
    shape, numbers = (2, _NEURONS + 2), torch.Generator().manual_seed(1)
    counts = {shape: traced.inputs + len(traced.state), shape[1:]: len(traced.by_constant)}
    given = [
        torch.randn(s, generator=numbers, device="cpu").requires_grad_()
        for s, count in counts.items()
        for _ in range(count)
    ]
    incoming = [torch.randn(shape, generator=numbers, device="cpu") for _ in range(1 + len(traced.state))]
    ends, gradients = _called(step, traced.inputs, len(traced.state), given, incoming)
    leaves = traced.leaves_of([tensor.detach().expand(shape) for tensor in given], incoming)
    mine, by_trace = (evaluation(leaves) for evaluation in traced.evaluations)
    by_trace = [value.expand(shape).sum_to_size(t.shape) for value, t in zip(by_trace, given, strict=True)]
    truth = [*ends, *(ends[0].new_zeros(()) if g is None else g for g in gradients)]
    if not all(
        torch.allclose(a, b, 1e-3, 1e-3, equal_nan=True) for a, b in zip((*mine, *by_trace), truth, strict=True)
    ):
        raise ValueError("the step asks for more than the numbers of each neuron, such as their shape or type")


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
                if result.dtype == torch.bool:
                    return source if given.dtype == torch.bool else self._graph("ne", source, 0.0)
                return self._graph("float" if result.is_floating_point() else "trunc", source)
        make = _OPERATIONS.get(name)
        if make is None:
            return self._unknown(f"the step uses {name}, which is not among the operations of a loop", args)
        plain = {k: self.value(v) for k, v in kwargs.items() if k not in ("dtype", "layout", "device", "memory_format")}
        try:
            value: Value = make(self._graph, *(self.value(a) for a in args), **plain)
        except TypeError:
            return self._unknown(f"the step uses {name} with {', '.join(plain) or 'other arguments'}", args)
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
        if isinstance(a, Expression) or a <= 0:
            return graph.unknown("the step takes a power whose exponent is a tensor")
        return graph("exp", graph("mul", exponent, math.log(a)))
    if exponent < 0:
        return graph("div", 1.0, _power(graph, a, -exponent))
    if exponent == 0.5:
        return graph("sqrt", a)
    if exponent != int(exponent):
        return graph("exp", graph("mul", exponent, graph("log", a)))
    if exponent > 64:
        return graph.unknown(f"the step takes a power of {exponent:g}")
    out: Value = 1.0
    for _ in range(int(exponent)):
        out = graph("mul", out, a)
    return out


def _quotient(graph: Graph, a: Value, b: Value, rounding_mode: str | None = None) -> Value:
    if rounding_mode == "floor":  # torch rounds down what it has not rounded to a float
        return graph.unknown("the step rounds a quotient down: write torch.floor(a / b)")
    return graph("div", a, b) if rounding_mode is None else graph("trunc", graph("div", a, b))


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
    "div": _quotient,
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
