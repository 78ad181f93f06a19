"""Laws of the documentation: its links lead somewhere, its code runs, its numbers are those that are printed."""

import ast
import doctest
import math
import re
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest

from fluctua.theory import Afferent, Drive, PspKernel, Target, solve
from shared.public import public

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
README = ROOT / "README.md"


def names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(DOCS)) if path.is_relative_to(DOCS) else path.name for path in paths]


def blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def packages(code: list[str]) -> set[str]:
    """What the blocks of a page import."""
    nodes = [node for block in code for node in ast.walk(ast.parse(block))]
    modules = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    modules += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    return {module.partition(".")[0] for module in modules}


LINKING = [*PAGES, README]


@pytest.mark.parametrize("page", LINKING, ids=names(LINKING))
def test_every_relative_link_leads_to_a_file(page: Path) -> None:
    targets = re.findall(r"\]\(([^)]+)\)", page.read_text())
    local = [target.partition("#")[0] for target in targets if "://" not in target and target[0] != "#"]
    assert [target for target in local if not (page.parent / target).is_file()] == []


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_every_script_that_a_page_names_is_there(page: Path) -> None:
    scripts = re.findall(r"python ((?:docs|benchmarks)/\S+\.py)", page.read_text())
    assert [script for script in scripts if not (ROOT / script).is_file()] == []


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text()
    assert [name for name in names(PAGES) if name not in navigation] == []


def test_the_theory_page_prints_what_it_says() -> None:
    failed, tried = doctest.testfile(str(DOCS / "theory.md"), module_relative=False, optionflags=doctest.ELLIPSIS)
    assert (failed, tried > 10) == (0, True)


RUNNABLE = [page for page in LINKING if blocks(page)]


@pytest.mark.parametrize("page", RUNNABLE, ids=names(RUNNABLE))
def test_the_python_blocks_of_a_page_run_in_order(page: Path) -> None:
    namespace: dict[str, Any] = {}
    for package in packages(blocks(page)):
        pytest.importorskip(package, reason=f"the page needs {package}, which is not installed")
    for block in blocks(page):
        exec(compile(block, str(page), "exec"), namespace)


RECIPES = {
    "flax": (PspKernel.two_poles(1.0, 0.95, 0.9, dt=1e-3), 100),
    "ml_genn": (PspKernel.two_poles(1.0, math.exp(-1 / 20), math.exp(-1 / 10), dt=1e-3), 100),
    "brian2": (PspKernel.continuous(tau_mem=20e-3, tau_syn=10e-3), 100),
}
"""What the recipes for other simulators are made for: the kernel of their neurons, and the fan-in; 20 Hz, xi = 1."""


@pytest.mark.parametrize("package", RECIPES)
def test_the_recipes_for_other_simulators_give_the_weights_of_the_theory(package: str) -> None:
    """All of a recipe where its simulator is installed; where not, the number that it comes to."""
    page = (DOCS / "how-to" / "formula.md").read_text()
    (recipe,) = (b for b in re.findall(r"^```py\n(.*?)^```", page, re.DOTALL | re.MULTILINE) if package in b)
    namespace: dict[str, Any] = {}
    for statement in ast.parse(recipe).body:
        imported = isinstance(statement, ast.Import | ast.ImportFrom) and packages([ast.unparse(statement)])
        if imported and not all(find_spec(name) for name in imported):
            break
        exec(compile(ast.Module([statement], []), package, "exec"), namespace)
    kernel, n = RECIPES[package]
    drive = Drive.poisson(n=n, nu=20.0, kernel=kernel)
    (law,) = solve(Target(xi=1.0), 1.0, kernel, [Afferent(drive)])
    found = namespace["std"](n) if callable(namespace["std"]) else namespace["std"]
    assert found == pytest.approx(float(law.std), rel=1e-6)


def test_the_readme_and_the_start_page_begin_with_the_same_example() -> None:
    assert blocks(README)[0] == blocks(DOCS / "index.md")[0]


@pytest.mark.parametrize("page", LINKING, ids=names(LINKING))
def test_every_picture_says_what_is_to_be_seen(page: Path) -> None:
    described = re.findall(r"!\[([^\]]*)\]\(", page.read_text())
    assert [text for text in described if len(text) < 20] == []


API = sorted((DOCS / "api").glob("*.md"))


def test_every_public_name_is_on_a_page_of_the_api() -> None:
    """Of the library; the laboratory's are those that the pages list."""
    listed = re.findall(r"^::: (\S+)$", "\n".join(page.read_text() for page in API), re.MULTILINE)
    documented = {id(resolve_name(name)) for name in listed}
    assert len(set(listed)) == len(listed)
    assert sorted(name for name, value in public().items() if id(value) not in documented) == []
    overview = (DOCS / "api" / "index.md").read_text()
    assert [name for name in listed if f"[{name}]" not in overview] == []


@pytest.mark.parametrize("page", API, ids=names(API))
def test_every_name_of_the_api_has_an_example(page: Path) -> None:
    """In its docstring, or in the code of its page."""
    code = "\n".join(re.findall(r"^```py(?:thon)?\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE))
    without = [
        name
        for name in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE)
        if ">>>" not in (resolve_name(name).__doc__ or "") and not re.search(rf"\b{name.rpartition('.')[2]}\b", code)
    ]
    assert without == []


def test_every_error_of_the_package_is_explained() -> None:
    errors = {
        node.name
        for path in (ROOT / "src").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and node.bases and not node.name.startswith("_")
        if re.search(r"(Error|Exception|RuntimeError|KeyboardInterrupt)$", ast.unparse(node.bases[0]))
    }
    text = (DOCS / "errors.md").read_text()
    assert errors, "none found: has the layout of the package changed?"
    assert sorted(error for error in errors if f"`{error}`" not in text) == []


@pytest.mark.parametrize("page", LINKING, ids=names(LINKING))
def test_no_table_is_broken_by_a_blank_line(page: Path) -> None:
    lines = [*page.read_text().splitlines(), "", ""]
    heads = re.compile(r"\|[-:| ]+\|?")
    broken = [
        k + 2
        for k, (before, line, after, then) in enumerate(zip(lines, lines[1:], lines[2:], lines[3:], strict=False))
        if before.startswith("|") and not line and after.startswith("|") and not heads.fullmatch(then)
    ]
    assert broken == []
