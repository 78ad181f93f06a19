"""A network on a long sequence, one segment of time after the other, in memory that does not grow with its length."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fluctua.layers.circuit import Circuit
from fluctua.neurons import ExcInhLIF, LeakyNeuron

States = Mapping[str, Any]  # by the neurons' names; of those that have run


def in_segments(model: nn.Module, x: Tensor, length: int, *, truncate: bool = False) -> Tensor:
    """Run a network on segments of a sequence, the neurons of each going on from where the last one ended.

    ::

        loss = criterion(fluctua.in_segments(model, x, 200), y)
        loss.backward()

    Between forward and backward only the states at the borders are kept, besides input and output; a segment is
    computed again when backward comes to it. So the memory of training is that of one segment, for one forward pass
    more, and the gradients are those of the whole sequence.

    With `truncate` no gradient flows from a segment into the one before it (truncated backpropagation through time).
    This is biased: what a spike does to later segments is not learnt from, so choose a length of many membrane and
    synaptic time constants, and of many adaptation time constants where neurons adapt.

    Args:
        model: of fluctua's neurons; all else in it works on each time step by itself, as weights and pooling do.
        x: input `[T, B, ...]`.
        length: of a segment in steps; the last may be shorter.
        truncate: whether gradients stop at the borders.

    Returns:
        The output `[T, B, ...]`.

    Raises:
        ValueError: a length below 1, or a model with recurrent circuits (a `Chain` trains those in little memory) or
            with norms that take statistics over time.
    """
    if length < 1:
        raise ValueError(f"a segment has a length of 1 step or more, got {length}")
    _check(model)
    outputs, states = list[Tensor](), dict[str, Any]()
    for piece in x.split(length):  # type: ignore[no-untyped-call]
        if truncate:
            states = {name: _detached(state) for name, state in states.items()}
        if torch.is_grad_enabled():
            output, states = checkpoint(_run, model, piece, states, use_reentrant=False)
        else:
            output, states = _run(model, piece, states)
        outputs.append(output)
    return torch.cat(outputs)


def _run(model: nn.Module, piece: Tensor, before: States) -> tuple[Tensor, dict[str, Any]]:
    """Output of a segment, and the states after it."""
    after: dict[str, Any] = {}
    with _going_on(model, before, after):
        output: Tensor = model(piece)
    return output, after


@contextmanager
def _going_on(model: nn.Module, before: States, after: dict[str, Any]) -> Iterator[None]:
    """Inside the block neurons start from their states `before`, or at rest, and leave those `after`."""

    def starting(name: str, neuron: nn.Module) -> Any:
        def forward(*currents: Tensor) -> Tensor:
            result = neuron.simulate(*currents, state=before.get(name))  # type: ignore[operator]
            after[name] = result.state
            output: Tensor = result.output
            return output

        return forward

    neurons = {name: m for name, m in model.named_modules() if isinstance(m, LeakyNeuron | ExcInhLIF)}
    for name, neuron in neurons.items():
        vars(neuron)["forward"] = starting(name, neuron)
    try:
        yield
    finally:
        for neuron in neurons.values():
            del vars(neuron)["forward"]


def _detached(state: Any) -> Any:
    return type(state)(*(None if part is None else part.detach() for part in state))


def _check(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, Circuit):
            raise ValueError(
                f"{name or 'the model'} is a recurrent circuit, whose state cannot be carried from segment to segment: "
                "a fluctua.layers.Chain trains nn.Linear and Recurrent layers on long sequences in little memory"
            )
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.training:
            raise ValueError(
                f"{name} takes statistics over the whole sequence, which segments do not see: put it in eval mode, or "
                "run the sequence as a whole"
            )
