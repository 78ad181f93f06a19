"""Laws of the house: which way imports run, what the library needs, how large it is, and what it shows."""

import ast
import doctest
import json
import re
import runpy
import subprocess
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from io import StringIO
from pkgutil import resolve_name
from typing import Any

import pytest
import torch

from shared.imports import FACE, FLOORS, NEEDED, ROOT, SOURCES, files_by_module, imports, outside_lab, top
from shared.public import public

TESTS = ROOT / "tests"
FILES = sorted(files_by_module().values())
LIBRARY = [file for file in FILES if outside_lab(file)]


def listed(offenders: list[Any]) -> str:
    return "".join(f"\n  {offender}" for offender in offenders)


def lines(file: str) -> int:
    return len((SOURCES / file).read_text().splitlines())


# --- which way imports run ---

SIDEWAYS = {
    ("hdf5", "files"),
    ("neurons", "timeloop"),
    ("spikes", "simd"),
    ("rescaling", "hardware"),
    ("explain", "fusion"),
}
"""Packages of one floor of which the first may import the second."""


def test_every_package_stands_on_a_floor() -> None:
    homeless = sorted({top(file) for file in FILES if file not in FACE} - FLOORS.keys())
    assert not homeless, f"no floor in tests/shared/imports.py for:{listed(homeless)}"


def test_imports_run_to_the_same_floor_or_down() -> None:
    offenders = []
    for found in imports():
        if found.target is None or found.file in FACE or found.target in FACE:
            continue
        above, below = top(found.file), top(found.target)
        sideways = FLOORS[above] == FLOORS[below] and above != below and (above, below) not in SIDEWAYS
        if FLOORS[above] < FLOORS[below] or sideways:
            offenders.append(f"{found}: floor {FLOORS[above]} to floor {FLOORS[below]}")
    assert not offenders, f"imports that do not run downwards:{listed(offenders)}"


def circles(edges: dict[str, set[str]]) -> Iterator[list[str]]:
    """Circles, one after another, each broken open before the next is looked for."""
    while True:
        try:
            TopologicalSorter(edges).prepare()
        except CycleError as error:
            circle = error.args[1]  # each is imported by the next one
            yield circle
            edges[circle[1]].discard(circle[0])
        else:
            return


def test_no_files_import_each_other_in_a_circle() -> None:
    edges: dict[str, set[str]] = {file: set() for file in FILES}
    for found in imports():
        if found.target is not None and found.place != "typing" and found.target != found.file:
            edges[found.file].add(found.target)
    offenders = [" <- ".join(circle) for circle in circles(edges)]
    assert not offenders, f"circles of files:{listed(offenders)}"


def test_the_picture_of_the_floors_is_drawn_from_these_imports() -> None:
    script = ROOT / "docs" / "scripts" / "house.py"
    drawn = runpy.run_path(str(script))
    assert drawn["PICTURE"].read_text() == drawn["drawn"](), "run python docs/scripts/house.py again"


def test_nothing_outside_the_laboratory_imports_it() -> None:
    offenders = [
        found
        for found in imports()
        if found.target is not None and outside_lab(found.file) and not outside_lab(found.target)
    ]
    assert not offenders, f"imports of the laboratory:{listed(offenders)}"


# --- what the library needs ---

WITH_NEEDED = {"llvmlite"}
"""What the needed packages bring along and the library uses itself: numba compiles with llvmlite."""

OPTIONAL = {
    ("state/table.py", "rich"): "function",
    ("state/style.py", "matplotlib"): "function",
    ("state/style.py", "cycler"): "function",
    ("homeostasis/refinement.py", "rich"): "function",
    ("explain/monitor.py", "lightning"): "function",
    ("explain/monitor_figure.py", "matplotlib"): "function",
}
"""Which file may import which other package, and where; `module`: that file itself is loaded only when asked for."""

FOR_TYPES = {"rich", "matplotlib"}
"""What any file may name under TYPE_CHECKING."""


def test_the_library_needs_torch_numpy_and_numba_alone() -> None:
    allowed = {"fluctua", *NEEDED, *WITH_NEEDED, *sys.stdlib_module_names}
    offenders = [
        found
        for found in imports()
        if outside_lab(found.file) and found.package not in allowed
        if not (found.place == "typing" and found.package in FOR_TYPES)
        if OPTIONAL.get((found.file, found.package)) not in (found.place, "module")
    ]
    assert not offenders, f"imports of packages that the library does not need:{listed(offenders)}"


