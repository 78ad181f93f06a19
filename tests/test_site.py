"""Laws of the site: it builds, its links lead somewhere, and nothing is fetched from elsewhere."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "theory").mkdir()
    links = '<a href="theory/#here">b</a><a href="#title">c</a><a href="https://elsewhere.example.org">d</a>'
    (tmp_path / "index.html").write_text(f'<h1 id="title">a</h1>{links}')
    (tmp_path / "theory" / "index.html").write_text('<h2 id="here">e</h2><a href="../">f</a>')
    return tmp_path


def test_a_sound_site_has_no_complaints(site: Path) -> None:
    assert list(script("links").complaints(site)) == []


@pytest.mark.parametrize(
    ("element", "complaint"),
    [
        ('<a href="nowhere/">x</a>', "links to nowhere/, which is not there"),
        ('<a href="theory/#gone">x</a>', "links to theory/#gone, which has no such anchor"),
        ('<a href="#gone">x</a>', "links to #gone, which has no such anchor"),
        ('<img src="gone.png">', "links to gone.png, which is not there"),
        ('<script src="https://cdn.example.org/x.js"></script>', "fetches https://cdn.example.org/x.js"),
        ('<link rel="stylesheet" href="//cdn.example.org/x.css">', "fetches //cdn.example.org/x.css"),
    ],
)
def test_what_leads_nowhere_or_elsewhere_is_told(site: Path, element: str, complaint: str) -> None:
    page = site / "index.html"
    page.write_text(page.read_text() + element)
    assert list(script("links").complaints(site)) == [f"index.html {complaint}"]


def test_a_font_from_elsewhere_is_told(site: Path) -> None:
    (site / "site.css").write_text("@font-face { src: url(https://fonts.example.org/f.woff) }")
    assert list(script("links").complaints(site)) == ["site.css fetches https://fonts.example.org/f.woff"]


def test_the_picture_of_the_terminal_is_that_of_the_example_and_fetches_nothing() -> None:
    pytest.importorskip("rich")
    terminal = script("terminal")
    svg = terminal.picture("print('sigma_U is', 1 + 1)")
    assert "sigma_U" in svg
    assert "font-face" not in svg
    assert "url(http" not in svg
    example = terminal.first_example((ROOT / "docs" / "index.md").read_text())
    assert "fluctua.initialize(" in example


def test_no_two_landmarks_of_a_page_have_one_name() -> None:
    pytest.importorskip("latex2mathml", reason='needs the extra "docs"')
    contents = (
        '<nav class="md-nav md-nav--secondary" aria-label="Contents"><nav class="md-nav" aria-label="A"></nav></nav>'
    )
    menu = f'<nav class="md-nav md-nav--primary" aria-label="Navigation">{contents}</nav>'
    sidebar = f'<div data-md-component="sidebar" data-md-type="toc">{contents}</div>'
    page = script("site").on_post_page(menu + sidebar)
    assert re.findall(r'aria-label="([^"]*)"', page) == [
        "Navigation",
        "Contents, in the menu",
        "A, in the menu",
        "Contents",
        "A",
    ]


def test_the_site_builds_strictly_and_its_links_are_sound(tmp_path: Path) -> None:
    for package in ("material", "mkdocstrings", "latex2mathml"):
        pytest.importorskip(package, reason='needs the extra "docs"')
    built = tmp_path / "site"
    subprocess.run([sys.executable, "-m", "mkdocs", "build", "-d", str(built)], cwd=ROOT, check=True)
    assert list(script("links").complaints(built)) == []
    assert "<math" in (built / "theory" / "index.html").read_text()
