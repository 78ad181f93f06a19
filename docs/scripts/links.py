"""Check the built site: every link leads somewhere, and no page fetches anything from elsewhere.

    python docs/scripts/links.py build/site

mkdocs checks the links of the Markdown; this checks those of all that is built, playground and pictures included.
"""

import argparse
import re
import sys
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

FETCHED = {"script": "src", "img": "src", "iframe": "src", "link": "href"}


class Page(HTMLParser):
    """Where a page leads and what it fetches, `(tag, address)` each, and its anchors."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[tuple[str, str]] = []
        self.anchors = {"", "top"}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what the element says."""
        found = dict(attrs)
        self.anchors |= {value for name in ("id", "name") if (value := found.get(name))}
        address = found.get(FETCHED.get(tag, "href"))
        # What a page says of itself to search engines is not fetched.
        if address and found.get("rel") not in ("canonical", "prev", "next", "edit"):
            self.links.append((tag, address))


@cache
def page_of(path: Path) -> Page:
    """A file, read once."""
    return Page(path.read_text(encoding="utf-8"))


def complaints(site: Path) -> Iterator[str]:
    """What is wrong, a sentence each."""
    for path in sorted(site.rglob("*.html")):
        where = path.relative_to(site)
        for tag, address in page_of(path).links:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                if tag in FETCHED and parts.scheme != "data":
                    yield f"{where} fetches {address}"
                continue
            target = _file(site, path, unquote(parts.path))
            if not target.is_file():
                yield f"{where} links to {address}, which is not there"
            elif target.suffix == ".html" and unquote(parts.fragment) not in page_of(target).anchors:
                yield f"{where} links to {address}, which has no such anchor"
    for path in sorted(site.rglob("*.css")):
        for address in re.findall(r"(?:url\(|@import )[\"']?(https?://[^)\"']+)", path.read_text(encoding="utf-8")):
            yield f"{path.relative_to(site)} fetches {address}"


def _file(site: Path, page: Path, address: str) -> Path:
    """The file behind an address without a host."""
    path = (site / address.lstrip("/") if address.startswith("/") else page.parent / address) if address else page
    return path / "index.html" if path.is_dir() else path


def main() -> None:
    """Print what is wrong and fail if there is anything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("site", type=Path, nargs="?", default=Path("build/site"))
    found = list(complaints(parser.parse_args().site))
    sys.exit("\n".join(found) if found else 0)


if __name__ == "__main__":
    main()
