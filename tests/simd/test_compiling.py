"""Laws of kernels on disk: what cannot be read or written costs time, never a result, and is said once."""

import errno
import importlib.util
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fluctua.simd import compiling

SOURCE = "def twice(x):\n    return 2 * x\n"


@pytest.fixture(autouse=True)
def said() -> Iterator[None]:
    compiling._say_once.cache_clear()
    yield
    compiling._say_once.cache_clear()


def function(folder: Path) -> Any:
    """Of a file there, as another process has it."""
    path = folder / "kernels_of_a_test.py"
    path.write_text(SOURCE)
    os.utime(path, (1e9, 1e9))  # numba looks at the time of the file
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module.twice


def hits(kernel: Any) -> int:
    return sum(kernel.stats.cache_hits.values())


def test_a_kernel_is_found_again(tmp_path: Path) -> None:
    assert compiling.generated(function(tmp_path))(21) == 42
    again = compiling.generated(function(tmp_path))
    assert (again(21), hits(again)) == (42, 1)


@pytest.mark.parametrize("kind", ["nbi", "nbc"])
@pytest.mark.parametrize("left", [0, 1, 7, 40, 100])
def test_a_file_that_was_cut_short_is_made_anew(kind: str, left: int, tmp_path: Path) -> None:
    compiling.generated(function(tmp_path))(21)
    (kept,) = tmp_path.rglob(f"*.{kind}")
    kept.write_bytes(kept.read_bytes()[:left])
    mended = compiling.generated(function(tmp_path))
    assert (mended(21), hits(mended)) == (42, 0)
    again = compiling.generated(function(tmp_path))
    assert (again(21), hits(again)) == (42, 1)


def test_on_a_full_disk_code_stays_in_memory_and_that_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("numba.core.caching.IndexDataCacheFile.save", full)
    with caplog.at_level(logging.WARNING, logger="fluctua"):
        kernel = compiling.generated(function(tmp_path))
        assert (kernel(21), kernel(2.5)) == (42, 5.0)
    assert [record.getMessage() for record in caplog.records] == [
        f"kernels are not cached for the next process: {tmp_path / '__pycache__'} cannot be written (No space left on "
        "device)"
    ]


def test_without_any_folder_code_stays_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = function(tmp_path)
    monkeypatch.setattr(compiling._Cache, "_impl_class", lambda _: (_ for _ in ()).throw(RuntimeError("no locator")))
    with caplog.at_level(logging.WARNING, logger="fluctua"):
        assert compiling.generated(made)(21) == 42
    (record,) = caplog.records
    assert "there is no folder to keep them in: set NUMBA_CACHE_DIR" in record.getMessage()


RUN = """
import torch
from torch import nn
from fluctua.neurons import LIF
from fluctua.timeloop import engine
torch.manual_seed(0)
x = (torch.rand(20, 2, 8) < 0.2).float() * 3
neuron = LIF()
fused = neuron(x)
with engine("reference"):
    assert torch.equal(neuron(x), fused)
print(int(fused.sum()) > 0)
"""


@pytest.mark.parametrize(
    "changed",
    [
        {"NUMBA_DISABLE_JIT": "1"},
        {"FLUCTUA_CACHE": "/dev/null/no", "NUMBA_CACHE_DIR": "/dev/null/no"},
        {"HOME": "/proc/no", "XDG_CACHE_HOME": "/proc/no"},
    ],
    ids=["numba is told not to compile", "no cache can be written", "a home that cannot be written"],
)
def test_a_network_runs_all_the_same(changed: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", RUN], capture_output=True, text=True, env={**os.environ, **changed}, check=False
    )
    assert done.stdout == "True\n", done.stderr
    said = [line for line in done.stderr.splitlines() if "kernels are not cached" in line]
    assert len(said) == len(set(said)) <= 2
    assert "Traceback" not in done.stderr
