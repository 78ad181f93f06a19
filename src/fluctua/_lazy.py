"""Names that a package hands on without importing their modules until they are used."""

import ast
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

from fluctua._deprecated import renamed


def lazy(package: str, modules: str = "") -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """A module's `__getattr__`, `__dir__` (PEP 562) and `__all__` for names defined elsewhere.

    They are those that its source imports `as` themselves, which type checkers alone do.

    Args:
        package: `__name__` of the package.
        modules: of the package, separated by spaces, imported on first use likewise.
    """
    loader: Any = sys.modules[package].__loader__
    imports = (node for node in ast.walk(ast.parse(loader.get_source(package))) if isinstance(node, ast.ImportFrom))
    homes = {alias.name: str(node.module) for node in imports for alias in node.names if alias.asname == alias.name}

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
