"""What is public."""

from importlib import import_module
from typing import Any

from shared.imports import FACE, files_by_module, outside_lab

PACKAGES = [name for name, file in files_by_module().items() if file.endswith("__init__.py") and outside_lab(file)]


def public() -> dict[str, Any]:
    """Every public object outside the laboratory, by the longest of the names under which a package lists it."""
    found: dict[int, tuple[str, Any]] = {}
    beside = [name for name, file in files_by_module().items() if "/" not in file and file not in FACE]
    for module in sorted([*PACKAGES, *beside], key=len, reverse=True):
        home = import_module(module)
        for name in getattr(home, "__all__", []):
            if name != "__version__":
                value = getattr(home, name)
                found.setdefault(id(value), (f"{module}.{name}", value))
    return dict(sorted(found.values(), key=lambda entry: entry[0]))
