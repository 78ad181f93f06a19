"""The fused time loop on the GPU: one Triton program for each block of neurons, forward and backward.

Neurons and samples are alike to the loop, so a current `[T, B, *N]` is taken as `[T, M]`. Both directions are operators
of torch (`torch.library`), which torch.compile takes as they are.
"""

import math
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fluctua.timeloop.contract import SHAPES, LoopParameters, LoopResult, State
from fluctua.timeloop.limits import is_special, refuse_second_derivative, unsupported_numbers

_BLOCK = 128  # columns of a program, one for each of its threads


def _imported_kernels() -> Any:
    try:
        return import_module("fluctua.timeloop.gpu_kernels")
    except ImportError:
        return None


kernels = _imported_kernels()


class GpuEngine:
    """Serves float32 and float64 on CUDA devices with the surrogates of this package; see `unsupported`.

    Under Triton's interpreter (the variable TRITON_INTERPRET=1 in the environment) it serves CPU tensors too, slowly:
    that is how it is tested.
    """

    name = "gpu"

    def unsupported(self, current: Tensor, parameters: LoopParameters) -> str | None:
        """See `Engine.unsupported`."""
        p = parameters
        constants = [c for c in p.constants if c is not None]
        if kernels is None:
            return "triton is not installed: pip install 'fluctua[gpu]'"
        if not current.is_cuda and not kernels.INTERPRETED:
            return f"it takes CUDA tensors, not one on {current.device}"
        if any(is_special(tensor) for tensor in (current, *constants)):
            return "it takes plain tensors, not subclasses, sparse or dual tensors, nor those of torch.func"
        if any(c.device != current.device for c in constants):
            return f"a constant is not on the current's device {current.device}"
        return unsupported_numbers(current, constants, p)

    def run(self, current: Tensor, parameters: LoopParameters, state: State) -> LoopResult:
        """See `Engine.run`."""
        p, neurons = parameters, current.shape[2:]
        names = _state_names(p)
        constants = torch.stack([(p.decay_mem.detach() if c is None else c).expand(neurons) for c in p.constants])
        start = torch.stack([getattr(state, name) for name in names])
        trains = torch.is_grad_enabled() and any(t.requires_grad for t in (current, start, constants))
        kind = _Kind.of(p, trains, learns=trains and constants.requires_grad)
        shape = SHAPES[type(p.surrogate)](p.surrogate.beta) if p.spiking else ("", 0.0, 0.0)
        potential, output, _, _, end = _forward(current, start, constants, kind, *shape)
        after = state._replace(**dict(zip(names, end.unbind(0), strict=True)))
        if not p.spiking:
            return LoopResult(potential, potential, after)
        return LoopResult(output, potential.detach(), after)


class _Kind(NamedTuple):
    """What there is to do, numbers apart; an option without effect is off, which saves compiling.

    `raises` and `coupled` are the two forms of adaptation; the last three say what backward will need.
    """

    exponential: bool
    spiking: bool
    hard: bool
    differentiable: bool
    raises: bool
    coupled: bool
    records_current: bool
    records_adaptation: bool
    learns: bool

    @classmethod
    def of(cls, p: LoopParameters, trains: bool, learns: bool) -> "_Kind":
        exponential, spiking = p.decay_syn is not None, p.spiking
        hard, differentiable = spiking and p.reset == "zero", spiking and p.differentiable_reset
        adapts = spiking and p.adaptation is not None
        coupled = adapts and p.adaptation is not None and p.adaptation.coupling is not None
        raises = adapts and not coupled
        inner = trains and (learns or (hard and differentiable))
        return cls(
            exponential,
            spiking,
            hard,
            differentiable,
            raises,
            coupled,
            records_current=inner and exponential,
            records_adaptation=(inner and coupled) or (trains and raises),
            learns=learns,
        )

    @property
    def reads_input(self) -> bool:
        """Whether backward needs the input current itself."""
        return self.hard and self.differentiable and not self.exponential


