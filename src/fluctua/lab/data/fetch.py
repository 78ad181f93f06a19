"""Downloads of the official data sets: they resume where they stopped, and are verified before use.

On the command line: `python -m fluctua.lab.data.fetch shd FOLDER`.
"""

import argparse
import gzip
import hashlib
import http.client
import lzma
import os
import shutil
import sys
import tarfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

from fluctua.files import FileError
from fluctua.lab.durable import locked, make_folder, sync_folder

Progress = Callable[[str, int, int | None], None]  # name, bytes so far, total bytes if known

_CHUNK, _TIMEOUT = 1 << 20, 60.0  # bytes, seconds


@dataclass(frozen=True)
class Archive:
    """A file to download.

    Attributes:
        url: the source.
        name: of the zip or tar file.
        md5: of its content, in hexadecimal.
        holds: the file or folder that it unpacks to.
    """

    url: str
    name: str
    md5: str
    holds: str


def _heidelberg(part: str, md5: str) -> Archive:
    return Archive(f"https://zenkelab.org/datasets/{part}.h5.zip", f"{part}.h5.zip", md5, f"{part}.h5")


def _figshare(number: int, name: str, md5: str) -> Archive:
    return Archive(f"https://figshare.com/ndownloader/files/{number}", f"{name}.tar.gz", md5, name)


def _mendeley(key: str, name: str, md5: str) -> Archive:
    url = f"https://data.mendeley.com/public-files/datasets/468j46mzdv/files/{key}/file_downloaded"
    return Archive(url, f"{name}.zip", md5, name)


ARCHIVES: Mapping[str, tuple[Archive, ...]] = MappingProxyType(
    {
        "shd": (
            _heidelberg("shd_train", "f3252aeb598ac776c1b526422d90eecb"),
            _heidelberg("shd_test", "1503a5064faa34311c398fb0a1ed0a6f"),
        ),
        "ssc": (
            _heidelberg("ssc_train", "d102be95e7144fcc0553d1f45ba94170"),
            _heidelberg("ssc_valid", "b4eee3516a4a90dd0c71a6ac23a8ae43"),
            _heidelberg("ssc_test", "a35ff1e9cffdd02a20eb850c17c37748"),
        ),
        "nmnist": (
            _mendeley("39c25547-014b-4137-a934-9d29fa53c7a0", "Train", "20959b8e626244a1b502305a9e6e2031"),
            _mendeley("05a4d654-7e03-4c15-bdfa-9bb2bcbea494", "Test", "69ca8762b2fe404d9b9bad1103e97832"),
        ),
        "dvs-gesture": (
            _figshare(38022171, "ibmGestureTrain", "3a8f0d4120a166bac7591f77409cb105"),
            _figshare(38020584, "ibmGestureTest", "56070e45dadaa85fff82e0fbfbc06de5"),
        ),
        "cifar10": (
            Archive(
                "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
                "cifar-10-python.tar.gz",
                "c58f30108f718f92721af3b95e74349a",
                "cifar-10-batches-py",
            ),
        ),
    }
)
"""The downloads of each data set. Addresses and checksums are those of tonic 1.7, for CIFAR-10 those of torchvision;
DVS128 Gesture comes cut into gestures, with times in milliseconds."""


def fetch(name: str, folder: str | Path, *, progress: Progress | None = None) -> tuple[Path, ...]:
    """Download and unpack a data set; files already there stay.

    Args:
        name: one of `ARCHIVES`.
        folder: target folder; created if missing.
        progress: called now and then with name, bytes so far and total bytes (None if the server does not say).

    Returns:
        The files or folders unpacked, in the order of `ARCHIVES[name]`.

    Raises:
        ValueError: for an unknown name, a download whose checksum is wrong, or an archive that cannot be unpacked.
        OSError: if the server cannot be reached or breaks off, or the folder cannot be written; another call resumes.
            Also if another process fetches into the folder.
    """
    if name not in ARCHIVES:
        raise ValueError(f"no data set {name!r} is known: choose one of {', '.join(ARCHIVES)}.")
    root = Path(folder)
    make_folder(root)
    with locked(root):
        return tuple(obtain(archive, root, progress or _silent) for archive in ARCHIVES[name])


def obtain(archive: Archive, folder: Path, progress: Progress) -> Path:
    """Download and unpack one archive into `folder`, unless its content is there; errors as in `fetch`."""
    target = folder / archive.holds
    if not target.exists():
        packed = _download(archive, folder, progress)
        unpacked = folder / f".{archive.name}.unpacked"
        shutil.rmtree(unpacked, ignore_errors=True)
        try:
            _unpack(packed, unpacked)
            if not (unpacked / archive.holds).exists():
                raise ValueError(f"{packed} holds no {archive.holds}: unpack it by hand.")
            _bring_to_disk(unpacked)
            (unpacked / archive.holds).replace(target)  # in one step, so that no half is mistaken for the whole
            sync_folder(folder)
        finally:
            shutil.rmtree(unpacked, ignore_errors=True)
        packed.unlink()
    return target


