"""Laws of the page of results: it is complete, needs nothing but itself, and shows text as text."""

import base64
import re
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path

import pytest

pytest.importorskip("rich")
pytest.importorskip("matplotlib")

import torch
from torch import nn

import fluctua
from fluctua.lab.reproduce import write_results
from fluctua.lab.results.page import report
from fluctua.lab.sweeps.runner_perform import perform
from fluctua.lab.sweeps.store import Store, StoreError
from fluctua.lab.sweeps.study import Record
from fluctua.lab.sweeps.sweep import runs_of
from fluctua.neurons import LI, LIF
from shared.toy_study import Toy


class Page(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sweeps, one of which has failures."""
    folder = tmp_path_factory.mktemp("stores")
    for name, study in (("one", Toy()), ("two", Toy(fails_at=2))):
        store, runs = Store(folder / name), runs_of(study, 2)
        printed = [asdict(measure) for measure in study.measures]
        facts = {"title": study.title, "about": study.about, "settings": repr(study), "measures": printed}
        store.open({"name": name, **facts})
        for run in runs:
            perform(run, store.root)
        write_results(study, store, store.finished(runs), store.failed(runs))
    return folder


def test_the_page_shows_every_store_with_its_figure_table_and_failures(stores: Path) -> None:
    path = report(stores)
    page = Page(path.read_text(encoding="utf-8"))
    assert (path, page.open) == (stores / "report.html", [])
    assert [s["id"] for s in page.attributes("section")] == ["one", "two"]
    assert page.texts.count(Toy.title) == 2
    assert {f"{Toy.title} (one)", f"{Toy.title} (two)"} <= set(page.texts)  # links that tell like titles apart
    assert page.texts.count("Score (%)") == 2
    assert len(page.attributes("tr")) == 2 + 6 + 6  # two heads; two settings of the second have failures only
    assert "4 failed runs" in page.texts
    assert any("ArithmeticError: x = 2 is not to be had" in text for text in page.texts)


def test_figures_are_inside_and_nothing_is_fetched(stores: Path) -> None:
    text = report(stores).read_text(encoding="utf-8")
    page = Page(text)
    images = [str(attributes["src"]).partition("data:image/png;base64,") for attributes in page.attributes("img")]
    found = [base64.b64decode(data, validate=True) for before, _, data in images if before == ""]
    assert found == [(stores / name / "figure.png").read_bytes() for name in ("one", "two")]
    assert all(str(a["href"]).startswith("#") for a in page.attributes("a"))
    assert not {"link", "script", "iframe"} & {tag for tag, _ in page.tags}
    assert not re.search(r"https?://|url\(|@import", text)


def test_the_page_is_laid_out_for_narrow_screens(stores: Path) -> None:
    page = Page(report(stores).read_text(encoding="utf-8"))
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.attributes("meta")
    wide = [i for i, (tag, _) in enumerate(page.tags) if tag == "table"]
    assert all(page.tags[i - 1] == ("div", {"class": "wide"}) for i in wide)  # which scrolls by itself


def test_one_store_alone_makes_a_page_too(stores: Path) -> None:
    path = report(stores / "one")
    assert path == stores / "one" / "report.html"
    assert [s["id"] for s in Page(path.read_text()).attributes("section")] == ["one"]


def test_a_sweep_that_is_not_finished_is_said_to_be_so(tmp_path: Path) -> None:
    Store(tmp_path / "begun").open({"name": "begun", "title": "Begun"})
    assert "The sweep is not finished; there is no table yet." in Page(report(tmp_path).read_text()).texts


def test_a_folder_without_results_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no results: give a folder that `fluctua reproduce` wrote"):
        report(tmp_path)


def test_whatever_a_store_says_is_shown_as_text(tmp_path: Path) -> None:
    evil = '<script>alert(\'1\')</script> " onload="x" {{ 7 * 7 }}'
    store = Store(tmp_path / "a&b")
    store.open({"name": evil, "title": evil, "about": evil, "settings": evil})
    store.save(Record("k", {"x": evil}, 0, error=evil))
    (store.root / "table.csv").write_text(f'x,measure,"<b>"\n"{evil.replace(chr(34), chr(34) * 2)}",score,1\n')
    page = Page(report(tmp_path).read_text(encoding="utf-8"))
    assert not {"script", "b"} & {tag for tag, _ in page.tags}
    assert not any("onload" in name for _, attributes in page.tags for name in attributes)
    assert "".join(page.texts).count(evil) == 8  # link, title, a name with each, about, settings, failure, cell
    assert page.attributes("td")[1] == {"class": "<b>"}


def test_numbers_titles_and_intervals_are_those_of_the_tables(stores: Path) -> None:
    """What table.md prints of a row is in the page."""
    page = Page(report(stores / "one").read_text(encoding="utf-8"))
    lines = (stores / "one" / "table.md").read_text().splitlines()
    assert "## Score (%)" in lines
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| ")]
    for row in rows[1:]:
        assert all(cell in page.texts for cell in row if cell), row


def test_what_all_rows_have_in_common_is_said_once(tmp_path: Path) -> None:
    """So that the numbers are seen on a phone."""
    store = Store(tmp_path / "one")
    store.open({"name": "one", "title": "One"})
    (store.root / "table.csv").write_text("task,method,measure,mean\nfsdd,a,score,0.1\nfsdd,b,score,0.2\n")
    page = Page(report(tmp_path).read_text(encoding="utf-8"))
    assert "All rows: task=fsdd." in page.texts
    assert [text for text in page.texts if text in ("task", "method", "mean")] == ["method", "mean"]


def test_every_picture_says_what_is_to_be_seen(stores: Path) -> None:
    images = Page(report(stores).read_text(encoding="utf-8")).attributes("img")
    assert [image["alt"] for image in images] == [f"{Toy.title}: Score (%)"] * 2


def test_a_training_that_a_monitor_watched_is_shown_layer_by_layer(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(30, 20), LIF(), nn.Linear(20, 2), LI())
    optimizer = torch.optim.Adam(model.parameters())
    with fluctua.Monitor(model, every=1, out=tmp_path / "runs" / "own") as monitor:
        for _ in range(3):
            optimizer.zero_grad()
            model((torch.rand(50, 4, 30) < 0.1).float()).square().mean().backward()
            optimizer.step()
    page = Page(report(tmp_path).read_text(encoding="utf-8"))
    assert [s["id"] for s in page.attributes("section")] == ["training"]
    assert "own" in page.texts
    (image,) = page.attributes("img")
    assert "firing rate" in str(image["alt"])
    last = {row["population"]: row for row in monitor.rows()}
    assert all(f"{row['sigma_u']:.3g}" in page.texts for row in last.values())
