"""A fused loop as operators, for `torch.compile`; they cost more per call than an autograd function.

Operators take and return numbers, strings and tensors: a step is passed by name, and an empty tensor stands for a
missing gradient.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fluctua.timeloop.contract import Form, constant_when_compiled, refuse_second_derivative
from fluctua.timeloop.derivation import Device, Kind, Loop, has_potential, plan_of

_KINDS: dict[str, Kind] = {}


def compiled(tensors: Sequence[Tensor], kind: Kind) -> list[Tensor]:
    """`derivation.Loop.forth` as one operator."""
    results: list[Tensor] = _loop(list(tensors), _name(kind.device, kind.wanted, kind.trains, kind.compact, *kind.form))
    n = int(has_potential(*kind.form))
    return [results[0], *(t.detach() for t in results[1 : 1 + n]), *results[1 + n :]]


@constant_when_compiled
def _name(device: Device, wanted: tuple[int, ...], trains: bool, compact: bool, *form: Any) -> str:
    kind = Kind(device, Form(*form), wanted, trains, compact)
    _KINDS[repr(kind)] = kind
    return repr(kind)


@torch.library.custom_op("fluctua::time_loop", mutates_args=())
def _loop(tensors: Sequence[Tensor], name: str) -> list[Tensor]:
    return Loop(_KINDS[name], tensors[0].shape).forth(tensors)


@_loop.register_fake
def _shapes(tensors: Sequence[Tensor], name: str) -> list[Tensor]:
    kind, x = _KINDS[name], tensors[0]
    plan = plan_of(kind)
    types = [x.dtype] * (len(plan.forth.written) - plan.forth.halves) + [torch.int16] * plan.forth.halves
    written = [x.new_empty(x.shape, dtype=dtype) for dtype in types]
    ends = [x.new_empty(x.shape[1:]) for _ in range(kind.form.states)]
    return [*written[: plan.first], *ends, *written[plan.first :]]


@torch.library.custom_op("fluctua::time_loop_adjoint", mutates_args=())
def _adjoint(grads: Sequence[Tensor], saved: Sequence[Tensor], name: str) -> list[Tensor]:
    found = Loop(_KINDS[name], grads[0].shape).back(saved, grads, ())
    return [grads[0].new_empty(0) if g is None else g for g in found]


@_adjoint.register_fake
def _shapes_of_gradients(grads: Sequence[Tensor], saved: Sequence[Tensor], name: str) -> list[Tensor]:
    kind, g = _KINDS[name], grads[0]
    shapes: list[Sequence[int]] = [*[g.shape] * kind.form.inputs, *[g.shape[1:]] * kind.form.states]
    shapes += [c.shape if k in kind.wanted else (0,) for k, c in enumerate(saved[: kind.form.constants])]
    return [g.new_empty(shape) for shape in shapes]


def _save(ctx: Any, inputs: tuple[Any, ...], output: Sequence[Tensor]) -> None:
    tensors, ctx.name = inputs
    ctx.save_for_backward(*Loop(_KINDS[ctx.name], tensors[0].shape).kept(tensors, output))
    ctx.wanted = [t.requires_grad for t in tensors]


def _differentiate(ctx: Any, grads: Sequence[Tensor]) -> tuple[Any, ...]:
    found = _adjoint(grads, list(ctx.saved_tensors), ctx.name)
    return [g if asked else None for g, asked in zip(found, ctx.wanted, strict=True)], None


def _refuse(ctx: Any, *_: Any) -> None:
    refuse_second_derivative("the fused time loop")


_loop.register_autograd(_differentiate, setup_context=_save)
_adjoint.register_autograd(_refuse)
