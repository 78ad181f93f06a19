"""Which file of fluctua imports which, read from the sources, and the floor that each package stands on."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "src" / "fluctua"

FLOORS = {
    "theory": 1,
    "files": 1,
    "hdf5": 1,
    "spikes": 1,
    "simd": 1,
    "neurons": 2,
    "timeloop": 2,
    "layers": 3,
    "network": 4,
    "state": 5,
    "methods": 6,
    "homeostasis": 7,
    "hardware": 7,
    "rescaling": 7,
    "explain": 7,
    "fusion": 7,
    "lab": 8,
}
"""Of each package and each module beside them; imports run to the same floor or down."""

FACE = {"__init__.py", "_lazy.py", "_deprecated.py"}
"""The files at the top that hand names on: they know every floor and stand on none."""

NEEDED = ("torch", "numpy", "numba")
"""What the library needs, and no more."""

Place = Literal["module", "function", "typing"]


@dataclass(frozen=True)
class Import:
    """One import that a source file states.

    Attributes:
        file: that states it, relative to `src/fluctua`.
        line: of the statement.
        module: the full name of what is imported, `fluctua.theory.psp` or `matplotlib.figure`.
        place: run when the file is imported, when a function is called, or read by a type checker alone.
    """

    file: str
    line: int
    module: str
    place: Place

    @property
    def package(self) -> str:
        """The part before the first dot."""
        return self.module.partition(".")[0]

    @property
    def target(self) -> str | None:
        """The file of fluctua that is imported, relative to `src/fluctua`."""
        return files_by_module().get(self.module)

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.module}" + ("" if self.place == "module" else f" ({self.place})")


@cache
def files_by_module() -> dict[str, str]:
    """Every module of fluctua and its file."""
    found = {}
    for path in sorted(SOURCES.rglob("*.py")):
        relative = path.relative_to(SOURCES)
        parts = ("fluctua", *relative.with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = relative.as_posix()
    return found


@cache
def imports() -> tuple[Import, ...]:
    """Every import of every file. A string that names a module of fluctua counts as one: it is loaded by that name."""
    return tuple(found for file in files_by_module().values() for found in _imports_of(file))


def top(file: str) -> str:
    """The package, or the module beside the packages, that a file belongs to; `__main__.py` is the laboratory's."""
    return "lab" if file == "__main__.py" else file.partition("/")[0].removesuffix(".py")


def outside_lab(file: str) -> bool:
    """Whether the file belongs to the library and not to its laboratory."""
    return top(file) != "lab"


def _imports_of(file: str) -> Iterator[Import]:
    for node, place in _walk(ast.parse((SOURCES / file).read_text()), "module"):
        for name in _names(node, file):
            yield Import(file, getattr(node, "lineno", 0), name, place)


def _walk(node: ast.AST, place: Place) -> Iterator[tuple[ast.AST, Place]]:
    for child in ast.iter_child_nodes(node):
        inner = place
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            inner = "function"
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            inner = "typing"
        yield child, inner
        yield from _walk(child, inner)


def _names(node: ast.AST, file: str) -> list[str]:
    """The modules that a node of the syntax tree imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        if node.level:
            raise ValueError(f"{file}:{node.lineno} has a relative import: name the module in full")
        # A name may be a module of that package, or one that its __init__ hands on.
        inner = [f"{node.module}.{alias.name}" for alias in node.names]
        found = [name for name in inner if name in files_by_module()]
        return found if len(found) == len(inner) else [*found, str(node.module)]
    if file == "_deprecated.py":  # its strings are names of before
        return []
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in files_by_module():
        return [node.value] if node.value != "fluctua" else []
    if isinstance(node, ast.JoinedStr) and isinstance(
        node.values[0], ast.Constant
    ):  # f"fluctua.network.adapters.{name}"
        package = str(node.values[0].value).removesuffix(".")
        return [name for name in files_by_module() if package in files_by_module() and name.startswith(f"{package}.")]
    return []
