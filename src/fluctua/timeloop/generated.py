"""Python files of kernels that were written for a step: kept in the user's cache folder, named by their content.

So numba and Triton find the machine code that they keep beside a file, in every later process. Processes at the same
moment write the same file under a name of their own and move it into place. Where nothing can be written, kernels are
made in a folder that ends with the process.
"""

import atexit
import hashlib
import importlib.util
import logging
import os
import shutil
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
    path = _folder() / f"{name}.py"
    if not path.exists():
        with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False) as own:
            own.write(source)
        Path(own.name).replace(path)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # numba pickles what it finds there
    spec.loader.exec_module(module)
    return module


@cache
def _folder() -> Path:
    """Where the files are: $FLUCTUA_CACHE, or fluctua's folder in the user's cache."""
    home = os.environ.get("XDG_CACHE_HOME")
    base = Path(home) if home else Path("~/.cache").expanduser()
    folder = Path(os.environ.get("FLUCTUA_CACHE") or base / "fluctua") / "kernels"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        log.warning("kernels are not kept for the next process: %s cannot be written (%s)", folder, error)
        passing = Path(tempfile.mkdtemp(prefix="fluctua-"))
        atexit.register(shutil.rmtree, passing, ignore_errors=True)
        return passing