def test_the_table_of_optional_packages_is_up_to_date() -> None:
    stated = {(found.file, found.package) for found in imports() if found.place != "typing"}
    stale = sorted(OPTIONAL.keys() - stated)
    assert not stale, f"no longer imported, so strike them from OPTIONAL:{listed(stale)}"


def distributions_needed() -> set[str]:
    """torch, NumPy, numba and what these need in turn, without their extras."""
    found: set[str] = set()
    waiting = list(NEEDED)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        try:
            stated = requires(name) or []
        except PackageNotFoundError:  # needed on another platform
            continue
        found.add(name)
        waiting += [re.split(r"[^\w.-]", text, maxsplit=1)[0] for text in stated if "extra ==" not in text]
    return found


def others_installed() -> list[str]:
    """Every installed package that the library must do without."""
    needed = distributions_needed()
    return sorted(
        package
        for package, owners in packages_distributions().items()
        if not {re.sub(r"[-_.]+", "-", owner).lower() for owner in owners} & {*needed, "fluctua"}
        if package not in sys.stdlib_module_names
    )


def output(code: str, **values: Any) -> str:
    """What code prints in a process of its own that starts with these variables."""
    given = "".join(f"{name} = json.loads({json.dumps(value)!r})\n" for name, value in values.items())
    done = subprocess.run(
        [sys.executable, "-c", f"import json\n{given}{code}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


WITHOUT_OTHERS = """
import importlib, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in others:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
for module in modules:
    importlib.import_module(module)

import torch, fluctua
from torch import nn
from fluctua.neurons import LI, LIF
x = (torch.rand(50, 4, 20) < 0.1).float()
model = nn.Sequential(nn.Linear(20, 16, bias=False), LIF(), nn.Linear(16, 2, bias=False), LI(0.1))
report = fluctua.initialize(model, x, fluctua.Target(xi=1.0), readout=fluctua.Target(sigma=0.1), seed=0)
print(str(report).count("population"), "LOADED", *sorted(others & sys.modules.keys()))
""".replace("others", "set(others)")


def test_the_library_runs_without_any_other_package() -> None:
    gpu = {file for (file, package), place in OPTIONAL.items() if package == "triton" and place == "module"}
    modules = [name for name, file in files_by_module().items() if outside_lab(file) and file not in gpu]
    printed = output(WITHOUT_OTHERS, others=[*others_installed(), "triton"], modules=modules)
    assert re.search(r"LOADED\s*$", printed), f"loaded all the same: {printed}"


def test_the_theory_loads_neither_torch_nor_numba() -> None:
    printed = output("import sys, fluctua.theory\nprint(*sys.modules.keys() & {'torch', 'numba'})")
    assert printed.split() == []


# --- how large it is ---


def test_no_file_has_more_than_400_lines() -> None:
    offenders = [f"{file}: {count} lines" for file in FILES if (count := lines(file)) > 400]
    assert not offenders, f"files with more than one subject:{listed(offenders)}"


def code_lines(file: str) -> int:
    """The lines that hold code: no blank lines, comments or docstrings."""
    text = (SOURCES / file).read_text()
    said = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Expr)]
    docstrings = {
        line
        for node in said
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str) and node.end_lineno is not None
        for line in range(node.lineno, node.end_lineno + 1)
    }
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    tokens = [token for token in tokenize.generate_tokens(StringIO(text).readline) if token.type not in silent]
    return len({line for token in tokens for line in range(token.start[0], token.end[0] + 1)} - docstrings)


def test_the_library_does_not_grow() -> None:
    """The goal is 16,000 lines of code; with docstrings, comments and blank lines there are some 9,600 more."""
    by_package: dict[str, int] = {}
    for file in LIBRARY:
        by_package[top(file)] = by_package.get(top(file), 0) + code_lines(file)
    assert sum(by_package.values()) <= 17165, f"lines of code outside the laboratory: {by_package}"
    assert sum(map(lines, LIBRARY)) <= 27200


WAY = """
import sys
import torch
from fluctua import Target, initialize
from torch import nn
from fluctua.neurons import LI, LIF

def model():
    hidden = [nn.Linear(20, 16, bias=False), LIF(), nn.Linear(16, 16, bias=False), LIF()]
    return nn.Sequential(*hidden, nn.Linear(16, 2, bias=False), LI(0.1))

x = (torch.rand(50, 4, 20) < 0.1).float()
initialize(model(), x, Target(xi=1.0), readout=Target(sigma=0.1), seed=0)  # loads and compiles what it needs
loaded = sorted(name for name in sys.modules if name.partition(".")[0] == "fluctua")

files = set()

def note(frame, event, argument):
    if event == "call":
        files.add(frame.f_code.co_filename)

another = model()
sys.setprofile(note)
initialize(another, x, Target(xi=1.0), readout=Target(sigma=0.1), seed=0)
sys.setprofile(None)
print(json.dumps([loaded, sorted(file for file in files if file.startswith(sources))]))
"""


