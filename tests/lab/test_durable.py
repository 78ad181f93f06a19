"""Laws of durable files: on the disk before their name is, whole or not there, sealed byte by byte, by one process."""

import errno
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("lightning")

from fluctua.lab.durable import (
    UNSEALED,
    DamagedFile,
    is_whole,
    locked,
    make_folder,
    read_json,
    read_sealed,
    replacing,
    seal,
    sweep,
    sync_folder,
    write_json,
)
from fluctua.lab.results.figures import learning_figure, save
from fluctua.lab.sweeps.store import Store
from fluctua.lab.training.fit import fit
from shared.killed_runs import SETTINGS, data, network, record
from shared.mutations import mutated


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write(path: Path, content: bytes = b"new") -> None:
    with replacing(path) as file:
        file.write(content)


# --- at one go ---


def test_nobody_sees_a_file_before_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"old")
    with replacing(path) as file:
        file.write(b"half of")
        file.flush()
        assert path.read_bytes() == b"old"
        file.write(b" the new")
    assert path.read_bytes() == b"half of the new"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize(
    "error", [KeyError("x"), KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")]
)
def test_a_writer_that_fails_leaves_what_was_there(error: BaseException, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"old")

    def fail() -> None:
        with replacing(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.txt"]


def test_what_the_system_says_is_found_behind_what_a_library_makes_of_it(tmp_path: Path) -> None:
    """torch says `unexpected pos 150720` where the disk is full."""

    def fail() -> None:
        with replacing(tmp_path / "a.txt"):
            try:
                raise OSError(errno.ENOSPC, "No space left on device")
            except OSError:
                raise RuntimeError("unexpected pos 150720\nvs 150614")  # noqa: B904 - as torch does

    with pytest.raises(OSError, match=r"cannot write .*a.txt \(No space left on device\): fix that") as raised:
        fail()
    assert "\n" not in str(raised.value)


@pytest.mark.skipif(os.name == "nt", reason="Windows knows no modes")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_files_have_the_mode_of_any_other_new_file(umask: int, mode: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        write(tmp_path / "a.txt")
        fit(network(), data(), out_dir=tmp_path / "run", settings=SETTINGS)
    finally:
        os.umask(before)
    files = [tmp_path / "a.txt", *(path for path in (tmp_path / "run").iterdir() if path.name != ".lock")]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {mode}


def test_what_killed_writers_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    kept = ["a.json", ".lock", ".hidden", ".a.json.tmp", "a.json.0123abcd.tmp"]
    for name in [*kept, ".a.json.0123abcd.tmp", ".last.ckpt.4711"]:
        (tmp_path / name).touch()
    sweep(tmp_path, idle=3600)
    assert len(names(tmp_path)) == len(kept) + 2
    sweep(tmp_path)
    assert names(tmp_path) == sorted(kept)


# --- power cuts ---


class Trace:
    """What was asked of the system, in order.

    Calls are ("file", inode, content), ("name", inode, target, content) and ("folder", path).
    """

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def fsync(self, real: Callable[[int], None], descriptor: int) -> None:
        real(descriptor)
        found = os.fstat(descriptor)
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        kind = ("folder", path) if stat.S_ISDIR(found.st_mode) else ("file", found.st_ino, path.read_bytes())
        self.calls.append(kind)

    def replace(self, real: Callable[[Any, Any], None], source: Any, target: Any) -> None:
        self.calls.append(("name", os.stat(source).st_ino, Path(target), Path(source).read_bytes()))
        real(source, target)


@pytest.fixture
def trace(monkeypatch: pytest.MonkeyPatch) -> Trace:
    if not Path("/proc/self/fd").exists():
        pytest.skip("needs Linux to tell what a descriptor is of")
    trace, fsync, replace = Trace(), os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: trace.fsync(fsync, descriptor))
    monkeypatch.setattr(os, "replace", lambda source, target: trace.replace(replace, source, target))
    return trace


def write_a_run(root: Path) -> None:
    fit(network(), data(), out_dir=root / "new" / "run", settings=SETTINGS)


def write_a_store(root: Path) -> None:
    store = Store(root / "new" / "store")
    store.open({"title": "x"})
    for i in range(3):
        store.save(record(i))


def write_a_figure(root: Path) -> None:
    make_folder(root / "new")
    save(learning_figure({"a": [{"epoch": 1, "val_accuracy": 0.5, "train_loss": 1.0}]}, 0.1), root / "new" / "a.png")


@pytest.mark.parametrize("writer", [write_a_run, write_a_store, write_a_figure])
def test_content_is_on_the_disk_before_its_name_and_the_name_before_anything_follows(
    writer: Callable[[Path], None], trace: Trace, tmp_path: Path
) -> None:
    """So that a power cut at any moment leaves each file as it was, or as it is to be."""
    writer(tmp_path)
    renamed = [i for i, call in enumerate(trace.calls) if call[0] == "name"]
    assert renamed
    for i in renamed:
        _, inode, target, content = trace.calls[i]
        assert trace.calls[i - 1] == ("file", inode, content), f"{target} is renamed before all of it is on the disk"
        assert trace.calls[i + 1] == ("folder", target.parent), f"the name of {target} may be lost"
    written = {path for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"}
    assert written <= {trace.calls[i][2] for i in renamed}, "a file that is written in place"
    folders = {path.parent for path in tmp_path.rglob("*") if path.is_dir()}
    assert folders <= {call[1] for call in trace.calls if call[0] == "folder"}, "the name of a folder may be lost"


# --- seals ---


def sealed(path: Path, before: bytes, after: bytes) -> bytes:
    with replacing(path) as file:
        file.write(before + UNSEALED.encode() + after)
        seal(file)
    return path.read_bytes()


@pytest.mark.parametrize(("before", "after"), [(b"", b""), (b"a" * 5000, b""), (b"{", b"}" * 3000)])
def test_a_sealed_file_is_whole_and_any_other_byte_is_noticed(before: bytes, after: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a"
    content = sealed(path, before, after)
    assert is_whole(content)
    assert len(content) == len(before) + len(UNSEALED) + len(after)
    rng = np.random.default_rng(0)
    for _ in range(200):
        assert not is_whole(mutated(content, rng))
    for bit in range(8 * min(len(content), 200)):
        flipped = bytearray(content)
        flipped[-1 - bit // 8] ^= 1 << bit % 8
        assert not is_whole(bytes(flipped))


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 500, UNSEALED.encode()])
def test_a_file_that_was_never_sealed_is_not_whole(content: bytes) -> None:
    assert not is_whole(content)


def test_plain_data_come_back_whatever_they_say(tmp_path: Path) -> None:
    facts = {"quotes": f"a seal: {UNSEALED}", "a": [1, 2.5, None], "b": {"c": "\u00e4\n"}}
    write_json(tmp_path / "a.json", facts)
    assert read_json(tmp_path / "a.json") == facts


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"a": 1}', '{"a": 1, "checksum": 3}'])
def test_other_json_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DamagedFile, match=r"a.json is damaged: "):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)])
def test_what_is_no_file_is_no_whole_one_and_nobody_waits_for_it(make: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    make(path)
    with pytest.raises(DamagedFile, match="as the caller says"):
        read_sealed(path, "as the caller says")
    with pytest.raises(DamagedFile, match=r"a.json is damaged: it is a folder, pipe or device"):
        read_json(path)


def test_json_without_bottom_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[" * 200_000)
    with pytest.raises(DamagedFile, match=r"a.json is damaged: "):
        read_json(tmp_path / "a.json")


# --- one process ---


def in_a_thread(folder: Path) -> str:
    """What another thread, which stands for another process, is told."""
    said = []

    def enter() -> None:
        try:
            with locked(folder):
                said.append("entered")
        except OSError as error:
            said.append(str(error))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    return said[0]


def test_a_folder_is_for_one_process_and_for_all_that_it_does_in_it(tmp_path: Path) -> None:
    with locked(tmp_path):
        with locked(tmp_path):
            assert in_a_thread(tmp_path).startswith(f"{tmp_path} is in use by another process: wait until it ends")
        assert "in use" in in_a_thread(tmp_path)
    assert in_a_thread(tmp_path) == "entered"


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cannot write to .*file/run \(.*\): choose another out_dir"):
        make_folder(tmp_path / "file" / "run")


def test_a_file_system_that_cannot_bring_names_to_the_disk_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", refuse)
    sync_folder(tmp_path)
