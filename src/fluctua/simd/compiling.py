"""Machine code of kernels, kept on disk where that is possible."""

import hashlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba import njit
from numba.core.caching import FunctionCache

log = logging.getLogger(__name__)
config: Any = numba.config

_OPTIONS: dict[str, Any] = {
    "nogil": True,  # without the interpreter's lock
    "error_model": "numpy",
    "no_cfunc_wrapper": True,  # a second entry, for C, that nobody calls and that takes a fifth of the compiler's time
}


@contextmanager
def _enabled() -> Iterator[None]:
    """Let numba compile even with NUMBA_DISABLE_JIT, set to debug other kernels: ours have no Python form."""
    disabled, config.DISABLE_JIT = config.DISABLE_JIT, 0
    try:
        yield
    finally:
        config.DISABLE_JIT = disabled


def _compiled(function: Callable[..., Any], **options: Any) -> Any:
    with _enabled():
        made = njit(**_OPTIONS, **options)(function)
    if config.DISABLE_JIT:
        made.compile = _enabled()(made.compile)
    return made


def helper(function: Callable[..., Any]) -> Any:
    """A part of kernels."""
    return _compiled(function)


def inlined(function: Callable[..., Any]) -> Any:
    """A part that is never called but written out where it is used."""
    return _compiled(function, forceinline=True)


def kernel(function: Callable[..., Any]) -> Any:
    """Machine code of a function, for any types."""
    # Numba names its cache files by the qualified name, and looks only at the file of the kernel itself.
    function.__qualname__ = f"{function.__name__}_{edition(Path(function.__code__.co_filename).parent)}"
    return generated(function)


def generated(function: Callable[..., Any]) -> Any:
    """As `kernel`, for a file whose name changes with its sources."""
    made = _compiled(function)
    try:
        # As `cache=True` does, except for files that cannot be used.
        made._cache = _Cache(function)  # type: ignore[no-untyped-call]
    except Exception:
        _say_once("there is no folder to keep them in: set NUMBA_CACHE_DIR to one that can be written")
    return made


class _Cache(FunctionCache):  # type: ignore[misc]
    """Numba's cache; files that cannot be read are rewritten, and without a writable folder code stays in memory."""

    def load_overload(self, *arguments: Any) -> Any:
        try:
            return super().load_overload(*arguments)  # type: ignore[no-untyped-call]
        except Exception:  # a truncated or corrupt file: its parsers may raise anything
            log.info("a file of kernels in %s is damaged and rewritten", self.cache_path)
            self._try(self.flush)
            return None

    def save_overload(self, *arguments: Any) -> None:
        self._try(super().save_overload, *arguments)

    def _try(self, call: Callable[..., Any], *arguments: Any) -> None:
        try:
            call(*arguments)
        except Exception as error:  # the disk is full, the folder gone
            _say_once(f"{self.cache_path} cannot be written ({getattr(error, 'strerror', None) or error})")


@cache
def _say_once(why: str) -> None:
    log.warning("kernels are not cached for the next process: %s", why)


@cache
def edition(folder: Path) -> str:
    """A hash of the sources of a folder's kernels: the folder itself, and the spikes and vectors below."""
    here = Path(__file__).parent
    folders = {folder, here, here.with_name("spikes")}
    sources = [path.read_bytes() for place in sorted(folders) for path in sorted(place.glob("*.py"))]
    return hashlib.sha256(b"".join(sources)).hexdigest()[:8]
