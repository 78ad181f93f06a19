"""The passes of the CPU loop as operators of torch, which `torch.compile` takes as they are, and `torch.export` too.

An operator takes and gives numbers, texts and tensors: a step goes by its name, and in place of a gradient that is
missing there is a tensor without elements.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fluctua.timeloop.cpu import gradients_of, split, what_is_read
from fluctua.timeloop.cpu_loop import Kind, integrate, plan_of
from fluctua.timeloop.limits import has_potential, refuse_second_derivative


def compiled(tensors: Sequence[Tensor], kind: Kind) -> list[Tensor]:
    """`cpu_loop.integrate` as one operator: dearer to call than `cpu._Loop`."""
    sizes = [kind.inputs, kind.states, kind.constants, int(kind.trains), int(kind.compact), *kind.wanted]
    results: list[Tensor] = _loop(list(tensors), kind.step, sizes)
    n = int(has_potential(kind.step, kind.inputs, kind.states, kind.constants))
    return [results[0], *(t.detach() for t in results[1 : 1 + n]), *results[1 + n :]]


def _kind(step: str, sizes: Sequence[int]) -> Kind:
    inputs, states, constants, trains, compact, *wanted = sizes
    return Kind(step, inputs, states, constants, tuple(wanted), bool(trains), bool(compact))


@torch.library.custom_op("fluctua::cpu_loop", mutates_args=())
def _loop(tensors: Sequence[Tensor], step: str, sizes: Sequence[int]) -> list[Tensor]:
    kind = _kind(step, sizes)
    return integrate(*split(tensors, kind), kind)


@_loop.register_fake
def _shapes(tensors: Sequence[Tensor], step: str, sizes: Sequence[int]) -> list[Tensor]:
    kind = _kind(step, sizes)
    plan, x = plan_of(kind), tensors[0]
    rows = [x.new_empty(x.shape) for _ in range(1 + plan.separate + len(plan.own))]
    ends = [x.new_empty(x.shape[1:]) for _ in range(kind.states)]
    halves = [x.new_empty(x.shape, dtype=torch.int16) for _ in plan.halves]
    first = 1 + plan.separate
    return [*rows[:first], *ends, *rows[first:], *halves]


@torch.library.custom_op("fluctua::cpu_loop_adjoint", mutates_args=())
def _adjoint(
    gradients: Sequence[Tensor], saved: Sequence[Tensor], wants_inputs: bool, step: str, sizes: Sequence[int]
) -> list[Tensor]:
    kind = _kind(step, sizes)
    constants, read = saved[: kind.constants], saved[kind.constants :]
    g_output, *g_state = gradients
    found = gradients_of(g_output, g_state, constants, read, wants_inputs, kind)
    return [g_output.new_empty(0) if g is None else g for g in found]


@_adjoint.register_fake
def _shapes_of_gradients(
    gradients: Sequence[Tensor], saved: Sequence[Tensor], wants_inputs: bool, step: str, sizes: Sequence[int]
) -> list[Tensor]:
    kind, g = _kind(step, sizes), gradients[0]
    shapes: list[Sequence[int]] = [g.shape if wants_inputs else (0,)] * kind.inputs + [g.shape[1:]] * kind.states
    shapes += [c.shape if k in kind.wanted else (0,) for k, c in enumerate(saved[: kind.constants])]
    return [g.new_empty(shape) for shape in shapes]


def _save(ctx: Any, inputs: tuple[Any, ...], output: Sequence[Tensor]) -> None:
    tensors, step, sizes = inputs
    kind = _kind(step, sizes)
    ctx.save_for_backward(*split(tensors, kind)[2], *what_is_read(tensors, output, kind))
    ctx.step, ctx.sizes, ctx.shape = step, sizes, tensors[0].shape
    ctx.needed = [t.requires_grad for t in tensors]


def _differentiate(ctx: Any, grads: Sequence[Tensor]) -> tuple[Any, ...]:
    kind = _kind(ctx.step, ctx.sizes)
    first = 1 + plan_of(kind).separate
    given = [grads[0], *grads[first : first + kind.states]]
    wants_inputs = any(ctx.needed[: kind.inputs])
    found = _adjoint(given, list(ctx.saved_tensors), wants_inputs, ctx.step, ctx.sizes)
    return [g if needed else None for g, needed in zip(found, ctx.needed, strict=True)], None, None


def _refuse(ctx: Any, *_: Any) -> None:
    refuse_second_derivative("the fused time loop")


_loop.register_autograd(_differentiate, setup_context=_save)
_adjoint.register_autograd(_refuse)
