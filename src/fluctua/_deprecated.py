"""The names of version 0.1: each still leads to what it named, with a DeprecationWarning, until version 0.3.

`_deprecated.json` has the tables: modules that moved, names that moved, and names that are gone.

`keep_old_paths` lets old modules be imported; `lazy` and the packages that have no lazy names ask `renamed` for names
that they no longer hand on themselves. Nothing is imported before an old name is used.
"""

import json
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any


def _each_name(homes: Mapping[str, str]) -> Mapping[str, tuple[str, str]]:
    """`{new module: "name old:new ..."}` -> `{old name: (new module, new name)}`."""
    return {name.partition(":")[0]: (home, name.rpartition(":")[2]) for home in homes for name in homes[home].split()}


_TABLES = json.loads(Path(__file__).with_suffix(".json").read_text("utf-8"))

MODULES: Mapping[str, str] = MappingProxyType(_TABLES["modules"])
"""Old module -> new one; what lies beneath it follows, unless it has a line of its own."""

NAMES: Mapping[str, Mapping[str, tuple[str, str]]] = MappingProxyType(
    {old: _each_name(homes) for old, homes in _TABLES["names"].items()}
)
"""Of an old or a present module, each name that lives elsewhere now, with its module and what it is called there."""

REPLACED: Mapping[str, Mapping[str, str]] = MappingProxyType(_TABLES["gone"])
"""Of an old module, each name that nothing has any more, and what serves in its place."""


class _OldModule(ModuleType):
    """A module of before, every name of which is looked up where it is now."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return renamed(self.__name__, name)


class _OldPaths:
    """Finds and loads the modules of before; no subclass of `importlib.abc`, which is slow to import."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module of that name, if there was one and what it held is still there."""
        if not fullname.startswith("fluctua.") or (new := _new_module(fullname)) is None:
            return None
        if (there := find_spec(new)) is None:
            return None
        loader: Any = self
        return ModuleSpec(fullname, loader, is_package=there.submodule_search_locations is not None)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """An empty module."""
        return _OldModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing: its names are looked up when they are asked for."""


def keep_old_paths() -> None:
    """Keep the old module paths importable."""
    if not any(isinstance(finder, _OldPaths) for finder in sys.meta_path):
        sys.meta_path.insert(0, _OldPaths())  # before the finder of folders, which may find the remains of an old one


def old_names(module: str) -> Callable[[str], Any]:
    """The `__getattr__` of a module that still answers to the names which it handed on before."""

    def __getattr__(name: str) -> Any:
        return renamed(module, name)

    return __getattr__


def renamed(module: str, name: str) -> Any:
    """The object that an old name of a module stands for now; warns once.

    Raises:
        AttributeError: there was no such name.
        ImportError: what it named is gone; says what serves in its place.
    """
    home, new_name = NAMES.get(module, {}).get(name, (_new_module(module), name))
    if home is None or (value := getattr(import_module(home), new_name, None)) is None:
        raise _gone(module, name)
    said = f"{module}.{name} is {home}.{new_name} now; the old name goes with version 0.3"
    warnings.warn(said, DeprecationWarning, stacklevel=3)
    setattr(sys.modules[module], name, value)  # `from module import name` asks twice
    return value


def _gone(module: str, name: str) -> Exception:
    """Why an old name leads nowhere; not an AttributeError where there is advice, which `import` would swallow."""
    if name in REPLACED.get(module, {}):
        return ImportError(f"{module}.{name} is gone: use {REPLACED[module][name]}", name=module)
    return AttributeError(f"module {module!r} has no attribute {name!r}")


def _new_module(old: str) -> str | None:
    """Where a module of before is now."""
    head, tail = old, ""
    while head not in MODULES:
        head, dot, last = head.rpartition(".")
        if not dot:
            return None
        tail = f".{last}{tail}"
    return MODULES[head] + tail