@pytest.fixture(scope="module")
def way() -> tuple[list[str], list[str]]:
    """The modules that one call of `initialize` loads, and the files whose functions it calls."""
    loaded, files = json.loads(output(WAY, sources=str(SOURCES)))
    return loaded, [file.removeprefix(f"{SOURCES}/") for file in files]


def test_one_initialize_loads_at_most_60_modules_and_none_of_the_laboratory(way: tuple[list[str], list[str]]) -> None:
    loaded, _ = way
    assert not [name for name in loaded if name.startswith("fluctua.lab")]
    assert len(loaded) <= 60, f"{len(loaded)} modules:{listed(loaded)}"


def test_one_initialize_passes_at_most_25_files(way: tuple[list[str], list[str]]) -> None:
    _, files = way
    assert len(files) <= 25, f"{len(files)} files:{listed(files)}"


# --- what it shows ---


def hands_on(node: ast.stmt) -> bool:
    """Whether a statement of an `__init__` imports, lists or hands on names, and no more."""
    match node:
        case ast.Import() | ast.ImportFrom():
            return True
        case ast.Expr(ast.Constant()):  # a docstring
            return True
        case ast.Expr(ast.Call(ast.Name(name))):
            return name == "keep_old_paths"
        case ast.If():
            guard = ast.unparse(node.test) in ("TYPE_CHECKING", "not TYPE_CHECKING")
            return guard and all(map(hands_on, node.body)) and not node.orelse
        case ast.Assign([ast.Name("__all__" | "__version__")]):
            return True
        case ast.Assign([ast.Name("__getattr__")], ast.Call(ast.Name("old_names"))):
            return True
        case ast.Assign([ast.Tuple([ast.Name("__getattr__"), ast.Name("__dir__"), ast.Name("__all__")])], call):
            return isinstance(call, ast.Call) and ast.unparse(call.func) == "lazy"
        case ast.AugAssign(ast.Name("__all__")):
            return True
    return False


def test_an_init_defines_nothing() -> None:
    offenders = [
        f"{file}:{node.lineno} {ast.unparse(node).splitlines()[0]}"
        for file in FILES
        if file.endswith("__init__.py")
        for node in ast.parse((SOURCES / file).read_text()).body
        if not hands_on(node)
    ]
    assert not offenders, f"statements that belong into a file of their own:{listed(offenders)}"


PUBLIC = public()


def test_few_names_are_public() -> None:
    assert len(PUBLIC) <= 60, f"{len(PUBLIC)} public names outside the laboratory:{listed(list(PUBLIC))}"


def test_every_public_name_has_an_example() -> None:
    offenders = [name for name, value in PUBLIC.items() if ">>>" not in (value.__doc__ or "")]
    assert not offenders, f"{len(offenders)} public names without an example in their docstring:{listed(offenders)}"


def test_every_public_method_says_what_it_does_or_overrides_one_that_does() -> None:
    classes = [
        (file, node)
        for file in FILES
        for node in ast.parse((SOURCES / file).read_text()).body
        if isinstance(node, ast.ClassDef)
    ]

    def said(node: ast.ClassDef, method: str) -> bool:
        own = [f for f in node.body if isinstance(f, ast.FunctionDef) and f.name == method]
        bases = re.findall(r"\w+", " ".join(map(ast.unparse, node.bases)))
        above = (other for _, other in classes if other.name in bases and other is not node)
        return any(map(ast.get_docstring, own)) or any(said(other, method) for other in above)

    offenders = [
        f"{file}: {node.name}.{f.name}"
        for file, node in classes
        if not node.name.startswith("_") and file != "lab/training/callbacks.py"  # they override Lightning's
        for f in node.body
        if isinstance(f, ast.FunctionDef) and not f.name.startswith("_") and not said(node, f.name)
    ]
    assert not offenders, f"public methods without a docstring:{listed(offenders)}"


API = "\n".join(page.read_text() for page in sorted((ROOT / "docs" / "api").glob("*.md")))
DESCRIBED = {name: resolve_name(name) for name in re.findall(r"^::: (fluctua\.(?!lab\.)\S+)$", API, re.MULTILINE)}


