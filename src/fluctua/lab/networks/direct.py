"""Networks of SpikeInit's regime: a few steps, delta synapses without delay, constant input (direct coding)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from torch import Tensor, nn

from fluctua.lab.networks.conv import ImageConv
from fluctua.layers import FusedSequential
from fluctua.neurons import from_step, spike

KAPPA, THETA = 0.5, 1.0
"""Fraction of the potential left after a step, and threshold."""


def _at_once(x: Tensor, state: tuple[Tensor, ...], c: Mapping[str, Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
    (u,) = state
    u = c["kappa"] * u + x
    out = spike(u - c["theta"])
    return out, (u * (1 - out.detach()),)


def _leaky(x: Tensor, state: tuple[Tensor, ...], c: Mapping[str, Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
    (u,) = state
    u = c["kappa"] * u + x
    return u, (u,)


def direct_lif(dt: float = 1.0) -> nn.Module:
    """Neurons `y[t] = kappa y[t-1] (y[t-1] < theta) + x[t]` that spike in the step of their input.

    Those of Shi & Yu, "Training Deep Spiking Neural Networks without Normalization", ICML 2026. A spike passes any
    number of layers in one step.
    """
    return from_step(_at_once, constants={"kappa": KAPPA, "theta": THETA}, threshold="theta", dt=dt)


def direct_chain(n_in: int, width: int, depth: int) -> nn.Sequential:
    """`depth` fully connected layers of such neurons, and a linear readout: `[T, B, n_in]` -> `[T, B, 10]`."""
    layers: list[nn.Module] = []
    for n in [n_in, *[width] * (depth - 1)]:
        layers += [nn.Linear(n, width, bias=False), direct_lif()]
    return nn.Sequential(*layers, nn.Linear(width, 10, bias=False))


@dataclass(frozen=True, kw_only=True)
class DirectVGG(ImageConv):
    """Convolutions with such neurons, without normalisation, with max pooling after each block and a leaky readout."""

    shape: tuple[int, ...] = (3, 32, 32)
    blocks: tuple[tuple[int, ...], ...] = ((64,), (128,), (256, 256), (512, 512))
    padding: int = 1

    def cells(self, dt: float) -> Callable[[], nn.Module]:  # type: ignore[override]
        return lambda: direct_lif(dt)

    def build(self, shape: tuple[int, ...], n_out: int, *, dt: float, duration: float) -> nn.Sequential:
        """See `Architecture.build`; the readout too responds in the step of its input."""
        *layers, linear, _ = super().build(shape, n_out, dt=dt, duration=duration)
        readout = from_step(_leaky, constants={"kappa": KAPPA}, threshold=None, dt=dt)
        return FusedSequential(*layers, linear, readout)

    def with_width(self, width: int) -> "DirectVGG":
        scale = width / self.blocks[0][0]
        return replace(self, blocks=tuple(tuple(max(1, round(n * scale)) for n in block) for block in self.blocks))
