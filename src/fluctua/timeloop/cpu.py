"""The fused time loop on the CPU: one pass over memory forward, one backward, over all cores."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fluctua.timeloop.contract import LoopParameters, LoopResult, State
from fluctua.timeloop.cpu_loop import Kind, Maybe, Passed, adjoint, integrate
from fluctua.timeloop.limits import anchor, differentiable_once, is_special, unsupported_numbers


class CpuEngine:
    """Serves float32 and float64 with the surrogates of this package; see `unsupported`.

    Results do not depend on the number of threads, which is torch's (`torch.set_num_threads`). Helpers sleep between
    two loops, and BLAS works before or after them, so the two never share a core.
    """

    name = "cpu"
    compact = False

    def unsupported(self, current: Tensor, parameters: LoopParameters) -> str | None:
        """See `Engine.unsupported`."""
        p = parameters
        values = [c for c in p.constants if c is not None]
        if any(tensor.device.type != "cpu" or is_special(tensor) for tensor in (current, *values)):
            return "it takes plain CPU tensors, not subclasses, sparse or dual tensors, nor those of torch.func"
        return unsupported_numbers(current, values, p)

    def run(self, current: Tensor, parameters: LoopParameters, state: State) -> LoopResult:
        """See `Engine.run`."""
        p = parameters
        i0 = None if p.decay_syn is None else state.current
        w0 = state.adaptation if p.spiking and p.adaptation is not None else None
        inputs = (current, state.potential, i0, w0, *p.constants)
        trains = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs)
        kind = Kind.of(p, trains, self.compact)
        if torch.compiler.is_compiling():
            passed = _as_operator(inputs, kind)
        elif trains:
            passed = Passed(*_Loop.apply(*inputs, anchor(inputs), kind))  # type: ignore[no-untyped-call]
        else:
            passed = integrate(current, inputs[1:4], inputs[4:], kind)
        i = state.current if passed.i is None else passed.i
        output = passed.potential if passed.output is None else passed.output
        return LoopResult(output, passed.potential, State(passed.u, i, passed.w))


class CompactCpuEngine(CpuEngine):
    """Keeps the potential of spiking neurons for backward in bfloat16, as its distance from threshold: half the memory.

    Spikes are the same. A distance is off by up to 2^-8 of itself, so the surrogate of SuperSpike by up to 2^-7 of
    itself, and gradients by less than one percent of the largest.
    """

    name = "cpu-bfloat16"
    compact = True


def _as_operator(inputs: tuple[Any, ...], kind: Kind) -> Passed:
    """The loop as one operator, for `torch.compile`: dearer to call than `_Loop`."""
    from fluctua.timeloop.cpu_operators import loop, packed  # defining operators takes a moment

    potential, output, u, i, w, *_ = loop(*inputs, packed(kind))
    given = (potential.detach() if kind.spiking else potential, output if kind.spiking else None, u)
    return Passed(*given, i if kind.exponential else None, w if kind.adapts else None)


class _Loop(torch.autograd.Function):
    @staticmethod
    def forward(*inputs: Any) -> tuple[Maybe, ...]:
        x, u, i, w, *values, _, kind = inputs
        return tuple(integrate(x, (u, i, w), values, kind))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        x, _, _, _, *values, tied, kind = inputs
        potential, _, _, _, _, current, adaptation, distance = output
        ctx.set_materialize_grads(False)
        ctx.kind, ctx.shape = kind, x.shape
        drive = current if kind.exponential or not kind.needs_drive else x
        needs_potential = (kind.spiking or kind.learns) and not kind.compact
        ctx.save_for_backward(*values, potential if needs_potential else None, drive, adaptation, distance, tied)
        records = [potential if kind.spiking else None, current, adaptation, distance]
        ctx.mark_non_differentiable(*(record for record in records if record is not None))

    @staticmethod
    def backward(ctx: Any, *grads: Maybe) -> tuple[Maybe, ...]:
        g_potential, g_output, *gend = grads[:5]
        *saved, tied = ctx.saved_tensors
        gout = g_output if ctx.kind.spiking else g_potential
        wanted = ctx.needs_input_grad[:10]
        with torch.no_grad():
            gradients: Sequence[Maybe] = adjoint(ctx.shape, gout, gend, saved[:6], saved[6:], wanted, ctx.kind)
        if torch.is_grad_enabled():  # create_graph: whoever goes on from here must not take them for constants
            gradients = differentiable_once(gradients, "the fused time loop", tied, *grads)
        return *gradients, None, None
