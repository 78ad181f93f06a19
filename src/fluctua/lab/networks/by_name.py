"""The networks of the experiments, by name."""

from collections.abc import Mapping
from types import MappingProxyType

from torch import nn

from fluctua.lab.networks.architecture import Architecture
from fluctua.lab.networks.conv import AudioConv, ImageConv, ResidualConv
from fluctua.lab.networks.dense import Dale, FullyConnected, Residual
from fluctua.lab.networks.modern import ModernRecurrent
from fluctua.theory.laws import LogNormal

CIFAR10, DVS = (3, 32, 32), (2, 32, 32)

NETWORKS: Mapping[str, Architecture] = MappingProxyType(
    {
        "fc": FullyConnected(),
        "recurrent": FullyConnected(depth=1, recurrent=True),
        "modern": ModernRecurrent(),
        "modern-adaptive": ModernRecurrent(adaptation=0.25),
        "shd-conv": AudioConv(filters=(16, 32, 64), kernels=(21, 7, 7), strides=(10, 3, 3)),
        "shd-conv-deep": AudioConv(
            filters=(16, 32, *[64] * 5), kernels=(7, *[5] * 6), strides=(3, *[2] * 6), padding=2
        ),
        "audio-conv": AudioConv(shape=(140,), filters=(16, 32), kernels=(9, 5), strides=(3, 2), dense=256, dropout=0.2),
        "cifar10-conv-shallow": ImageConv(shape=CIFAR10, blocks=((32, 32),)),
        "cifar10-conv": ImageConv(shape=CIFAR10, blocks=((32, 32), (64, 64))),
        "dvs-conv": ImageConv(shape=DVS, blocks=((32, 32), (64, 64), (128, 128))),
        "dvs-conv-deep": ImageConv(shape=DVS, blocks=((32, 32), (64, 64), (128, 128), (128, 128))),
        "dale": Dale(),
        "dale-lognormal": Dale(family=LogNormal(1.0)),
        "residual": Residual(),
        "residual-conv": ResidualConv(),
    }
)
"""Settings by name; `shape` says for which data each was made. The residual and modern ones, and
"audio-conv" for spoken digits, are not the paper's.

"modern" and "modern-adaptive" are both fused and differ only in adaptation.
"""


def network(name: str) -> Architecture:
    """The settings of that name.

    Raises:
        ValueError: an unknown name; lists the known ones.
    """
    if name not in NETWORKS:
        raise ValueError(f"unknown network {name!r}: choose one of {', '.join(NETWORKS)}")
    return NETWORKS[name]


def build(name: str, shape: int | tuple[int, ...], n_out: int, *, dt: float, duration: float) -> nn.Sequential:
    """A network of the experiments, not yet initialised.

    Args:
        name: one of `NETWORKS`.
        shape: of one sample at one time step: the number of input units, or `(channels, rows, columns)`.
        n_out: classes.
        dt: time step in seconds.
        duration: of a trial in seconds, the time constant of the readout.

    Returns:
        A network `[T, B, *shape] -> [T, B, n_out]`.

    Raises:
        ValueError: an unknown name, or data that the network cannot take.

    Example:
        >>> model = build("shd-conv", 700, 20, dt=2e-3, duration=0.7)
    """
    return network(name).build((shape,) if isinstance(shape, int) else shape, n_out, dt=dt, duration=duration)
