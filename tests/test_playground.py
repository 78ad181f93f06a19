"""Laws of docs/playground: its numbers are those of fluctua.theory, it needs nothing but itself, and all can use it."""

import json
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import fluctua
from fluctua.neurons import LI, LIF
from fluctua.theory import Afferent, Drive, InfeasibleTargetError, PspKernel, Target, crossing_rate, solve

PAGE = Path(__file__).parents[1] / "docs" / "playground" / "index.html"
TEXT = PAGE.read_text(encoding="utf-8")
START = {"xi": 1.0, "mean": 0.0, "tauMem": 0.02, "tauSyn": 0.01, "dt": 0.002, "rate": 16.0, "fanIn": 700, "depth": 3}
SLIDER = {"tauMem": 1e3, "tauSyn": 1e3, "dt": 1e3}  # from seconds to what the sliders count in

Setting = Mapping[str, float]


class Page(HTMLParser):
    """Elements of a page, and what is written in those that have an id."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "input", "br", "img", "link"):
            self._open.append(dict(attrs).get("id") or "")

    def handle_endtag(self, tag: str) -> None:
        self._open.pop()

    def handle_data(self, data: str) -> None:
        for name in {name for name in self._open if name}:
            self.texts[name] = self.texts.get(name, "") + data

    def by_id(self, name: str) -> dict[str, str | None]:
        return next(attributes for _, attributes in self.tags if attributes.get("id") == name)


def theory(p: Setting) -> dict[str, float]:
    """What fluctua says of the first layer; NaN where no weights reach the target."""
    kernel = PspKernel.exponential(p["tauMem"], p["tauSyn"], p["dt"])
    drive = Drive.poisson(int(p["fanIn"]), p["rate"], kernel)
    target = Target(mean=p["mean"], xi=p["xi"])
    try:
        (law,) = solve(target, 1.0, kernel, [Afferent(drive)])
        std = float(law.std)
    except InfeasibleTargetError:
        std = float("nan")
    return {
        "epsBar": float(kernel.eps_bar),
        "epsHat": float(kernel.eps_hat),
        "sigmaU": float(target.sigma_u(1.0, kernel)),
        "rate": float(crossing_rate(p["xi"], kernel)),
        "weightMean": p["mean"] / float(drive.mean),
        "weightStd": std,
    }


def in_node(expression: str) -> Any:
    """The value of an expression in which the functions of the page are at hand."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node, which is not installed")
    model = re.search(r'<script id="model">(.*?)</script>', TEXT, re.DOTALL)
    assert model is not None
    code = f"{model.group(1)}\nconsole.log(JSON.stringify({expression}));"
    return json.loads(subprocess.run([node, "-"], input=code, capture_output=True, text=True, check=True).stdout)


