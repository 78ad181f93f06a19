"""A model and a batch from a user's file, for the command line."""

import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def file_and_function(where: str) -> tuple[str, str]:
    """The two parts of "FILE.py:function".

    Raises:
        ValueError: no such file.
    """
    file, _, name = where.rpartition(":")
    if not file or not name or not Path(file).is_file():
        raise ValueError(f"{where!r} names no function in a file: give FILE.py:function, such as model.py:example")
    return file, name


def arguments_from(where: str) -> dict[str, Any]:
    """The result of a function in a file, as arguments of `fluctua.diagnose` by name.

    Args:
        where: "FILE.py:function". The function takes nothing and returns `(model, batch)`, `(model, batch, labels)`, or
            a dictionary of arguments: `model`, `batch`, and any other.

    Raises:
        ValueError: no such file or function, or one that returns something else.
    """
    from torch import nn

    file, name = file_and_function(where)
    found = runpy.run_path(file, run_name="__fluctua__").get(name)
    if not callable(found):
        raise ValueError(f"{file} has no function {name!r} that returns a model and a batch")
    returned = found()
    if isinstance(returned, Mapping):
        given = dict(returned)
    elif isinstance(returned, tuple) and len(returned) in (2, 3):
        given = dict(zip(("model", "batch", "labels"), returned, strict=False))
    else:
        given = {}
    if not isinstance(given.get("model"), nn.Module) or "batch" not in given:
        raise ValueError(
            f"{name} of {file} must return (model, batch), (model, batch, labels) or a dictionary with model and "
            f"batch, got {type(returned).__name__}"
        )
    return given
