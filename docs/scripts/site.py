"""What the site needs beside mkdocs, as one of its hooks: formulas and the links of the changelog.

No browser fetches a renderer for the formulas. The changelog is written for the root of the repository.
"""

import re
from html import unescape
from typing import Any

from latex2mathml.converter import convert

_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)
_FROM_ROOT = re.compile(r'href="docs/([\w/-]+?)(?:\.md|/index\.html)')


def on_page_content(html: str, *, page: Any, **_: Any) -> str:
    """The page with every formula that `pymdownx.arithmatex` marks as MathML."""
    if page.file.src_uri == "changelog.md":
        html = _FROM_ROOT.sub(r'href="../\1/', html)
    return _FORMULA.sub(rendered, html)


def rendered(found: re.Match[str]) -> str:
    """One formula, which browsers and screen readers know how to read."""
    tag, bracket, formula = found.groups()
    mathml = convert(unescape(formula).strip(), display="block" if bracket == "[" else "inline")
    return f'<{tag} class="formula">{mathml}</{tag}>'