@pytest.mark.parametrize("name", PUBLIC | DESCRIBED)
def test_the_examples_of_a_name_of_the_api_print_what_they_say(name: str) -> None:
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE, verbose=False)
    said: list[str] = []
    at_hand = {"torch": torch, "nn": torch.nn}  # besides the names of its module
    for example in doctest.DocTestFinder().find((PUBLIC | DESCRIBED)[name], name, extraglobs=at_hand):
        torch.manual_seed(0)
        runner.run(example, out=said.append)
    assert not said, "".join(said)


# --- tests mirror the sources ---

WITHOUT_A_SOURCE = {
    "lab/data/test_ssc.py": "the Spiking Speech Commands, which shd.py reads too",
    "lab/networks/test_architectures.py": "all networks by name, trained",
    "lab/test_trust.py": "what docs/trust.md promises of runs and files",
    "lab/training/test_ddp.py": "training on several processes",
    "layers/test_adaptive_fused.py": "adaptation in every fused layer",
    "methods/test_deep.py": "all of measured initialisation, at depth",
    "methods/test_probed.py": "all of measured initialisation, on probed neurons",
    "methods/test_refusals.py": "what no method accepts",
    "methods/test_stepwise.py": "all of measured initialisation, step by step",
    "network/adapters/test_bad_input.py": "what no adapter accepts",
    "network/adapters/test_contract.py": "the laws of every adapter",
    "network/test_circuits.py": "circuits, traced",
    "theory/test_paper.py": "the theory against the paper's numbers",
    "timeloop/test_events.py": "all event engines",
    "timeloop/test_step.py": "steps against whole loops",
    "test_benchmarks.py": "the scripts of benchmarks",
    "test_docs.py": "the pages of docs",
    "test_house.py": "the package as a whole",
    "test_notebooks.py": "the notebooks",
    "test_package.py": "the package as a whole",
    "test_playground.py": "the page docs/playground",
    "test_site.py": "the site, built of docs",
    "test_versions.py": "the lowest versions, and each Python",
}
"""Test files that test something else than one file or folder of the sources."""


def mirrored(test: str) -> bool:
    """Whether `a/test_b.py` or `a/test_b_more.py` tests `a/b.py`, the package `a/b`, or the package `a` itself."""
    folder, _, name = test.rpartition("/")
    words = name.removeprefix("test_").removesuffix(".py").split("_")
    stems = ["_".join(words[:n]) for n in range(len(words), 0, -1)]
    sources = [SOURCES / folder / f"{prefix}{stem}" for stem in stems for prefix in ("", "_")]
    if folder and folder.rpartition("/")[2] in stems and (SOURCES / folder).is_dir():
        return True
    return any(source.is_dir() or source.with_suffix(".py").is_file() for source in sources)


def test_every_test_file_mirrors_a_source() -> None:
    tests = sorted(path.relative_to(TESTS).as_posix() for path in TESTS.rglob("test_*.py"))
    offenders = [test for test in tests if test not in WITHOUT_A_SOURCE and not mirrored(test)]
    assert not offenders, f"tests of no file or folder of src/fluctua of that name:{listed(offenders)}"
    assert not WITHOUT_A_SOURCE.keys() - set(tests), "WITHOUT_A_SOURCE names a file that is not there"


# --- pages for whoever carries on ---


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/design.md"])
def test_a_page_names_files_and_folders_that_are_there(page: str) -> None:
    named = re.findall(r"`([\w./-]+(?:\.(?:py|md|yml|toml|txt|cff)|/))`", (ROOT / page).read_text())
    named += re.findall(r"\]\(([\w./-]+)\)", (ROOT / page).read_text())
    found = [name for name in named if "NAME" not in name and "/a/" not in name]
    assert found
    places = [ROOT, SOURCES, (ROOT / page).parent]
    offenders = [name for name in found if not any((place / name).exists() for place in places)]
    assert not offenders, f"{page} names what is not there:{listed(offenders)}"


def test_the_lowest_versions_are_those_that_the_package_allows() -> None:
    """`requirements-lowest.txt` has each lower bound of what the library, training and tests need."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = project["dependencies"] + extras["train"] + extras["dev"]
    bounds = sorted({text.partition(";")[0].strip().replace(">=", "==") for text in wanted})
    lines_ = (ROOT / "requirements-lowest.txt").read_text().splitlines()
    assert sorted(text for text in lines_ if text and not text.startswith("#")) == bounds
