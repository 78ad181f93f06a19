"""Which modules run together in one fused operation, with which arguments, and why others run unfused.

Only modules that nobody looks into are fused: a module with hooks, a subclass, or one inside a transformation of torch
runs unfused, with the same result, and the log says so.
"""

import logging
from collections.abc import Callable, Container, Sequence
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode

from fluctua.neurons import LI, LIF, AdaptiveLIF, ExcInhLIF
from fluctua.neurons.leaky import Neuron
from fluctua.neurons.own_step import StepNeuron
from fluctua.timeloop.contract import Dynamics
from fluctua.timeloop.derivation import gives_spikes
from fluctua.timeloop.engines import choose, is_special, recurrent

if TYPE_CHECKING:  # numba is imported only when a network runs
    from fluctua.timeloop.events_layers import Layer

log = logging.getLogger(__name__)

Result = TypeVar("Result")

SPIKING = LIF, AdaptiveLIF, ExcInhLIF, StepNeuron
"""Neurons that may be recurrent in a fused loop."""

FUSED = *SPIKING, LI
"""Neurons that run together with the weight in front."""

WIDEST = 1000
"""Largest recurrent fan-in in a map; beyond, torch's dense convolution is as fast if a tenth of them spike."""


class Unfused(Exception):
    """Why modules run unfused."""


def plan(what: str, decide: Callable[[], Result]) -> Result | None:
    """What to run in place of modules, or None if they run unfused; the log says why.

    Args:
        what: the modules, for the log.
        decide: returns it, or raises `Unfused`.
    """
    if torch.compiler.is_compiling():
        return None
    try:
        return decide()
    except Unfused as reason:
        log.info("%s: not fused, since %s", what, reason)
        return None


def demand(holds: bool, otherwise: str) -> None:
    """Raise the reason why modules run unfused, unless a condition holds.

    Raises:
        Unfused: the condition does not hold.
    """
    if not holds:
        raise Unfused(otherwise)


