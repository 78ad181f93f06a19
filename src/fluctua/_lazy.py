"""Names that a package hands on without importing their modules until they are used."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from fluctua._deprecated import renamed


def lazy(
    package: str, names: Mapping[str, str], modules: str = ""
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """A module's `__getattr__`, `__dir__` (PEP 562) and `__all__` for names defined elsewhere.

    Args:
        package: `__name__` of the package.
        names: of each module those that it has, separated by spaces; it is imported on first use.
        modules: of the package, imported likewise.
    """
    homes = {name: module for module in names for name in names[module].split()}

    def __getattr__(name: str) -> Any:
        if name in modules.split():
            return import_module(f"{package}.{name}")
        if name not in homes:
            return renamed(package, name)
        value = getattr(import_module(homes[name]), name)
        setattr(import_module(package), name, value)  # found directly next time
        return value

    def __dir__() -> list[str]:
        return sorted({*vars(import_module(package)), *homes, *modules.split()})

    return __getattr__, __dir__, list(homes)
