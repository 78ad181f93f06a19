"""The demo: one task, one network, three initial states."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from torch import nn

import fluctua
from fluctua.lab.data import RandmanSettings, make_randman
from fluctua.lab.data.module import SpikeDataModule
from fluctua.lab.durable import replacing
from fluctua.lab.networks import LABELS, METHODS, bring_up, feed_forward
from fluctua.lab.results.figures import learning_figure, membrane_figure, raster_figure, save
from fluctua.lab.results.overview import Traces, overview_figure, traces_of
from fluctua.lab.training.fit import FitResult, TrainSettings, fit
from fluctua.lab.training.folder import RunFolder
from fluctua.state import Report
from fluctua.state.facts import PopulationState
from fluctua.theory import Target


@dataclass(frozen=True)
class DemoSettings:
    """Settings of the demo: the paper's Randman task, three hidden layers of 128 neurons, Adam."""

    width: int = 128
    depth: int = 3
    xi: float = 1.0
    dt: float = 2e-3
    duration: float = 0.2
    epochs: int = 8
    lr: float = 2e-2
    batch_size: int = 125
    measured_on: int = 250
    samples_per_class: int = 1000
    seed: int = 1


@dataclass(frozen=True)
class DemoRun:
    """One of the three trainings of the demo: its method, and the common settings."""

    method: str
    settings: DemoSettings

    def plain(self) -> dict[str, Any]:
        """As plain data for JSON and `fit(origin=...)`."""
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "DemoRun":
        """The inverse of `plain`."""
        return cls(plain["method"], DemoSettings(**plain["settings"]))

    def load_data(self) -> SpikeDataModule:
        """The data, drawn from the seed."""
        s = self.settings
        task = RandmanSettings(duration=s.duration, samples_per_class=s.samples_per_class)
        train, val, test = make_randman(task, seed=s.seed)
        return SpikeDataModule(train, val, test, dt=s.dt, duration=s.duration, batch_size=s.batch_size, seed=s.seed)

    def build(self, data: SpikeDataModule) -> nn.Sequential:
        """The network, not yet initialised."""
        s = self.settings
        return feed_forward(data.n_units, data.n_classes, width=s.width, depth=s.depth, dt=s.dt, duration=s.duration)


@dataclass(frozen=True)
class Outcome:
    """One network of the demo: its state before and after training, its training, and potentials before it."""

    before: Report
    after: Report
    result: FitResult
    traces: Sequence[Traces]

    @property
    def history(self) -> Sequence[Mapping[str, float]]:
        """One row per epoch."""
        return self.result.history

    @property
    def test(self) -> float:
        """Accuracy on the test set."""
        return float(self.result.test["test"])


def run_demo(out: Path, console: Console, *, minutes: float, settings: DemoSettings | None = None) -> list[Path]:
    """Initialise and train the same network in three ways, write figures and tables to `out`, and print conclusions.

    Finished parts are not repeated: a demo that was interrupted, or reached the limit, resumes where it stopped.

    Args:
        out: folder of the results; created if missing.
        console: to print to.
        minutes: limit for the training of all three together.
        settings: of the demo.

    Returns:
        The files written.

    Raises:
        OSError: `out` cannot be created or written, or another process uses it.
        ValueError: settings out of range, or different from those of the demo in `out`.
        TrainingInterrupted: Ctrl-C while training; a KeyboardInterrupt.
    """
    s = settings or DemoSettings()
    train = TrainSettings(epochs=s.epochs, lr=s.lr, optimizer="adam", seed=s.seed, max_minutes=minutes / len(METHODS))
    with RunFolder(out).claimed(resume=True):
        return _run(s, train, out, console)


