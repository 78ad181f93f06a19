"""Files that survive a kill, a power cut and flipped bits: written whole or not at all, sealed, and by one process.

A file is sealed by `fluctua-sha256:` and 64 digits somewhere in it: the SHA-256 of all its bytes, with zeros in place
of the digits. In a checkpoint this is the comment of the zip archive, in weights the metadata of safetensors, in a
record a field of the JSON: other programs read all of them as usual.
"""

import errno
import hashlib
import json
import mmap
import os
import re
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from fluctua.files import FileError

UNSEALED = "fluctua-sha256:" + "0" * 64
"""The placeholder that `seal` overwrites."""

_SEAL = re.compile(rb"fluctua-sha256:[0-9a-f]{64}")
_TEMPORARY = re.compile(r"\..+\.([0-9a-f]{8}\.tmp|\d+)")  # a number alone: from fluctua 0.1


class DamagedFile(FileError):
    """A file is not what was written: bits have flipped, or some of it is missing."""


# --- writing ---


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file that replaces `path` at the end, once it is complete and on disk.

    After that a power cut cannot undo it; before, `path` is unchanged or does not exist.

    Raises:
        OSError: it cannot be written; `path` is unchanged.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with temporary.open("x+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except Exception as error:
        if (cause := _system_error(error)) is None:
            raise
        why = f"cannot write {path} ({cause.strerror})"
        raise OSError(f"{why}: fix that and try again; the previous file is kept") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_json(path: Path, facts: Mapping[str, Any]) -> None:
    """Write plain data as a sealed file of JSON; errors as in `replacing`."""
    with replacing(path) as file:
        file.write(json.dumps({**facts, "checksum": UNSEALED}, indent=1).encode() + b"\n")
        seal(file)


def make_folder(folder: Path) -> None:
    """Create a folder and its parents on disk, and check that it can be written.

    Raises:
        OSError: it cannot be created or written.
    """
    try:
        new = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        for path in new:
            sync_folder(path.parent)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"cannot write to {folder} ({error.strerror}): choose another out_dir") from error


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to disk."""
    if os.name == "nt":  # it has no such call
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # nor have some file systems
            raise
    finally:
        os.close(descriptor)


def sweep(folder: Path, *, idle: float = 0.0) -> None:
    """Delete what killed writers left in a folder, unless it was touched in the last `idle` seconds."""
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            if _TEMPORARY.fullmatch(path.name) and time.time() - path.stat().st_mtime >= idle:
                path.unlink()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes and threads out of a folder; the lock ends with its process, however that ends.

    Raises:
        OSError: another process uses it.
    """
    lock = FileLock(folder / ".lock", timeout=0, is_singleton=True)
    try:
        lock.acquire()
    except Timeout:
        raise BlockingIOError(
            f"{folder} is in use by another process: wait until it ends, or choose another folder"
        ) from None
    try:
        yield
    finally:
        lock.release()


# --- the seal ---


def seal(file: BinaryIO) -> None:
    """Write its checksum into a file that contains `UNSEALED`."""
    file.flush()
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        at, digest = view.rfind(UNSEALED.encode()), hashlib.sha256(view).hexdigest()
    file.seek(at + len(UNSEALED) - len(digest))
    file.write(digest.encode())


def is_whole(content: bytes) -> bool:
    """Whether every byte of a sealed file is as it was written; False if it was never sealed."""
    at = content.rfind(UNSEALED[:-64].encode())
    end = at + len(UNSEALED)
    if at < 0 or not _SEAL.fullmatch(content[at:end]):
        return False
    every = memoryview(content)
    digest = hashlib.sha256(every[: end - 64])
    digest.update(b"0" * 64)
    digest.update(every[end:])
    return digest.hexdigest().encode() == content[end - 64 : end]


def read_sealed(path: Path, damaged: str) -> bytes:
    """The content of a sealed file, read once: what was checked is what is used.

    Raises:
        DamagedFile: the file is not what was written; says what `damaged` does.
    """
    if _special(path) or not is_whole(content := path.read_bytes()):
        raise DamagedFile(damaged)
    return content


def read_json(path: Path, *, unsealed: bool = False) -> dict[str, Any]:
    """Read what `write_json` wrote; with `unsealed`, also JSON without a checksum.

    Raises:
        DamagedFile: the file is not what was written.
    """
    if _special(path):
        raise DamagedFile(f"{path} is damaged: it is a folder, pipe or device")
    content = path.read_bytes()
    try:
        facts = dict(json.loads(content))
    except (ValueError, TypeError, RecursionError) as error:
        raise DamagedFile(f"{path} is damaged: it is not JSON") from error
    if "checksum" not in facts and unsealed:
        return facts
    if not is_whole(content):
        raise DamagedFile(f"{path} is damaged: its checksum does not match its content")
    del facts["checksum"]
    return facts


def _special(path: Path) -> bool:
    """Whether the path is not a regular file; opening a pipe would wait for ever."""
    return path.exists() and not path.is_file()


def _system_error(error: BaseException) -> OSError | None:
    """The system's error behind a library's own."""
    cause: BaseException | None = error
    while cause is not None and not (isinstance(cause, OSError) and cause.strerror):
        cause = cause.__cause__ or cause.__context__
    return cause
