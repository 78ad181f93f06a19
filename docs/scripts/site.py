"""What the site needs beside mkdocs, as one of its hooks: formulas, pictures, the changelog, what screen readers miss.

No browser fetches a renderer for the formulas. A picture leads to itself, so that a phone can enlarge it. The changelog
is written for the root of the repository.
"""

import re
from html import unescape
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert

CHANGELOG = Path(__file__).parents[2] / "CHANGELOG.md"
_PICTURE = re.compile(r'(<img [^>]*?src="([^":]+)"[^>]*>)')
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)
_SIDEBAR = 'data-md-component="sidebar" data-md-type="toc"'
_NAV = re.compile(r'(<nav class="md-nav[^>]* aria-label="[^"]*)"')


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """The changelog is that of the repository, whose links begin at its root."""
    return CHANGELOG.read_text().replace("](docs/", "](") if page.file.src_uri == "changelog.md" else markdown


def on_page_content(html: str, **_: Any) -> str:
    """The page with MathML where `pymdownx.arithmatex` marked it, and with links on pictures."""
    return _PICTURE.sub(r'<a href="\2" class="picture">\1</a>', _FORMULA.sub(rendered, html))


def on_post_page(output: str, **_: Any) -> str:
    """The page with different names for the theme's landmarks, for screen readers.

    The theme writes the table of contents twice, for phones into the menu, and leaves its search dialog without a name.
    """
    menu, sidebar, contents = output.partition(_SIDEBAR)
    before, toc, inside = menu.partition('<nav class="md-nav md-nav--secondary"')
    inside = _NAV.sub(r'\1, in the menu"', toc + inside)
    named = 'data-md-component="search" role="dialog"', 'data-md-component="search" role="dialog" aria-label="Search"'
    return (before + inside + sidebar + contents).replace(*named)


def on_post_template(output: str, **_: Any) -> str:
    """The page for wrong addresses, which is none of the pages, likewise."""
    return on_post_page(output)


def rendered(found: re.Match[str]) -> str:
    """One formula, which browsers and screen readers know how to read."""
    tag, bracket, formula = found.groups()
    mathml = convert(unescape(formula).strip(), display="block" if bracket == "[" else "inline")
    return f'<{tag} class="formula">{mathml}</{tag}>'