def _download(archive: Archive, folder: Path, progress: Progress) -> Path:
    """Download a file, unless it is there with the right checksum; a partial download stays as `<name>.part`.

    Raises:
        ValueError: the checksum is wrong.
    """
    packed, part = folder / archive.name, folder / f"{archive.name}.part"
    for path in (packed, part):
        if path.exists() and not path.is_file():  # opening a pipe would wait for ever
            raise FileError(f"{path} is a folder, pipe or device, not an archive: move it away and call again.")
    if not packed.exists() or _md5(packed) != archive.md5:
        _continue(archive, part, progress)
        if (found := _md5(part)) != archive.md5:
            part.unlink()
            raise ValueError(
                f"{archive.url} has the checksum {found}, not {archive.md5}, so it was deleted: call again, and if "
                "that does not help, get it by hand."
            )
        part.replace(packed)
    return packed


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def _continue(archive: Archive, part: Path, progress: Progress) -> None:
    """Download what is missing in `part`."""
    there = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "fluctua"} | ({"Range": f"bytes={there}-"} if there else {})
    try:
        with urllib.request.urlopen(urllib.request.Request(archive.url, headers=headers), timeout=_TIMEOUT) as answer:
            goes_on = answer.status == http.client.PARTIAL_CONTENT
            there = there if goes_on else 0
            size = answer.headers["Content-Length"]
            total = there + int(size) if size else None
            with part.open("ab" if goes_on else "wb") as file:
                while chunk := answer.read(_CHUNK):
                    _write(file, chunk)
                    there += len(chunk)
                    progress(archive.name, there, total)
    except urllib.error.HTTPError as error:
        if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE or not there:  # else it is complete
            raise OSError(f"{archive.url} cannot be downloaded (HTTP {error.code}): get it by hand.") from None
        return
    except _CannotWrite:
        raise
    except (OSError, http.client.HTTPException) as error:
        raise OSError(f"{archive.url} cannot be read ({error}): call again to resume.") from None
    if total is not None and there < total:
        raise OSError(f"{archive.url} broke off after {there} of {total} bytes: call again to resume.")


class _CannotWrite(OSError):
    pass


def _write(file: BinaryIO, chunk: bytes) -> None:
    try:
        file.write(chunk)
        file.flush()
    except OSError as error:
        raise _CannotWrite(
            f"cannot write {file.name} ({error.strerror}): fix that and call again to resume."
        ) from error


def _unpack(packed: Path, folder: Path) -> None:
    """Unpack an archive.

    Raises:
        ValueError: it is damaged, or would write outside the folder.
        OSError: the folder cannot be written.
    """
    if not hasattr(tarfile, "data_filter"):
        raise ValueError(
            f"this Python cannot unpack {packed} safely: unpack it by hand, or take Python 3.11.4 or newer."
        )
    try:
        if zipfile.is_zipfile(packed):
            with zipfile.ZipFile(packed) as archive:
                archive.extractall(folder)
        else:
            with tarfile.open(packed) as tar:
                tar.extractall(folder, filter="data")
    except OSError as error:
        if error.strerror is None or isinstance(error, gzip.BadGzipFile):
            raise ValueError(_damaged(packed, error)) from error
        raise OSError(
            f"cannot unpack {packed} into {folder.parent} ({error.strerror}): fix that and call again."
        ) from error
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, RuntimeError) as error:
        raise ValueError(_damaged(packed, error)) from error


def _damaged(packed: Path, error: Exception) -> str:
    why = str(error).partition(":\n")[0]  # tarfile repeats the message of each of its methods
    return f"{packed} cannot be unpacked ({why}): delete it and call again, or unpack it by hand."


def _bring_to_disk(folder: Path) -> None:
    """Flush files to disk, so that a power cut after the archive is deleted leaves no empty files."""
    if hasattr(os, "sync"):
        os.sync()
        return
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("r+b") as file:
                os.fsync(file.fileno())


def _silent(name: str, there: int, total: int | None) -> None:
    pass


def _print(name: str, there: int, total: int | None) -> None:
    share = f" of {total / 1e6:.0f}" if total else ""
    print(f"\r{name}: {there / 1e6:.0f}{share} MB", end="" if there != total else "\n", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> None:
    """Fetch a data set, from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m fluctua.lab.data.fetch", description="Download and unpack a data set."
    )
    parser.add_argument("name", choices=list(ARCHIVES))
    parser.add_argument("folder", type=Path)
    chosen = parser.parse_args(arguments)
    try:
        print(*fetch(chosen.name, chosen.folder, progress=_print), sep="\n")
    except (OSError, ValueError) as error:
        sys.exit(f"fluctua: {error}")


if __name__ == "__main__":
    main()