def _run(s: DemoSettings, train: TrainSettings, out: Path, console: Console) -> list[Path]:
    data = DemoRun(METHODS[0], s).load_data()
    x, _ = data.batch(min(s.measured_on, len(data.splits["train"])))
    console.print(
        f"\n[bold]Randman[/bold]: {data.n_classes} classes, {data.n_units} inputs, {s.duration:g} s; "
        f"{s.depth} hidden layers of {s.width} LIF neurons. Pairs in the tables read actual/target.\n"
    )
    outcomes = {}
    for method in METHODS:
        run = DemoRun(method, s)
        model = run.build(data)
        if (held := RunFolder(out / method).describe()) and held.origin != {"demo": run.plain()}:
            raise ValueError(f"{out} holds a demo with other settings: choose another out_dir")
        before = bring_up(model, x, method, target=Target(xi=s.xi), seed=s.seed)
        traces = traces_of(model, x)
        console.rule(LABELS[method], align="left")
        console.print(before)
        result = fit(model, data, out_dir=out / method, settings=train, resume=True, origin={"demo": run.plain()})
        outcomes[LABELS[method]] = Outcome(before, fluctua.inspect(model, x), result, traces)
    files = _write(out, outcomes, 1 / data.n_classes)
    console.rule("Result", align="left")
    console.print(_table(outcomes))
    console.print("Written: " + ", ".join(str(path) for path in files), soft_wrap=True, markup=False)
    for sentence in conclusions(outcomes):
        console.print(f"\n[bold]{sentence}[/bold]")
    return files


def conclusions(outcomes: Mapping[str, Outcome]) -> tuple[str, str]:
    """Two sentences on the results."""
    deepest = {label: _last_hidden(o.before) for label, o in outcomes.items()}
    states = "; ".join(
        f"{label}: sigma_U = {p.sigma_u:.2f}, {p.rate:.1f} Hz, {p.silent:.0%} of its neurons silent"
        for label, p in deepest.items()
    )
    scores = ", ".join(
        f"{label} {o.history[0]['val_accuracy']:.1%} after one epoch and {o.test:.1%} on the test set at the end"
        for label, o in outcomes.items()
    )
    epochs = [len(o.history) for o in outcomes.values()]
    same = f"With {epochs[0]} epoch{'s' * (epochs[0] > 1)} of the same training"
    cut = f"With the same training, cut short by the time limit after {_and(epochs)} epochs,"
    return (
        f"Before training, the last hidden layer is in these states - {states}.",
        f"{same if len(set(epochs)) == 1 else cut} they reached: {scores}.",
    )


def _and(numbers: Sequence[int]) -> str:
    *most, last = map(str, numbers)
    return f"{', '.join(most)} and {last}"


def _rows(outcomes: Mapping[str, Outcome]) -> list[dict[str, Any]]:
    rows = []
    for label, o in outcomes.items():
        last = _last_hidden(o.before)
        rows.append(
            {
                "initialisation": label,
                "sigma_U": f"{last.sigma_u:.2f}",
                "rate (Hz)": f"{last.rate or 0:.1f}",
                "silent (%)": f"{100 * (last.silent or 0):.0f}",
                "1st epoch (%)": f"{100 * o.history[0]['val_accuracy']:.1f}",
                "best val (%)": f"{100 * max(row['val_accuracy'] for row in o.history):.1f}",
                "test (%)": f"{100 * o.test:.1f}",
                "epochs": str(len(o.history)),
                "seconds": f"{o.result.seconds:.0f}",
            }
        )
    return rows


def _last_hidden(report: Report) -> PopulationState:
    return [p for p in report if p.rate is not None][-1]


def _table(outcomes: Mapping[str, Outcome]) -> Any:
    from rich import box
    from rich.table import Table

    rows = _rows(outcomes)
    table = Table(
        box=box.SIMPLE_HEAD, padding=0, caption="sigma_U, rate and silent share: last hidden layer before training"
    )
    for name in rows[0]:
        head = name.replace(" ", "\n")  # narrow enough for 80 columns
        table.add_column(head, justify="left" if name == "initialisation" else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row.values())
    return table


def _write(out: Path, outcomes: Mapping[str, Outcome], chance: float) -> list[Path]:
    before = {label: o.before for label, o in outcomes.items()}
    after = {label: o.after for label, o in outcomes.items()}
    table = out / "results.csv"
    with replacing(table) as file:
        pd.DataFrame(_rows(outcomes)).to_csv(file, index=False)
    histories = {label: o.history for label, o in outcomes.items()}
    shown = {label: outcomes[label].traces for label in (LABELS["kaiming"], LABELS["measured"])}
    return [
        save(overview_figure(shown, histories, chance), out / "overview.png"),
        save(membrane_figure(before), out / "membrane.png"),
        save(raster_figure(before, after), out / "rasters.png"),
        save(learning_figure(histories, chance), out / "learning.png"),
        table,
    ]
