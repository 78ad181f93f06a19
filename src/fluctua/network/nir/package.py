"""The optional package `nir`."""

from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import Any

from fluctua.files import reading
from fluctua.hdf5 import self_contained
from fluctua.network.errors import WiringError


def nir() -> Any:
    """The package, if it is installed.

    Raises:
        ImportError: it is not.
    """
    try:
        return import_module("nir")
    except ImportError as error:
        raise ImportError("NIR graphs need the package nir: pip install fluctua[nir]") from error


def graph_of(graph: Any) -> Any:
    """A graph, given as such or as a file."""
    if isinstance(graph, str | PathLike):
        read, path = nir().read, Path(graph)
        with reading(path, "a NIR graph", "have it written anew"):
            with import_module("h5py").File(path, "r") as file:
                self_contained(file, path)
            graph = read(path, type_check=False)  # some exporters count batch and time among the input's axes
    if type(graph).__name__ != "NIRGraph":
        raise WiringError(f"expected a NIR graph or the path of its file, got a {type(graph).__name__}")
    return graph
