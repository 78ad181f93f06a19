"""Data: events and their batches, the Randman task, readers for SHD, N-MNIST and CIFAR-10."""

from fluctua.data.cifar10 import Images, read_cifar10
from fluctua.data.events import EventArrays, EventDataset, Events, LabelledDataset, Subset, bin_events, split
from fluctua.data.nmnist import NMNIST
from fluctua.data.randman import RandmanSettings, make_randman
from fluctua.data.shd import SHDFile

__all__ = [
    "NMNIST",
    "EventArrays",
    "EventDataset",
    "Events",
    "Images",
    "LabelledDataset",
    "RandmanSettings",
    "SHDFile",
    "Subset",
    "bin_events",
    "make_randman",
    "read_cifar10",
    "split",
]
