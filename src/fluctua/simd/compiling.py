"""Machine code of kernels, kept on disk where that is possible."""

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from numba import njit

_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}  # without the interpreter's lock

helper = njit(**_OPTIONS)  # a part of kernels
inlined = njit(**_OPTIONS, forceinline=True)  # a part that is never called but written out where it is used


def kernel(function: Callable[..., Any]) -> Any:
    """Machine code of a function, for any types."""
    # Numba names its cache files by the qualified name, and looks only at the file of the kernel itself.
    function.__qualname__ = f"{function.__name__}_{edition(Path(function.__code__.co_filename).parent)}"
    return generated(function)


def generated(function: Callable[..., Any]) -> Any:
    """As `kernel`, of a file whose name changes with all that it is made of."""
    try:
        return njit(cache=True, **_OPTIONS)(function)
    except (OSError, RuntimeError):  # the cache folder cannot be written, or the disk is full
        return njit(**_OPTIONS)(function)


@cache
def edition(folder: Path) -> str:
    """Changes with the sources that kernels of a folder are made of: those there, and the spikes and vectors below."""
    here = Path(__file__).parent
    folders = {folder, here, here.with_name("spikes")}
    sources = [path.read_bytes() for place in sorted(folders) for path in sorted(place.glob("*.py"))]
    return hashlib.sha256(b"".join(sources)).hexdigest()[:8]
