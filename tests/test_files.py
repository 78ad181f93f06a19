"""Laws of files from outside: every mutation of every kind is read or refused in one sentence, and takes no memory."""

import faulthandler
import importlib
import os
import struct
import subprocess
import sys
import tarfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("h5py")
pytest.importorskip("safetensors")

from fluctua.files import FileError, reading
from fluctua.lab.data import NMNIST, DVSGesture, SHDFile, read_cifar10
from fluctua.lab.training.folder import RunFolder
from fluctua.network.nir import from_nir
from shared.data_files import write_shd
from shared.spoiled_files import READERS, Reader, mutated

SECONDS = 60  # of one file, after which it hangs


def spoil(reader: Reader, folder: Path, n: int, seed: int) -> dict[str, int]:
    """How many mutations of a file are read and how many refused; anything else is an error."""
    path = reader.write(folder)
    raw = path.read_bytes()
    reader.read(path)
    counts = {"read": 0, "refused": 0}
    for content in mutated(raw, n, seed):
        path.unlink()  # to write anew is ten times faster than to write over
        path.write_bytes(content)
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", RuntimeWarning)
                reader.read(path)
            counts["read"] += 1
        except reader.refusals as error:
            counts["refused"] += 1
            sentence = str(error)
            assert "\n" not in sentence
            assert reader.refusals[0] is ValueError or path.stem in sentence, (
                sentence
            )  # the file, or its part, is named
        finally:
            faulthandler.cancel_dump_traceback_later()
    return counts


@pytest.mark.parametrize("name", READERS)
def test_300_mutations_are_read_or_refused_in_a_sentence(name: str, tmp_path: Path) -> None:
    if name == "NIR":
        pytest.importorskip("nir")
    counts = spoil(READERS[name], tmp_path, 300, seed=0)
    assert counts["refused"] > 100


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_10000_mutations_are_read_or_refused_in_a_sentence(name: str, tmp_path: Path) -> None:
    """`python -m pytest -m slow tests/test_files.py -s` prints the figures of the page on trust."""
    counts = spoil(READERS[name], tmp_path, 10_000, seed=1)
    print(f"\n{name}: {counts['read']} read, {counts['refused']} refused")


# --- what no mutation finds: files made to take memory, to lead elsewhere, or never to end ---


def hdf5(change: Callable[[Any], object]) -> Callable[[Path], None]:
    def run(folder: Path) -> None:
        path = write_shd(folder / "made.h5", [0, 1, 2, 1], n=20)
        with importlib.import_module("h5py").File(path, "a") as file:
            change(file)
        SHDFile(path)

    return run


def without_labels(change: Callable[[Any, Any], object]) -> Callable[[Path], None]:
    def run(file: Any) -> None:
        del file["labels"]
        change(file, importlib.import_module("h5py"))

    return hdf5(run)


def virtual(file: Any, h5py: Any) -> None:
    layout = h5py.VirtualLayout((4,), "u1")
    layout[:] = h5py.VirtualSource("other.h5", "labels", (4,))
    file.create_virtual_dataset("labels", layout)


def endless(folder: Path) -> None:
    """With free space of no size in the heap that holds the rows."""
    path = write_shd(folder / "made.h5", [0, 1], n=20)
    raw = bytearray(path.read_bytes())
    heap = raw.index(b"GCOL")
    raw[heap + 16 : heap + 32] = bytes(16)
    path.write_bytes(raw)
    SHDFile(path)


def long_row(folder: Path) -> None:
    """The first row says that it has 671 MB."""
    path = write_shd(folder / "made.h5", [0, 1], n=20)
    with importlib.import_module("h5py").File(path) as file:
        start = file["spikes/times"].id.get_offset()
    raw = bytearray(path.read_bytes())
    raw[start : start + 4] = struct.pack("<I", 0x14000000)
    path.write_bytes(raw)
    SHDFile(path)


def pickled(raw: bytes) -> Callable[[Path], None]:
    def run(folder: Path) -> None:
        (folder / "data_batch_1").write_bytes(raw)
        read_cifar10(folder)

    return run


def archive(header: bytes) -> Callable[[Path], None]:
    def run(folder: Path) -> None:
        (folder / "made.tar").write_bytes(header + bytes(2048))
        NMNIST(folder / "made.tar")

    return run


