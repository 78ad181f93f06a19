"""The networks of the experiments, and their initial states, by name."""

from fluctua.lab.networks.architecture import Architecture
from fluctua.lab.networks.by_name import NETWORKS, build, network
from fluctua.lab.networks.conv import AudioConv, ImageConv, ResidualConv
from fluctua.lab.networks.dense import Dale, FullyConnected, Residual, feed_forward
from fluctua.lab.networks.modern import ModernRecurrent
from fluctua.lab.networks.states import LABELS, METHODS, READOUT, bring_up

__all__ = [
    "LABELS",
    "METHODS",
    "NETWORKS",
    "READOUT",
    "Architecture",
    "AudioConv",
    "Dale",
    "FullyConnected",
    "ImageConv",
    "ModernRecurrent",
    "Residual",
    "ResidualConv",
    "bring_up",
    "build",
    "feed_forward",
    "network",
]
