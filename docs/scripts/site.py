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


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """The changelog is that of the repository, whose links begin at its root."""
    return CHANGELOG.read_text().replace("](docs/", "](") if page.file.src_uri == "changelog.md" else markdown


def on_page_content(html: str, **_: Any) -> str:
    """The page with MathML where `pymdownx.arithmatex` marked it, and with links on pictures."""
    return _PICTURE.sub(r'<a href="\2" class="picture">\1</a>', _FORMULA.sub(rendered, html))


def on_post_page(output: str, **_: Any) -> str:
    """The page with a name for the theme's search dialog, for screen readers."""
    return output.replace(
        'data-md-component="search" role="dialog"', 'data-md-component="search" role="dialog" aria-label="Search"'
    )


def on_post_template(output: str, **_: Any) -> str:
    """The page for wrong addresses, which is none of the pages, likewise."""
    return on_post_page(output)


def rendered(found: re.Match[str]) -> str:
    """One formula, which browsers and screen readers know how to read."""
    tag, bracket, formula = found.groups()
    mathml = convert(unescape(formula).strip(), display="block" if bracket == "[" else "inline")
    return f'<{tag} class="formula">{mathml}</{tag}>'
