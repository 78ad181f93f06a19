"""What the site needs beside mkdocs, as one of its hooks: formulas and the links of the changelog.

No browser fetches a renderer for the formulas. The changelog is written for the root of the repository.
"""

import re
from html import unescape
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert

CHANGELOG = Path(__file__).parents[2] / "CHANGELOG.md"
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """The changelog is that of the repository, whose links begin at its root."""
    return CHANGELOG.read_text().replace("](docs/", "](") if page.file.src_uri == "changelog.md" else markdown


def on_page_content(html: str, **_: Any) -> str:
    """The page with every formula that `pymdownx.arithmatex` marks as MathML."""
    return _FORMULA.sub(rendered, html)


def rendered(found: re.Match[str]) -> str:
    """One formula, which browsers and screen readers know how to read."""
    tag, bracket, formula = found.groups()
    mathml = convert(unescape(formula).strip(), display="block" if bracket == "[" else "inline")
    return f'<{tag} class="formula">{mathml}</{tag}>'
