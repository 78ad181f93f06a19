"""Names that a package hands on without importing where they live until one is asked for."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any
from warnings import warn


def lazy(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """A module's `__getattr__` and `__dir__` (PEP 562) for names that live elsewhere.

    Args:
        package: `__name__` of the package.
        homes: name -> module that it is imported from when it is first asked for.
    """

    def __getattr__(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(homes[name]), name)

    def __dir__() -> list[str]:
        return sorted({*vars(import_module(package)), *homes})

    return __getattr__, __dir__


def renamed(package: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """A module's `__getattr__` for names that users may still know: each works, with a warning that names the new one.

    Args:
        package: `__name__` of the package.
        names: old name -> full new one, such as `{"Chain": "fluctua.layers.FusedSequential"}`.
    """

    def __getattr__(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        warn(f"{package}.{name} is now {names[name]}", DeprecationWarning, stacklevel=2)
        home, _, new = names[name].rpartition(".")
        return getattr(import_module(home), new)

    return __getattr__
