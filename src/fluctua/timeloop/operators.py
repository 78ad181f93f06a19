"""A fused loop as operators, for `torch.compile`: dearer to call than the function of `fused.py`.

Operators take and give numbers, texts and tensors: a step goes by its name, and in place of a gradient that is missing
there is a tensor without elements.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fluctua.timeloop.contract import Form
from fluctua.timeloop.derivation import Kind, adjoint, integrate, plan_of, to_be_saved
from fluctua.timeloop.limits import has_potential, refuse_second_derivative


def compiled(tensors: Sequence[Tensor], kind: Kind) -> list[Tensor]:
    """`derivation.integrate` as one operator."""
    sizes = [*kind.form[1:], int(kind.trains), int(kind.compact), *kind.wanted]
    results: list[Tensor] = _loop(list(tensors), kind.device, kind.form.step, sizes)
    n = int(has_potential(*kind.form))
    return [results[0], *(t.detach() for t in results[1 : 1 + n]), *results[1 + n :]]


def _kind(device: Any, step: str, sizes: Sequence[int]) -> Kind:
    inputs, states, constants, trains, compact, *wanted = sizes
    return Kind(device, Form(step, inputs, states, constants), tuple(wanted), bool(trains), bool(compact))


@torch.library.custom_op("fluctua::time_loop", mutates_args=())
def _loop(tensors: Sequence[Tensor], device: str, step: str, sizes: Sequence[int]) -> list[Tensor]:
    return integrate(tensors, _kind(device, step, sizes))


@_loop.register_fake
def _shapes(tensors: Sequence[Tensor], device: str, step: str, sizes: Sequence[int]) -> list[Tensor]:
    kind = _kind(device, step, sizes)
    plan, x = plan_of(kind), tensors[0]
    written = [x.new_empty(x.shape) for _ in plan.forth.written]
    ends = [x.new_empty(x.shape[1:]) for _ in range(kind.form.states)]
    halves = [x.new_empty(x.shape, dtype=torch.int16) for _ in plan.forth.halves]
    return [*written[: plan.first], *ends, *written[plan.first :], *halves]


@torch.library.custom_op("fluctua::time_loop_adjoint", mutates_args=())
def _adjoint(
    gradients: Sequence[Tensor],
    saved: Sequence[Tensor],
    wants_inputs: bool,
    device: str,
    step: str,
    sizes: Sequence[int],
) -> list[Tensor]:
    g_output, *g_state = gradients
    found = adjoint(g_output, g_state, saved, g_output.shape, wants_inputs, _kind(device, step, sizes))
    return [g_output.new_empty(0) if g is None else g for g in found]


@_adjoint.register_fake
def _shapes_of_gradients(
    gradients: Sequence[Tensor],
    saved: Sequence[Tensor],
    wants_inputs: bool,
    device: str,
    step: str,
    sizes: Sequence[int],
) -> list[Tensor]:
    kind, g = _kind(device, step, sizes), gradients[0]
    by_input: Sequence[int] = g.shape if wants_inputs else (0,)
    shapes = [*[by_input] * kind.form.inputs, *[g.shape[1:]] * kind.form.states]
    shapes += [c.shape if k in kind.wanted else (0,) for k, c in enumerate(saved[: kind.form.constants])]
    return [g.new_empty(shape) for shape in shapes]


def _save(ctx: Any, inputs: tuple[Any, ...], output: Sequence[Tensor]) -> None:
    tensors, *ctx.which = inputs
    ctx.save_for_backward(*to_be_saved(tensors, output, _kind(*ctx.which)))
    ctx.needed = [t.requires_grad for t in tensors]


def _differentiate(ctx: Any, grads: Sequence[Tensor]) -> tuple[Any, ...]:
    kind = _kind(*ctx.which)
    first = plan_of(kind).first
    given = [grads[0], *grads[first : first + kind.form.states]]
    found = _adjoint(given, list(ctx.saved_tensors), any(ctx.needed[: kind.form.inputs]), *ctx.which)
    return [g if needed else None for g, needed in zip(found, ctx.needed, strict=True)], None, None, None


def _refuse(ctx: Any, *_: Any) -> None:
    refuse_second_derivative("the fused time loop")


_loop.register_autograd(_differentiate, setup_context=_save)
_adjoint.register_autograd(_refuse)
