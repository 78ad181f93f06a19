"""Long sequences in bounded memory: the time loops run a segment at a time."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fluctua.timeloop.contract import Engine, LoopParameters, LoopResult, State

Function = TypeVar("Function", bound=Callable[..., Any])


def constant_when_compiled(function: Function) -> Function:
    """Let `torch.compile` call the function when it compiles and take the result for a constant."""
    # What `torch.compiler.assume_constant_result` does, which would import the whole compiler here.
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


class Segments(NamedTuple):
    """How a sequence is cut: see `segments`."""

    length: int
    recompute: bool
    truncate: bool


_wanted: ContextVar[Segments | None] = ContextVar("fluctua_segments", default=None)


@contextmanager
def segments(length: int, *, recompute: bool = True, truncate: bool = False) -> Iterator[None]:
    """Run the time loops inside the `with` block in segments of `length` steps, for sequences that fill the memory.

    ::

        with fluctua.timeloop.segments(200):
            loss = criterion(model(x), y)
        loss.backward()

    Between forward and backward each population then keeps its state at the start of every segment, and its input
    current, in place of all that backward needs; a segment is computed again when backward comes to it. Gradients are
    those of the whole sequence, for one forward pass more. The tensors between the layers stay as they are.

    With `truncate` no gradient flows from a segment into the one before it (truncated backpropagation through time).
    This is biased: what a spike does to later segments is not learnt from, so choose a length of many membrane and
    synaptic time constants, and also of many adaptation time constants where the neurons adapt. Spikes and potentials
    are the same.

    Args:
        length: of a segment, in steps; the last may be shorter.
        recompute: whether to compute segments again in backward rather than keep everything.
        truncate: whether gradients stop at the start of a segment.

    Raises:
        ValueError: a length below 1.
    """
    if length < 1:
        raise ValueError(f"a segment has a length of 1 step or more, got {length}")
    token = _wanted.set(Segments(length, recompute, truncate))
    try:
        yield
    finally:
        _wanted.reset(token)


def run_whole_or_cut(engine: Engine, current: Tensor, parameters: LoopParameters, state: State) -> LoopResult:
    """Run the engine on the whole current `[T, B, *N]`, or on segments of it where they are wanted and matter."""
    wanted = _wanted_segments()
    if wanted is None or current.shape[0] <= wanted.length or not torch.is_grad_enabled():
        return engine.run(current, parameters, state)
    outputs: list[Tensor] = []
    potentials: list[Tensor] = []
    for piece in current.split(wanted.length):  # type: ignore[no-untyped-call]
        if wanted.truncate and outputs:
            state = State(*(None if part is None else part.detach() for part in state))  # type: ignore[arg-type]
        if wanted.recompute:
            # The engine is given, not chosen anew: backward may run where another is wanted.
            result = checkpoint(engine.run, piece, parameters, state, use_reentrant=False, preserve_rng_state=False)
        else:
            result = engine.run(piece, parameters, state)
        outputs.append(result.output)
        potentials.append(result.potential)
        state = result.state
    output = torch.cat(outputs)
    return LoopResult(output, torch.cat(potentials) if parameters.spiking else output, state)


@constant_when_compiled
def _wanted_segments() -> Segments | None:
    return _wanted.get()
