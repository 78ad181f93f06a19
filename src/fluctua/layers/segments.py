"""A network on a long sequence, one segment of time after the other, in memory that does not grow with its length."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from threading import RLock
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
from torch.utils.checkpoint import checkpoint

from fluctua.layers.circuit import Circuit
from fluctua.neurons.leaky import Neuron
from fluctua.timeloop.engines import engine, wanted

_TURN = RLock()  # of the thread in whose segment neurons answer; another may wait for a gradient through segments
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_TURN.acquire, after_in_parent=_TURN.release, after_in_child=_TURN.release)

States = Mapping[tuple[str, int], Any]  # after each call of a neuron or circuit, by its name and the number of the call


def in_segments(model: nn.Module, x: Tensor, length: int, *, truncate: bool = False) -> Tensor:
    """Run a network on segments of a sequence; each continues from the state at the end of the one before.

    >>> from fluctua.neurons import LI, LIF
    >>> model, x = nn.Sequential(nn.Linear(20, 10), LIF(), nn.Linear(10, 3), LI()), torch.randn(1000, 2, 20)
    >>> in_segments(model, x, 200).sum().backward()
    >>> model[0].weight.grad.shape
    torch.Size([10, 20])

    Between forward and backward only input, output and the states at the borders are kept; backward computes each
    segment again. So training needs the memory of one segment and one more forward pass, and the gradients are those of
    the whole sequence.

    Recurrent circuits run step by step here, also a `Recurrent` or `DaleLayer` that is otherwise one operation. That
    operation is much faster and keeps its spikes as bits, so it usually needs no segments.

    With `truncate` no gradient flows from a segment into the one before it (truncated backpropagation through time).
    This is biased: the effect of a spike on later segments is not learnt. So choose a length of many membrane, synaptic
    and adaptation time constants.

    Args:
        model: of fluctua's neurons and circuits; everything else in it must act on each time step alone, as weights
            and pooling do.
        x: input `[T, B, ...]`.
        length: of a segment in steps; the last may be shorter.
        truncate: whether gradients stop at the borders.

    Returns:
        The output `[T, B, ...]`.

    Raises:
        ValueError: a length below 1, or a model with norms that take statistics over time.
    """
    if not isinstance(length, int) or length < 1:
        raise ValueError(f"a segment has a length of 1 step or more, got {length!r}")
    _check(model)
    outputs, states = list[Tensor](), dict[tuple[str, int], Any]()
    for piece in x.split(length):  # type: ignore[no-untyped-call]
        if truncate:
            states = tree_map_only(Tensor, Tensor.detach, states)
        if torch.is_grad_enabled():
            output, states = checkpoint(_run, model, piece, states, wanted(), use_reentrant=False)
        else:
            output, states = _run(model, piece, states, wanted())
        outputs.append(output)
    return torch.cat(outputs)


def _run(model: nn.Module, piece: Tensor, before: States, name: str) -> tuple[Tensor, dict[tuple[str, int], Any]]:
    """Output of a segment, and the states after it, by the engine of this name, in backward too."""
    after: dict[tuple[str, int], Any] = {}
    with engine(name), _going_on(model, before, after):
        output: Tensor = model(piece)
    return output, after


@contextmanager
def _going_on(model: nn.Module, before: States, after: dict[tuple[str, int], Any]) -> Iterator[None]:
    """Inside the block neurons start from their states `before`, or at rest, and leave those `after`."""
    calls = Counter[str]()

    def starting(name: str, module: nn.Module) -> Any:
        def forward(*currents: Tensor) -> Tensor:
            call = name, calls[name]
            calls[name] += 1
            output, after[call] = _from(module, currents, before.get(call))
            return output

        return forward

    found = [(name, module) for name, module in model.named_modules() if isinstance(module, Neuron | Circuit)]
    with _TURN, answering({module: starting(name, module) for name, module in found}):
        yield


@contextmanager
def answering(forwards: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Inside the block, calls of these modules run these functions."""
    before = {module: vars(module).get("forward") for module in forwards}
    try:
        for module, forward in forwards.items():
            vars(module)["forward"] = forward
        yield
    finally:
        for module, own in before.items():
            vars(module).pop("forward", None)
            if own is not None:
                vars(module)["forward"] = own


def _from(module: Any, currents: tuple[Tensor, ...], state: Any) -> tuple[Tensor, Any]:
    """Output of neurons or of a circuit that start from a state, or at rest, and the state after."""
    if isinstance(module, Circuit):
        spikes, after = module.proceed(*currents, state=state)
        return module.emit(spikes), after
    result = module.simulate(*currents, state=state)
    return result.output, result.state


def _check(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.training:
            raise ValueError(
                f"{name} takes statistics over the whole sequence, which segments do not see: put it in eval mode, or "
                "run the sequence as a whole"
            )