def in_chromium(p: Setting, method: str = "balanced") -> Page:
    """The page as a browser has it for these settings."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("needs chromium, which is not installed")
    given = "&".join(f"{name}={value * SLIDER.get(name, 1):.10g}" for name, value in p.items())
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", "--dump-dom"]
    url = f"{PAGE.as_uri()}#{given}&method={method}"
    return Page(
        subprocess.run([browser, *options, url], capture_output=True, text=True, check=True, timeout=120).stdout
    )


def simulated(method: str, seeds: Sequence[int] = (1,), **changes: float) -> list[list[dict[str, float]]]:
    """For each seed what the layers do."""
    wanted = "({mean, sigma, rate, silent}) => ({mean, sigma, rate, silent})"
    run = f"simulate({json.dumps({**START, **changes})}, {method!r}, seed).layers.map({wanted})"
    found: list[list[dict[str, float]]] = in_node(f"{list(seeds)}.map(seed => {run})")
    return found


# --- the functions, without a browser ---


def test_its_theory_is_that_of_fluctua() -> None:
    settings = [
        START | dict(zip(("xi", "mean", "tauMem", "tauSyn", "dt"), values, strict=True))
        for values in product((0.5, 1.0, 3.0), (-1.0, 0.0, 0.5, 0.95), (0.02, 0.005), (0.01, 0.005), (0.0005, 0.01))
    ]
    found = in_node(f"{json.dumps(settings)}.map(theory)")
    for p, got in zip(settings, found, strict=True):
        expected = theory(p)
        shown = {name: float("nan") if got[name] is None else got[name] for name in expected}
        assert shown == pytest.approx(expected, rel=1e-9, abs=1e-15, nan_ok=True), p


@pytest.mark.parametrize("fan_in", [10, 700])
def test_the_limit_that_it_names_is_the_last_mean_that_can_be_reached(fan_in: int) -> None:
    p = START | {"mean": 0.95, "xi": 3.0, "rate": 1.0, "fanIn": fan_in}
    limit = in_node(f"theory({json.dumps(p)}).nearestMean")
    for mean, feasible in ((limit - 1e-6, True), (limit + 1e-6, False)):
        assert np.isfinite(theory(p | {"mean": mean})["weightStd"]) == feasible


@pytest.mark.parametrize(("method", "mean"), [("measured", 0.0), ("balanced", 0.0), ("balanced", -1.0)])
def test_measured_layers_reach_the_target_at_every_depth(method: str, mean: float) -> None:
    (layers,) = simulated(method, depth=6, mean=mean)
    assert len(layers) == 6
    for layer in layers:
        assert (layer["mean"], layer["sigma"]) == pytest.approx((mean, 1 - mean), abs=1e-9)


def test_balanced_layers_have_no_silent_neurons() -> None:
    (layers,) = simulated("balanced", depth=4)
    assert [layer["silent"] for layer in layers] == [0, 0, 0, 0]


def test_the_formula_leaves_the_first_layer_with_the_spread_between_neurons_that_theory_has() -> None:
    kernel = PspKernel.exponential(START["tauMem"], START["tauSyn"], START["dt"])
    expected = 1 + START["rate"] * float(kernel.eps_bar) ** 2 / float(kernel.eps_hat)  # see docs/theory.md, section 5
    squares = [layers[0]["sigma"] ** 2 for layers in simulated("poisson", range(1, 9), depth=1)]
    assert np.mean(squares) == pytest.approx(expected, rel=0.1)  # 8 draws of 100 neurons: 5 % of the variance


# --- the page ---


def test_nothing_is_fetched() -> None:
    page = Page(TEXT)
    assert not re.search(r"https?:|url\(|@import|\bfetch\(|import\(", TEXT)
    assert not [tag for tag, attributes in page.tags if tag in ("link", "iframe", "img") or "src" in attributes]


MOVED = START | {"xi": 1.5, "mean": -0.5, "tauMem": 0.03, "tauSyn": 0.005, "dt": 0.001, "rate": 9.0, "fanIn": 250}


@pytest.fixture(scope="module")
def page() -> Page:
    return in_chromium(MOVED)


def test_a_browser_shows_the_numbers_of_the_theory(page: Page) -> None:
    expected = theory(MOVED)
    shown = {name: float(page.by_id(f"theory-{name}")["data-value"] or "nan") for name in expected}
    assert shown == pytest.approx(expected, rel=1e-9)
    assert page.texts["theory-rate"] == f"{expected['rate']:.2f} Hz"
    rows = re.findall(r"-?\d+\.\d\d", page.texts["table"])
    assert rows[0:2] == ["-0.50", "1.00"]  # mean and sigma_U of layer 1


def test_a_browser_gives_lines_that_do_what_they_say() -> None:
    p = START | {"xi": 2.0, "mean": 0.25, "fanIn": 300}
    page, expected = in_chromium(p, "poisson"), theory(p)
    names: dict[str, Any] = {}
    exec(page.texts["numpy"], names)
    weights = names["weights"]
    error = float(weights.std()) / weights.size**0.5
    assert weights.shape == (100, 300)
    assert float(weights.mean()) == pytest.approx(expected["weightMean"], abs=4 * error)
    assert float(weights.std()) == pytest.approx(expected["weightStd"], rel=4 / (2 * weights.size) ** 0.5)

    layer = nn.Linear(300, 100, bias=False)
    model = nn.Sequential(layer, LIF(), nn.Linear(100, 2), LI())
    x = (torch.rand(200, 8, 300) < 0.03).float()
    report = eval(page.texts["fluctua"], {"fluctua": fluctua, "model": model, "x": x})
    assert report[0].target_mu_u == 0.25
    assert float(layer.weight.detach().std()) == pytest.approx(expected["weightStd"], rel=0.05)


def test_a_browser_says_why_a_target_is_out_of_reach() -> None:
    page = in_chromium(START | {"mean": 0.95, "xi": 3.0, "fanIn": 10})
    assert "No weights reach a mean of 0.95" in page.texts["problem"]
    assert page.texts["theory-weightStd"] == "out of reach"


def test_keyboards_and_screen_readers_find_every_control_and_picture(page: Page) -> None:
    labels = {attributes.get("for") for tag, attributes in page.tags if tag == "label"}
    inputs = [attributes for tag, attributes in page.tags if tag == "input"]
    sliders = [a for a in inputs if a["type"] == "range"]
    assert {a["id"] for a in sliders} == set(START)
    assert {a["id"] for a in sliders} <= labels
    assert all(a["aria-valuetext"] for a in sliders)
    pictures = [attributes for tag, attributes in page.tags if tag == "canvas"]
    assert len(pictures) == 2 * START["depth"] + 1
    assert all(a["role"] == "img" and a["aria-label"] for a in pictures)
    assert "Simulated layer 1" in page.texts["said"]