def _blank_results(
    x: Tensor, state: Tensor, constants: Tensor, kind: Sequence[bool], *surrogate: object
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    k = _Kind(*kind)
    wanted = True, k.spiking, k.records_current, k.records_adaptation
    potential, output, current, adaptation = (x.new_empty(x.shape if there else 0) for there in wanted)
    return potential, output, current, adaptation, state.new_empty(state.shape)


@torch.library.custom_op("fluctua::time_loop", mutates_args=())
def _forward(
    x: Tensor, state: Tensor, constants: Tensor, kind: Sequence[bool], surrogate: str, slope: float, height: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Potential, output, current and adaptation `[T, B, *N]`, empty where there is none, and the final state."""
    k = _Kind(*kind)
    results = _blank_results(x, state, constants, kind)
    given = [t.contiguous() for t in (x, state, constants)]
    flags = k.exponential, k.spiking, k.hard, k.raises, k.coupled, k.records_current, k.records_adaptation
    _launch(kernels.forward_loop, (*given, *results), x.shape, *flags)
    return results


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, _, constants, kind, *surrogate = inputs
    potential, _, current, adaptation, end = output
    k = _Kind(*kind)
    drive = current if k.records_current else x if k.reads_input else None
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(
        constants, potential if k.spiking or k.learns else None, drive, adaptation if k.records_adaptation else None
    )
    ctx.kind, ctx.surrogate, ctx.shape, ctx.states = k, surrogate, x.shape, len(end)


def _gradients(ctx: Any, g_potential: Tensor | None, g_output: Tensor | None, *others: Tensor | None) -> Any:
    constants, *records = ctx.saved_tensors
    g_out, g_end = g_output if ctx.kind.spiking else g_potential, others[-1]
    if g_out is None:  # only the final state was used
        g_out = constants.new_zeros(ctx.shape)
    if g_end is None:
        g_end = constants.new_zeros((ctx.states, *ctx.shape[1:]))
    wants_input = ctx.needs_input_grad[0]
    g_x, g_state, g_constants = _backward(g_out, g_end, constants, *records, ctx.kind, *ctx.surrogate, wants_input)
    return g_x if wants_input else None, g_state, g_constants if ctx.kind.learns else None, None, None, None, None


_forward.register_fake(_blank_results)
_forward.register_autograd(_gradients, setup_context=_remember)


def _blank_gradients(g_out: Tensor, g_end: Tensor, constants: Tensor, *options: Any) -> tuple[Tensor, Tensor, Tensor]:
    *_, kind, _, _, _, wants_input = options
    learns = _Kind(*kind).learns
    return (
        g_out.new_empty(g_out.shape if wants_input else 0),
        g_end.new_empty(g_end.shape),
        constants.new_empty(constants.shape if learns else 0),
    )


@torch.library.custom_op("fluctua::time_loop_backward", mutates_args=())
def _backward(
    g_out: Tensor,
    g_end: Tensor,
    constants: Tensor,
    potential: Tensor | None,
    drive: Tensor | None,
    adaptation: Tensor | None,
    kind: Sequence[bool],
    surrogate: str,
    slope: float,
    height: float,
    wants_input: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients with respect to the current, the initial state and the constants; empty where not wanted."""
    k = _Kind(*kind)
    g_x, g_state = g_out.new_empty(g_out.shape if wants_input else 0), g_end.new_empty(g_end.shape)
    g_columns = g_end.new_empty((len(constants), *g_end.shape[1:]) if k.learns else 0)
    given = [(g_out if t is None else t).contiguous() for t in (g_out, g_end, constants, potential, drive, adaptation)]
    flags = k.exponential, k.spiking, k.hard, k.differentiable, k.raises, k.coupled, k.records_adaptation, k.learns
    last = math.prod(g_out.shape) - math.prod(g_out.shape[1:])
    arguments = *given, g_x, g_state, g_columns
    _launch(kernels.backward_loop, arguments, g_out.shape, last, *flags, wants_input, surrogate, slope, height)
    return g_x, g_state, g_columns.sum(1, dtype=torch.float64).to(g_out) if k.learns else g_columns


def _refuse(ctx: Any, *_: Any) -> None:
    refuse_second_derivative("the fused time loop")


_backward.register_fake(_blank_gradients)
_backward.register_autograd(_refuse)


def _launch(kernel: Any, arrays: Sequence[Tensor], shape: torch.Size, *options: Any) -> None:
    """Run the kernel on all columns of its arrays, without fusing operations: each is rounded as torch rounds it."""
    columns = math.prod(shape[1:])
    if columns == 0:
        return
    blocks = -(-columns // _BLOCK)
    with torch.cuda.device_of(arrays[0]):  # type: ignore[no-untyped-call]
        kernel[blocks,](
            *arrays,
            shape[0],
            columns,
            math.prod(shape[2:]),
            *options,
            BLOCK=_BLOCK,
            num_warps=_BLOCK // 32,
            enable_fp_fusion=False,
        )


def _state_names(p: LoopParameters) -> list[str]:
    """The parts of the state that there are, in the kernels' order."""
    there = {
        "potential": True,
        "current": p.decay_syn is not None,
        "adaptation": p.spiking and p.adaptation is not None,
    }
    return [name for name, present in there.items() if present]
