"""The passes of the CPU loop as operators of torch, which `torch.compile` takes as they are, and `torch.export` too.

An operator has no optional results: in place of a tensor that is missing it gives one without elements.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fluctua.timeloop.cpu_loop import Kind, Maybe, adjoint, integrate
from fluctua.timeloop.limits import refuse_second_derivative

_INPUTS = 10  # current, three parts of the state, six constants


@torch.library.custom_op("fluctua::cpu_loop", mutates_args=())
def loop(
    x: Tensor,
    u: Tensor,
    i: Tensor | None,
    w: Tensor | None,
    a: Tensor,
    b: Tensor | None,
    theta: Tensor | None,
    rho: Tensor | None,
    beta: Tensor | None,
    c: Tensor | None,
    kind: Sequence[float],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The forward pass, `cpu_loop.integrate`: the fields of a `Passed`, of a kind as `packed`."""
    result = integrate(x, (u, i, w), (a, b, theta, rho, beta, c), _unpacked(kind))
    return tuple(x.new_empty(0) if part is None else part for part in result)  # type: ignore[return-value]


@loop.register_fake
def _shapes(
    x: Tensor, u: Tensor, i: Maybe, w: Maybe, *others: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    kind = _unpacked(others[-1])

    def row(wanted: bool, dtype: torch.dtype = x.dtype) -> Tensor:
        return x.new_empty(x.shape if wanted else (0,), dtype=dtype)

    ends = [x.new_empty((0,) if part is None else part.shape) for part in (u, i, w)]
    return (
        row(True),
        row(kind.spiking),
        ends[0],
        ends[1],
        ends[2],
        row(kind.exponential and kind.needs_drive),
        row(kind.needs_adaptation),
        row(True, torch.int16) if kind.compact else row(False),
    )


@torch.library.custom_op("fluctua::cpu_loop_adjoint", mutates_args=())
def loop_adjoint(
    shape: Sequence[int],
    gout: Tensor,
    gend: Sequence[Tensor],
    values: Sequence[Tensor],
    recorded: Sequence[Tensor],
    wanted: Sequence[bool],
    kind: Sequence[float],
) -> list[Tensor]:
    """The backward pass, `cpu_loop.adjoint`, with tensors without elements for those that are missing."""
    gend_, values_, recorded_ = ([_given(t) for t in tensors] for tensors in (gend, values, recorded))
    gradients = adjoint(torch.Size(shape), gout, gend_, values_, recorded_, wanted, _unpacked(kind))
    return [gout.new_empty(0) if g is None else g for g in gradients]


@loop_adjoint.register_fake
def _shapes_of_gradients(
    shape: Sequence[int],
    gout: Tensor,
    gend: Sequence[Tensor],
    values: Sequence[Tensor],
    recorded: Sequence[Tensor],
    wanted: Sequence[bool],
    kind: Sequence[float],
) -> list[Tensor]:
    shapes = [shape, *[shape[1:]] * 3, *(value.shape for value in values)]
    return [gout.new_empty(s if want else (0,)) for s, want in zip(shapes, wanted, strict=True)]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, *_, packed_kind = inputs
    potential, _, _, _, _, current, adaptation, distance = output
    kind = _unpacked(packed_kind)
    drive = current if kind.exponential or not kind.needs_drive else x
    nothing = x.new_empty(0)
    values = [nothing if value is None else value for value in inputs[4:_INPUTS]]
    needs_potential = (kind.spiking or kind.learns) and not kind.compact
    ctx.save_for_backward(*values, potential if needs_potential else nothing, drive, adaptation, distance)
    ctx.kind, ctx.shape, ctx.there = packed_kind, x.shape, [value is not None for value in inputs[:_INPUTS]]


def _differentiate(ctx: Any, *grads: Tensor) -> tuple[Maybe, ...]:
    saved = ctx.saved_tensors
    gout = grads[1] if _unpacked(ctx.kind).spiking else grads[0]
    wanted = [bool(needs) for needs in ctx.needs_input_grad[:_INPUTS]]
    gradients = loop_adjoint(
        list(ctx.shape), gout, list(grads[2:5]), list(saved[:6]), list(saved[6:]), wanted, list(ctx.kind)
    )
    return *(g if want else None for g, want in zip(gradients, wanted, strict=True)), None


def _refuse(ctx: Any, *_: Any) -> None:
    refuse_second_derivative("the fused time loop")


loop.register_autograd(_differentiate, setup_context=_save)
loop_adjoint.register_autograd(_refuse)


def packed(kind: Kind) -> list[float]:
    """A kind as numbers, which is what an operator takes."""
    return [float(value) for value in kind]


def _unpacked(numbers: Sequence[float]) -> Kind:
    kinds = (bool, bool, bool, bool, int, int, float, float, bool, bool, bool)
    return Kind(*(kind(number) for kind, number in zip(kinds, numbers, strict=True)))


def _given(tensor: Tensor) -> Maybe:
    return tensor if tensor.numel() else None