def member(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A header; of a negative size in base 256."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, max(size, 0)
    raw = bytearray(info.tobuf())
    if size < 0:
        raw[124:136] = b"\xff" * 4 + struct.pack(">q", size)
        raw[148:156] = b" " * 8
        raw[148:156] = b"%06o\0 " % sum(raw)
    return bytes(raw)


MADE: dict[str, tuple[Callable[[Path], None], str]] = {
    "labels of 3.2 GB in 8 KB": (
        without_labels(lambda file, _: file.create_dataset("labels", (400_000_000,), "i8", chunks=(1000,))),
        "/labels has 3200000000 bytes, more than",
    ),
    "a chunk of 40 MB": (
        without_labels(
            lambda file, _: file.create_dataset(
                "labels", data=np.zeros(4, "u1"), maxshape=(None,), chunks=(40_000_000,), compression="gzip"
            )
        ),
        "/labels has 40000000 bytes, more than",
    ),
    "external storage": (
        without_labels(lambda file, _: file.create_dataset("labels", (4,), "u1", external=[("/etc/passwd", 0, 4)])),
        "keeps /labels in another file",
    ),
    "virtual storage": (without_labels(virtual), "keeps /labels in another file"),
    "an external link": (
        without_labels(lambda file, h5py: file.__setitem__("labels", h5py.ExternalLink("other.h5", "labels"))),
        "has a link at /labels",
    ),
    "a soft link": (
        hdf5(lambda file: file.__setitem__("a", importlib.import_module("h5py").SoftLink("/labels"))),
        "has a link at /a",
    ),
    "a circle": (hdf5(lambda file: file.__setitem__("spikes/loop", file["spikes"])), "one object in two places"),
    "a heap without end": (endless, "is damaged at byte .*, in a heap of HDF5"),
    "a row of 671 MB": (long_row, "a row of /spikes/times has 671088640 bytes, more than it can hold"),
    "rows that are compressed otherwise": (
        hdf5(
            lambda file: file.create_dataset(
                "a", data=[b"x", b"yy"], dtype=importlib.import_module("h5py").string_dtype(), compression="lzf"
            )
        ),
        "has /a compressed in a way that is not supported",
    ),
    "labels that are a group": (
        without_labels(lambda file, _: file.create_group("labels")),
        "has a group at 'labels', but SHD's layout has numbers",
    ),
    "labels of floating point": (
        without_labels(lambda file, _: file.__setitem__("labels", np.array([0.0, 1.5, 2.0, 1.0]))),
        r"has float64 of the shape \(4,\) in 'labels'.*one integer per sample: write .astype\('uint16'\)",
    ),
    "a label without end": (
        without_labels(lambda file, _: file.__setitem__("labels", np.array([0, 1, 2, 2**60]))),
        "not in 0..65535",
    ),
    "a pickle of 9 bytes that takes 2.2 GB": (pickled(b"\x80\x02]r\xff\xff\xff\x0f."), "as number 268435455"),
    "a member of negative size": (archive(member("Train/0/1.bin", -1024)), "a member of negative size|invalid offset"),
    "a name of 2.2 GB": (archive(member("././@LongLink", 2_200_000_000, tarfile.GNUTYPE_LONGNAME)), "as a tar file"),
    "a recording longer than its tar file": (archive(member("Train/0/1.bin", 1 << 30)), "unexpected end of data"),
}


@pytest.mark.parametrize("name", MADE)
def test_what_is_made_to_harm_is_refused(name: str, tmp_path: Path) -> None:
    make, sentence = MADE[name]
    with pytest.raises(FileError, match=sentence):
        make(tmp_path)


TAKES = """
import resource, sys
from pathlib import Path
from test_files import MADE
make, _ = MADE[sys.argv[1]]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    make(Path(sys.argv[2]))
except ValueError:
    pass
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MADE if "B" in name])
def test_no_memory_is_taken_for_what_is_not_there(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TAKES, name, str(tmp_path)], capture_output=True, text=True, cwd=Path(__file__).parent
    )
    assert int(done.stdout) < 100, done


def test_a_pipe_is_refused_by_every_reader(tmp_path: Path) -> None:
    def pipe(name: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(path)
        return path

    array = pipe("gestures/ibmGestureTrain/user01_led/1.npy")
    calls: list[Callable[[], object]] = [
        lambda: SHDFile(pipe("a.h5")),
        lambda: NMNIST(pipe("a.tar")),
        lambda: read_cifar10(pipe("batches/data_batch_1").parent),
        lambda: RunFolder(pipe("run/model.safetensors").parent).load_weights(torch.nn.Linear(2, 2)),
        lambda: DVSGesture(array.parents[2]).events(0),
    ]
    if importlib.util.find_spec("nir"):
        calls.append(lambda: from_nir(pipe("a.nir")))
    for call in calls:
        with pytest.raises(FileError, match="is a pipe or device, not a file"):
            call()


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("x")
    with pytest.raises(FileError, match=r"a cannot be read \(Permission denied\): fix that"), reading(path, "b", "c"):
        raise PermissionError(13, "Permission denied")


def test_what_a_library_says_becomes_part_of_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("x")
    for error, said in [
        (KeyError("key"), "no 'key'"),
        (ValueError("two\nlines."), "two lines"),
        (MemoryError(), "MemoryError"),
    ]:
        with pytest.raises(FileError, match=rf"a cannot be read as b \({said}\): c\.$"), reading(path, "b", "c"):
            raise error
    with pytest.raises(KeyboardInterrupt), reading(path, "b", "c"):
        raise KeyboardInterrupt
