"""Names that a package hands on without importing their modules until they are used."""

from collections.abc import Callable, Collection, Mapping
from importlib import import_module
from typing import Any

from fluctua._deprecated import renamed


def lazy(
    package: str, homes: Mapping[str, str], modules: Collection[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """A module's `__getattr__` and `__dir__` (PEP 562) for names defined elsewhere.

    Args:
        package: `__name__` of the package.
        homes: name -> module that it is imported from on first use.
        modules: of the package, imported likewise.
    """

    def __getattr__(name: str) -> Any:
        if name in modules:
            return import_module(f"{package}.{name}")
        if name not in homes:
            return renamed(package, name)
        value = getattr(import_module(homes[name]), name)
        setattr(import_module(package), name, value)  # found directly next time
        return value

    def __dir__() -> list[str]:
        return sorted({*vars(import_module(package)), *homes, *modules})

    return __getattr__, __dir__
