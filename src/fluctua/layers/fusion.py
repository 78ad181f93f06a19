"""Which modules may run together in one fused operation, and what they are to it.

Only what nobody looks into is fused: a module with hooks, a subclass, or one inside a transformation of torch runs as
it stands, with the same result.
"""

from collections.abc import Container
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode

from fluctua.neurons import LI, LIF, AdaptiveLIF
from fluctua.neurons.own_step import StepNeuron
from fluctua.timeloop.contract import Dynamics
from fluctua.timeloop.engines import choose
from fluctua.timeloop.limits import gives_spikes

if TYPE_CHECKING:  # numba is imported when a first network runs
    from fluctua.timeloop.events_layers import Layer

SPIKING = LIF, AdaptiveLIF, StepNeuron
"""Neurons that may hear themselves in a fused loop."""

FUSED = *SPIKING, LI
"""Neurons that run together with the weight in front."""

MAX_DENSITY = 0.25
"""Share of entries that are not zero above which an input is multiplied as it is.

Measured for 700 afferents of 128 LIF neurons, forward and backward, one thread: spikes take 0.27 of the time of a
product at 3 %, 0.8 at 20 %, 1.25 at 35 %; convolutions cross at about the same density (`benchmarks/conv_events.py`).
Close to the crossing either costs the same, so the choice needs no memory.
"""


def is_unmodified(module: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Whether a module is exactly of one of these kinds, and its forward all that a call of it does."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    altered = any(hooks) or "forward" in vars(module) or module._compiled_call_impl is not None
    return type(module) in kinds and not altered


def runs_eagerly(x: Tensor, devices: Container[str] = ("cpu",)) -> bool:
    """Whether torch runs eagerly on plain numbers: no tracing, transformation, autocast, mode or global hook."""
    return (
        x.device.type in devices
        and x.dtype in (torch.float32, torch.float64)
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
        and not torch.is_autocast_enabled(x.device.type)
        and torch._C._functorch.peek_interpreter_stack() is None
        and _get_current_dispatch_mode() is None
        and not _get_current_function_mode_stack()  # type: ignore[no-untyped-call]
        and not _has_any_global_hook()  # type: ignore[no-untyped-call]
    )


def fused_layer(
    neurons: nn.Module, size: int, like: Tensor, *, linear: nn.Linear | None = None, back: nn.Linear | None = None
) -> "Layer | None":
    """The facts of a population of `size` neurons on input of the type of `like`, or None where it cannot be fused.

    Args:
        neurons: a bare module of one of the kinds `FUSED`.
        size: how many there are.
        like: a tensor of the input's type.
        linear: the bare weight in front.
        back: the bare weight from the population to itself.
    """
    found = dynamics_of(neurons)
    if found is None:
        return None
    dynamics, initial = found[0].to(like), found[1]
    weights = [t for module in (linear, back) if module is not None for t in (module.weight, module.bias)]
    if not can_fuse(dynamics, size, like) or not all(is_ordinary(w, like) for w in weights if w is not None):
        return None
    if back is not None and (back.in_features, back.out_features) != (size, size):
        return None

    from fluctua.timeloop.events_layers import Layer

    return Layer(
        (size,),
        dynamics,
        weight=None if linear is None else linear.weight,
        bias=None if linear is None else linear.bias,
        recurrent=None if back is None else back.weight,
        recurrent_bias=None if back is None else back.bias,
        initial=initial,
    )


def dynamics_of(neurons: nn.Module) -> tuple[Dynamics, float] | None:
    """What a population does and its potential before the first step, or None where layers have no place for it."""
    if isinstance(neurons, LIF | LI):
        return neurons.loop_parameters().dynamics, neurons.initial if isinstance(neurons, LI) else 0.0
    assert isinstance(neurons, StepNeuron)
    dynamics, (rest, _) = neurons.dynamics(), neurons.facts()
    served = dynamics.inputs == 1 and not any(rest[1:]) and gives_spikes(dynamics) is dynamics.spiking
    return (dynamics, rest[0]) if served else None


def recurrent_on_gpu(neurons: nn.Module, back: nn.Linear, x: Tensor) -> Tensor | None:
    """Spikes of a bare population that hears itself, or None where the gpu engine is not to serve it.

    Args:
        neurons: the population.
        back: the bare weight from the population to itself.
        x: current from outside `[T, B, N]`, not empty.
    """
    found, size = dynamics_of(neurons), x.shape[2]
    if found is None:
        return None
    dynamics, rest = found[0].to(x), torch.full_like(x[0], found[1])
    weights = [w for w in (back.weight, back.bias) if w is not None]
    fits = (back.in_features, back.out_features) == (size, size) and all(is_ordinary(w, x) for w in weights)
    if not fits or choose((x,), dynamics).name != "gpu":
        return None

    from fluctua.timeloop.gpu_recurrent import run

    state = rest, *[torch.zeros_like(rest)] * (dynamics.states - 1)
    return run(x, dynamics, state, back.weight, back.bias).output


def can_fuse(dynamics: Dynamics, size: int, like: Tensor) -> bool:
    """The fused layers serve what the fused CPU loop does, of constants for all or for each neuron."""
    if any(c.numel() != 1 and c.shape != (size,) for c in dynamics.constants):
        return False
    return choose((like.new_empty(1, 1, size),) * dynamics.inputs, dynamics).name == "cpu"


def is_ordinary(tensor: Tensor, like: Tensor) -> bool:
    """Whether a weight is an ordinary tensor in memory, of the type of the input."""
    return (
        type(tensor) in (Tensor, nn.Parameter)
        and tensor.device == like.device
        and tensor.dtype == like.dtype
        and tensor.layout == torch.strided
        and torch.autograd.forward_ad.unpack_dual(tensor).tangent is None  # type: ignore[no-untyped-call]
    )


def is_ordinary_sequence(x: Tensor) -> bool:
    """Whether `x` is an ordinary sequence `[T, B, N]` that is not empty."""
    return type(x) in (Tensor, nn.Parameter) and x.ndim == 3 and x.numel() > 0 and is_ordinary(x, x)
