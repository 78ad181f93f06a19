"""Formulas of the site as MathML, written when it is built: no reader's browser fetches a renderer.

A hook of mkdocs: `pymdownx.arithmatex` marks the formulas, this turns them into what browsers and screen readers know.
"""

import re
from html import unescape
from typing import Any

from latex2mathml.converter import convert

_MARKED = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_content(html: str, **_: Any) -> str:
    """The page with every formula that it marks rendered."""
    return _MARKED.sub(_rendered, html)


def _rendered(found: re.Match[str]) -> str:
    tag, bracket, formula = found.groups()
    mathml = convert(unescape(formula).strip(), display="block" if bracket == "[" else "inline")
    return f'<{tag} class="formula">{mathml}</{tag}>'
