"""A sequence of layers in which weights and the neurons behind them run as one operation."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fluctua.layers import fusion
from fluctua.layers.circuit import Recurrent
from fluctua.layers.dale import DaleLayer
from fluctua.spikes.batch import MAX_DENSITY, SpikeBatch

if TYPE_CHECKING:
    from fluctua.timeloop.events_layers import Layer


class FusedSequential(nn.Sequential):
    """`nn.Sequential` on spikes `[T, B, N]`, with the same results, in less time and memory.

    An `nn.Linear` and the fluctua neurons behind it (also those of `from_step`), or a `Recurrent` of such neurons and
    an `nn.Linear`, run as one operation: spikes pass from layer to layer as bits, only the weights of units that spike
    are added up, and the whole input current is never in memory. The first operation takes dense input, whose density
    decides whether it is turned into spikes, or a `SpikeBatch`, which stays sparse. A `DaleLayer` at the front takes
    both as well.

    Everything else runs unfused: other modules, subclasses, modules with hooks, parametrisations, devices other than
    the CPU, half precision, `torch.func`, `torch.compile` and autocast; the log says why. So whoever looks into the
    network, such as `fluctua.initialize`, sees what an `nn.Sequential` would show.

    A weight that is NaN or infinite shows only when its afferent spikes; a product with dense input always shows it.

    Example:
        >>> from fluctua.neurons import LI, LIF
        >>> model = FusedSequential(nn.Linear(700, 128), LIF(), nn.Linear(128, 20), LI())
        >>> spikes = SpikeBatch.from_dense((torch.rand(50, 8, 700) < 0.02).float())
        >>> model(spikes).shape
        torch.Size([50, 8, 20])
    """

    def forward(self, input: Tensor | SpikeBatch) -> Tensor:
        """Spikes or graded input `[T, B, N]` -> output of the last module."""
        modules, x = list(self), input
        while modules:
            output, n = _fused(modules, x)
            if output is None:
                output, n = modules[0](x if fusion.is_unmodified(modules[0], DaleLayer) else _dense(x, modules)), 1
            x, modules = output, modules[n:]
        return _dense(x, modules)


def _fused(modules: Sequence[nn.Module], x: Tensor | SpikeBatch) -> tuple[Tensor | None, int]:
    """Output of the modules at the front that run as one, and their number; None if there are none."""
    like = x.placeholder(_dtype(modules)) if isinstance(x, SpikeBatch) else x
    layers = list(_layers(modules, like))
    spikes = x if isinstance(x, SpikeBatch) else SpikeBatch.from_dense(x, MAX_DENSITY) if layers else None
    if not layers or spikes is None:
        return None, 0

    from fluctua.timeloop.events_layers import run_layers

    return run_layers(like, layers, spikes)[0], 2 * len(layers)


def _layers(modules: Sequence[nn.Module], like: Tensor) -> "Iterator[Layer]":
    """The pairs of a weight and its neurons at the front, as far as they can be fused."""
    before = 0
    for linear, neurons in zip(modules[::2], modules[1::2], strict=False):
        what = f"{type(linear).__name__} and {type(neurons).__name__}"
        layer = fusion.plan(what, partial(_layer, linear, neurons, like, before))
        if layer is None:
            return
        yield layer
        if not layer.dynamics.spiking:
            return
        (before,) = layer.sections


def _layer(linear: nn.Module, neurons: nn.Module, like: Tensor, before: int) -> "Layer":
    """A pair behind `before` neurons; `like` is the input of the first."""
    fusion.demand_sequence(like)
    fusion.demand_eager(like)
    fusion.demand_unmodified(linear, nn.Linear)
    assert isinstance(linear, nn.Linear)
    afferents = before or like.shape[2]
    fusion.demand(linear.in_features == afferents, f"the weight takes {linear.in_features} units, not {afferents}")
    if isinstance(neurons, Recurrent):
        fusion.demand_unmodified(neurons, Recurrent)
        fusion.demand(neurons.spikes_unobserved, "a hook sees the recurrent spikes")
        return neurons.fused_layer(linear.out_features, like, linear)
    fusion.demand_unmodified(neurons, *fusion.FUSED)
    return fusion.fused_layer(neurons, linear.out_features, like, linear=linear)


def _dense(x: Tensor | SpikeBatch, modules: Sequence[nn.Module]) -> Tensor:
    return x.dense(_dtype(modules)) if isinstance(x, SpikeBatch) else x


def _dtype(modules: Sequence[nn.Module]) -> torch.dtype:
    """Type of the first parameter."""
    return next((p.dtype for module in modules for p in module.parameters()), torch.get_default_dtype())
