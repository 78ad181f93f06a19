"""Files from outside: one that cannot be read is refused in a sentence that begins with its name.

No more memory is taken than the bytes of a file can fill: what it declares beyond that is a fault of it.
"""

import errno
import math
import mmap
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_RATIO, _LITTLE = 16, 1 << 20  # bytes in memory for a byte of a compressed file, and those that any file may take
_HEAP, _OBJECT = b"GCOL\x01", struct.Struct("<H6xQ")  # of HDF5: how it begins; number and size of what is in it
_FOREIGN = (errno.EACCES, errno.EPERM, errno.EIO, errno.ENOSPC, errno.ESTALE, errno.EISDIR)  # no fault of the content


class FileError(OSError, ValueError):
    """A file that cannot be used; the message begins with its name, and says what is wrong and what to do."""


@contextmanager
def reading(path: Path, kind: str, remedy: str) -> Iterator[None]:
    """Turn whatever is raised while a file is read into one sentence about it.

    Args:
        path: of the file.
        kind: what it is to be, in words.
        remedy: what to do where it is not.

    Raises:
        FileNotFoundError: there is none.
        FileError: it is no regular file, is empty, or cannot be read.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: {remedy}.")
    if not path.is_file():
        raise FileError(f"{path} is a {'folder' if path.is_dir() else 'pipe or device'}, not a file: {remedy}.")
    if path.stat().st_size == 0:
        raise FileError(f"{path} is empty: {remedy}.")
    try:
        yield
    except (FileError, ImportError):
        raise
    except Exception as error:  # libraries raise whatever their parsers happen upon
        if isinstance(error, OSError) and error.errno in _FOREIGN:
            raise FileError(f"{path} cannot be read ({error.strerror}): mend that and try again.") from error
        raise FileError(f"{path} cannot be read as {kind} ({reason(error)}): {remedy}.") from error


def reason(error: Exception) -> str:
    """What a library's error says, in one short line."""
    said = " ".join("".join(c if c.isprintable() else " " for c in str(error)).split()).rstrip(".:")
    said = f"{said[:200]}..." if len(said) > 200 else said or type(error).__name__
    return f"no {said}" if isinstance(error, KeyError) else said


def self_contained(file: Any, path: Path) -> Any:
    """An open HDF5 file, if all that is in it lies in it once and is no larger than it may be.

    Raises:
        FileError: links, external or virtual storage, or arrays that are too large for the file.
    """
    import h5py

    _check_heaps(file, path)
    room, seen, waiting = _RATIO * path.stat().st_size + _LITTLE, set[Any](), [file]
    while waiting:
        group = waiting.pop()
        for name in group:
            where = f"{group.name.rstrip('/')}/{name}"
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise FileError(f"{path} has a link at {where}, which may lead anywhere: store the data itself.")
            item = group[name]
            if (address := h5py.h5o.get_info(item.id).addr) in seen:
                raise FileError(f"{path} has one object in two places, one of them {where}: store it twice.")
            seen.add(address)
            if isinstance(item, h5py.Group):
                waiting.append(item)
            elif isinstance(item, h5py.Dataset):
                if item.is_virtual or item.external:
                    raise FileError(f"{path} keeps {where} in another file: store the data itself.")
                claimed = max(item.size or 0, math.prod(item.chunks or ())) * item.dtype.itemsize
                room -= claimed
                if room < 0:
                    raise FileError(f"{path} says that {where} has {claimed} bytes, more than it can hold: get it anew.")
    return file



def _check_heaps(file: Any, path: Path) -> None:
    """Refuse a heap, where rows of different lengths lie, with free space of no size: HDF5 never comes to its end."""
    if file.id.get_create_plist().get_sizes() != (8, 8):
        raise FileError(f"{path} has addresses of other than 8 bytes: have it written by h5py.")
    with path.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as raw:
        for heap in (found.start() for found in re.finditer(_HEAP, raw)):
            end, at = min(heap + int.from_bytes(raw[heap + 8 : heap + 16], "little"), len(raw)), heap + 16
            while at + _OBJECT.size <= end:
                number, size = _OBJECT.unpack_from(raw, at)
                if number == size == 0:
                    raise FileError(f"{path} is damaged at byte {at}, in a heap of HDF5: get it anew.")
                at += size if number == 0 else _OBJECT.size + -(-size // 8) * 8
