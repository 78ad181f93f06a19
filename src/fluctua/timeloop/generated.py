"""Python files of kernels written for a step: kept in the user's cache folder, named by their content.

So numba and Triton find the machine code that they keep beside a file, in every later process. Concurrent processes
write the same file under names of their own and move it into place. If nothing can be written, kernels are made in
memory.
"""

import hashlib
import linecache
import logging
import os
import sys
import tempfile
from functools import cache
from pathlib import Path
from types import ModuleType

log = logging.getLogger(__name__)

_PREFIX = "fluctua_kernel_"


@cache
def loaded(source: str) -> ModuleType:
    """The module of this source."""
    name = _PREFIX + hashlib.sha256(source.encode()).hexdigest()[:16]
    folder = _folder()
    path = None if folder is None else _written(source, folder / f"{name}.py")
    module = ModuleType(name)
    module.__file__ = file = f"<{name}>" if path is None else str(path)
    if path is None:  # for callers that read the text of a function, as Triton does
        linecache.cache[file] = len(source), None, source.splitlines(keepends=True), file
    sys.modules[name] = module  # numba pickles what it finds there
    exec(compile(source, file, "exec"), vars(module))
    return module


def _written(source: str, path: Path) -> Path | None:
    """The file of this source; None if it cannot be written."""
    try:
        if not path.exists() or path.read_bytes() != source.encode():  # a full disk or a power cut may have left a part
            with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False) as own:
                own.write(source)
            Path(own.name).replace(path)
    except OSError as error:
        _say_once(path.parent, error.strerror)
        return None
    return path


@cache
def _folder() -> Path | None:
    """Where the files are: $FLUCTUA_CACHE, or fluctua's folder in the user's cache; None if it cannot be written."""
    folder = Path(os.environ.get("FLUCTUA_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "fluctua"))
    try:
        folder = folder.expanduser() / "kernels"
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except (OSError, RuntimeError) as error:  # RuntimeError: no home folder
        _say_once(folder, getattr(error, "strerror", None) or str(error))
        return None


@cache
def _say_once(folder: Path, why: str) -> None:
    log.warning("kernels are not cached for the next process: %s cannot be written (%s)", folder, why)
