"""Spike data: events and their batches, the Randman task, files in the layout of SHD."""

from fluctua.data.events import EventArrays, EventDataset, Events, Subset, bin_events, split
from fluctua.data.randman import RandmanSettings, make_randman
from fluctua.data.shd import SHDFile

__all__ = [
    "EventArrays",
    "EventDataset",
    "Events",
    "RandmanSettings",
    "SHDFile",
    "Subset",
    "bin_events",
    "make_randman",
    "split",
]