def is_unmodified(module: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Whether a module's class is exactly one of `kinds`, and a call runs only its forward."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    altered = any(hooks) or "forward" in vars(module) or module._compiled_call_impl is not None
    return type(module) in kinds and not altered


def demand_unmodified(module: nn.Module, *kinds: type[nn.Module]) -> None:
    """Refuse a module that is not `is_unmodified`."""
    name = type(module).__name__
    demand(type(module) in kinds, f"{name} is none of {', '.join(kind.__name__ for kind in kinds)}")
    demand(is_unmodified(module, *kinds), f"{name} has a hook or its own forward")


def demand_eager(x: Tensor, devices: Container[str] = ("cpu",)) -> None:
    """Refuse anything but plain numbers in eager mode: tracing, transformations, autocast, modes and hooks."""
    demand(x.device.type in devices, f"the input is on {x.device}")
    demand(x.dtype in (torch.float32, torch.float64), f"the input is {x.dtype}")
    demand(not torch.is_autocast_enabled(x.device.type), "autocast is on")
    demand(
        not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
        and torch._C._functorch.peek_interpreter_stack() is None
        and _get_current_dispatch_mode() is None
        and not _get_current_function_mode_stack(),  # type: ignore[no-untyped-call]
        "torch traces or transforms the network, or a mode is on",
    )
    demand(not _has_any_global_hook(), "torch has global hooks")  # type: ignore[no-untyped-call]


def demand_ordinary(like: Tensor, *weights: Tensor | None) -> None:
    """Refuse weights that are not ordinary tensors in memory, of the type of the input."""
    for tensor in weights:
        if tensor is not None:
            demand(not is_special(tensor), f"a tensor is a {type(tensor).__name__}, sparse, dual or of torch.func")
            fits = tensor.device == like.device and tensor.dtype == like.dtype
            demand(fits, f"a tensor is {tensor.dtype} on {tensor.device}, not {like.dtype} on {like.device}")


def demand_sequence(*inputs: Tensor) -> None:
    """Refuse anything that is not an ordinary sequence `[T, B, N]`, or is empty."""
    for x in inputs:
        demand(x.ndim == 3 and x.numel() > 0, f"the input {tuple(x.shape)} is no sequence [T, B, N], or empty")
        demand_ordinary(x, x)


def dynamics_of(neurons: nn.Module, like: Tensor) -> tuple[Dynamics, tuple[float, ...]]:
    """The step of a population of the kinds `FUSED`, in the type of a tensor, and its state before the first step.

    Raises:
        Unfused: fused layers do not support it.
    """
    assert isinstance(neurons, Neuron)
    dynamics = neurons.dynamics().to(like)
    if not isinstance(neurons, StepNeuron):
        first = neurons.initial if isinstance(neurons, LI) else 0.0
        return dynamics, (first, *[0.0] * (dynamics.states - 1))
    demand(dynamics.inputs == 1, "the neurons have several inputs")
    demand(gives_spikes(dynamics) is dynamics.spiking, "their step cannot be traced, or its output is not as declared")
    return dynamics, neurons.facts()[0]


def serving(dynamics: Dynamics, neurons: torch.Size, like: Tensor) -> str:
    """The engine that serves a population of this shape, on input of the type of a tensor."""
    return choose((like,) * dynamics.inputs, dynamics, neurons).name


def demand_cpu(dynamics: Dynamics, size: int, like: Tensor, *, or_gpu: bool = False) -> None:
    """Refuse what the fused CPU loop, or that of the GPU, does not serve for `size` neurons."""
    name = serving(dynamics, torch.Size([size]), like)
    demand(name == "cpu" or (or_gpu and name == "gpu"), f"the {name} engine serves the neurons")
    each = all(c.numel() == 1 or c.shape == (size,) for c in dynamics.constants)
    demand(each, "a constant is neither one number nor one per neuron")


def fused_layer(
    neurons: nn.Module, size: int, like: Tensor, *, linear: nn.Linear | None = None, back: nn.Linear | None = None
) -> "Layer":
    """The facts of a population of `size` neurons on input of the type of `like`.

    Args:
        neurons: a bare module of one of the kinds `FUSED`.
        size: number of neurons.
        like: a tensor of the input's type.
        linear: the bare weight in front.
        back: the bare weight from the population to itself.

    Raises:
        Unfused: it must run unfused.
    """
    dynamics, initial = dynamics_of(neurons, like)
    demand_cpu(dynamics, size, like)
    for module in (linear, back):
        if module is not None:
            demand_ordinary(like, module.weight, module.bias)
    square = back is None or (back.in_features, back.out_features) == (size, size)
    demand(square, "the recurrent weight does not lead from the population to itself")

    from fluctua.timeloop.events_layers import Layer

    weight, bias = (None, None) if linear is None else (linear.weight, linear.bias)
    recurrent, recurrent_bias = (None, None) if back is None else (back.weight, back.bias)
    return Layer((size,), dynamics, weight, bias, recurrent, recurrent_bias, initial)


def heard_spikes(
    dynamics: Dynamics, initial: Sequence[float], weight: Tensor, bias: Tensor | None, x: Tensor
) -> Tensor:
    """Spikes of a recurrent population, on the CPU or the GPU.

    Args:
        dynamics: the step of spiking neurons.
        initial: each part of their state before the first step.
        weight: from the population to itself; likewise `bias`.
        x: current from outside `[T, B, N]`, not empty.

    Raises:
        Unfused: it must run step by step.
    """
    size = x.shape[2]
    demand_ordinary(x, weight, bias)
    demand(tuple(weight.shape) == (size, size), "the recurrent weight does not lead from the population to itself")
    demand_cpu(dynamics, size, x, or_gpu=True)
    from fluctua.timeloop.events_layers import Layer

    layer = Layer((size,), dynamics, recurrent=weight, recurrent_bias=bias, initial=tuple(initial))
    return run_heard(x, layer)[0]


def run_heard(x: Tensor, layer: "Layer") -> tuple[Tensor, ...]:
    """Spikes of each section of a recurrent layer without a weight in front, on the CPU or the GPU.

    Args:
        x: current from outside `[T, B, N]`, not empty.
        layer: whose first section reaches the first input, and the second the last.
    """
    dynamics, (first, *_) = layer.dynamics, layer.sections
    if serving(dynamics, x.shape[2:], x) != "gpu":
        from fluctua.timeloop.events_layers import run_layers

        return run_layers(x, [layer])
    assert layer.recurrent is not None
    weight = nn.functional.pad(layer.recurrent, (x.shape[2] - layer.recurrent.shape[1], 0))
    initial = *layer.initial, *[0.0] * (dynamics.states - len(layer.initial))
    state = tuple(torch.full_like(x[0], part) for part in initial)
    return layer.parted(recurrent(x, dynamics, state, weight, layer.recurrent_bias, first).output)


def heard_map(dynamics: Dynamics, initial: Sequence[float], conv: nn.Conv1d | nn.Conv2d, x: Tensor) -> Tensor:
    """As `heard_spikes`, for a feature map `[T, B, C, *N]` through a convolution, without its bias.

    The convolution must keep the map's size, be no wider than `WIDEST`, and have neither groups nor dilation; the
    neurons must start at zero.

    Raises:
        Unfused: it must run step by step.
    """
    demand(not any(initial), "the neurons do not start at zero")
    middle = tuple(kernel // 2 for kernel in conv.kernel_size)
    centred = all(kernel % 2 for kernel in conv.kernel_size) and conv.padding in ("same", middle)
    alone = {*conv.stride, *conv.dilation, conv.groups} == {1} and conv.padding_mode == "zeros"
    demand(centred and alone, "the convolution is not a plain window around each neuron")
    demand(conv.weight[0].numel() <= WIDEST, f"a neuron receives spikes from more than {WIDEST} others")
    fits = x.ndim == 3 + len(conv.kernel_size) and {conv.in_channels, conv.out_channels} == {x.shape[2]}
    demand(fits and x.numel() > 0, f"the current {tuple(x.shape)} is not that of such a map, or empty")
    demand_ordinary(x, x, conv.weight)
    name = serving(dynamics, x.shape[2:], x)
    if name == "gpu":
        return recurrent(x, dynamics, tuple(torch.full_like(x[0], part) for part in initial), conv.weight, None).output
    demand(name == "cpu", f"the {name} engine serves the neurons")

    from fluctua.timeloop.conv_recurrence import run

    return run(x, dynamics, conv.weight)
