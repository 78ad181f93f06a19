"""The networks of the experiments, and their initial states, by name."""

from fluctua.experiments.networks.architecture import Architecture
from fluctua.experiments.networks.by_name import NETWORKS, build, network
from fluctua.experiments.networks.conv import AudioConv, ImageConv, ResidualConv
from fluctua.experiments.networks.dense import Dale, FullyConnected, Residual, feed_forward
from fluctua.experiments.networks.modern import ModernRecurrent
from fluctua.experiments.networks.states import LABELS, METHODS, READOUT, bring_up

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
