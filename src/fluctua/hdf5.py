"""What an HDF5 file may contain: all of it lies in the file, once, and takes no more memory than its bytes can fill."""

import math
import mmap
import re
import struct
import zlib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from fluctua.files import FileError

_RATIO, _LITTLE = 16, 1 << 20  # bytes in memory per byte of a compressed file, and bytes that any file may take
_HEAP, _OBJECT = b"GCOL\x01", struct.Struct("<H6xQ")  # start of a heap; number and size of an object in it
_ROW = np.dtype([("length", "<u4"), ("heap", "<u8"), ("number", "<u4")])  # where a variable-length row lies
_DEFLATE, _SHUFFLE = 1, 2  # filters


def self_contained(file: Any, path: Path) -> None:
    """Refuse an open file with links, external storage, or impossible sizes, before anything else is read.

    Raises:
        FileError: the first such fault.
    """
    h5py: Any = import_module("h5py")

    if file.id.get_create_plist().get_sizes() != (8, 8):
        raise FileError(f"{path} has addresses that are not 8 bytes long: write it with h5py.")
    _check_heaps(path)
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
                    raise FileError(
                        f"{path} claims that {where} has {claimed} bytes, more than it can hold: get it again."
                    )
                if item.dtype.hasobject:
                    _check_rows(item, where, path)


def _check_heaps(path: Path) -> None:
    """Refuse a heap, where rows lie, with free space of size zero: HDF5 never reaches its end."""
    with path.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as raw:
        for heap in (found.start() for found in re.finditer(_HEAP, raw)):
            end, at = min(heap + int.from_bytes(raw[heap + 8 : heap + 16], "little"), len(raw)), heap + 16
            while at + _OBJECT.size <= end:
                number, size = _OBJECT.unpack_from(raw, at)
                if number == size == 0:
                    raise FileError(f"{path} is damaged at byte {at}, in a heap of HDF5: get it again.")
                at += size if number == 0 else _OBJECT.size + -(-size // 8) * 8


def _check_rows(item: Any, where: str, path: Path) -> None:
    """Refuse rows that claim to be longer than the file, since HDF5 would allocate memory for them."""
    h5py: Any = import_module("h5py")

    row = h5py.check_vlen_dtype(item.dtype)
    width = 1 if h5py.check_string_dtype(item.dtype) else row.itemsize if isinstance(row, np.dtype) else 0
    if width == 0 or (row is not None and isinstance(row, np.dtype) and row.hasobject):
        raise FileError(f"{path} has {where} of a type that is not supported: store numbers or rows of numbers.")
    for stored in _stored(item, where, path):
        rows = np.frombuffer(stored[: len(stored) // _ROW.itemsize * _ROW.itemsize], _ROW)
        if (longest := int(rows["length"].max(initial=0)) * width) > path.stat().st_size:
            raise FileError(
                f"{path} claims that a row of {where} has {longest} bytes, more than it can hold: get it again."
            )


def _stored(item: Any, where: str, path: Path) -> Iterator[bytes]:
    """The bytes of a data set as in memory, piece by piece."""
    plan, size = item.id.get_create_plist(), item.id.get_storage_size()
    with path.open("rb") as opened:
        if item.chunks is None:
            if (start := item.id.get_offset()) is not None:
                opened.seek(start)
                yield opened.read(min(size, (item.size or 0) * _ROW.itemsize))
            elif size:
                raise FileError(f"{path} keeps {where} in its header, where it cannot be checked: write it with h5py.")
            return
        filters = [plan.get_filter(k)[0] for k in range(plan.get_nfilters())]
        if not set(filters) <= {_DEFLATE, _SHUFFLE}:
            raise FileError(f"{path} has {where} compressed in a way that is not supported: write it with gzip.")
        most = math.prod(item.chunks) * _ROW.itemsize
        for k in range(item.id.get_num_chunks()):
            chunk = item.id.get_chunk_info(k)
            opened.seek(chunk.byte_offset)
            raw = opened.read(min(chunk.size, path.stat().st_size))
            for number, kind in reversed(list(enumerate(filters))):
                if chunk.filter_mask >> number & 1:
                    continue
                if kind == _DEFLATE:
                    raw = zlib.decompressobj().decompress(raw, most)
                else:
                    whole = len(raw) // _ROW.itemsize * _ROW.itemsize
                    raw = np.frombuffer(raw[:whole], np.uint8).reshape(_ROW.itemsize, -1).T.tobytes()
            yield raw
