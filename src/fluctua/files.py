"""Files from outside: one that cannot be read is refused in a sentence that starts with its name."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FOREIGN = (errno.EACCES, errno.EPERM, errno.EIO, errno.ENOSPC, errno.ESTALE, errno.EISDIR)  # not the content


class FileError(OSError, ValueError):
    """A file that cannot be used; the message starts with its name, and says what is wrong and what to do."""


@contextmanager
def reading(path: Path, kind: str, remedy: str) -> Iterator[None]:
    """Turn whatever is raised while a file is read into one sentence about it.

    Args:
        path: of the file.
        kind: what it should be, in words.
        remedy: what to do if it is not.

    Raises:
        FileNotFoundError: there is no such file.
        FileError: it is not a regular file, is empty, or cannot be read.
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
    except Exception as error:  # libraries' parsers may raise anything
        if isinstance(error, OSError) and error.errno in _FOREIGN:
            raise FileError(f"{path} cannot be read ({error.strerror}): fix that and try again.") from error
        raise FileError(f"{path} cannot be read as {kind} ({reason(error)}): {remedy}.") from error


def reason(error: Exception) -> str:
    """What a library's error says, in one short line."""
    said = " ".join("".join(c if c.isprintable() else " " for c in str(error)).split()).rstrip(".:")
    said = f"{said[:200]}..." if len(said) > 200 else said or type(error).__name__
    return f"no {said}" if isinstance(error, KeyError) else said
