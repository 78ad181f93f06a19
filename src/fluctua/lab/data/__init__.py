"""Data: events and their batches, the Randman task, readers for SHD, SSC, N-MNIST, DVS128 Gesture and CIFAR-10."""

from fluctua.lab.data.augmentations import (
    Augmentation,
    Augmented,
    DropEvents,
    Mirror,
    PixelShift,
    RandomCrop,
    SpatialShift,
    TimeJitter,
    TimeStretch,
    UnitJitter,
    UnitShift,
)
from fluctua.lab.data.binning import bin_events, spike_batch
from fluctua.lab.data.cifar10 import Images, read_cifar10
from fluctua.lab.data.dvs_gesture import DVSGesture
from fluctua.lab.data.events import EventArrays, EventDataset, Events, LabelledDataset, Subset, split
from fluctua.lab.data.nmnist import NMNIST
from fluctua.lab.data.randman import RandmanSettings, make_randman
from fluctua.lab.data.shd import SHDFile, SHDPaths, find_shd
from fluctua.lab.data.structured import StructuredEvents, read_structured, structured_events

__all__ = [
    "NMNIST",
    "Augmentation",
    "Augmented",
    "DVSGesture",
    "DropEvents",
    "EventArrays",
    "EventDataset",
    "Events",
    "Images",
    "LabelledDataset",
    "Mirror",
    "PixelShift",
    "RandmanSettings",
    "RandomCrop",
    "SHDFile",
    "SHDPaths",
    "SpatialShift",
    "StructuredEvents",
    "Subset",
    "TimeJitter",
    "TimeStretch",
    "UnitJitter",
    "UnitShift",
    "bin_events",
    "find_shd",
    "make_randman",
    "read_cifar10",
    "read_structured",
    "spike_batch",
    "split",
    "structured_events",
]
