"""Train a network on a file in the layout of SHD."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

import fluctua
from fluctua.data.module import SpikeDataModule
from fluctua.experiments.figures import learning_figure, save
from fluctua.experiments.networks import LABELS, Method, bring_up, feed_forward
from fluctua.theory import Target
from fluctua.training.fit import FitResult, TrainSettings, fit
from fluctua.training.folder import RunFolder


@dataclass(frozen=True)
class FileSettings:
    """A feed-forward network on spike files; times in seconds, defaults for SHD."""

    method: Method = "measured"
    target: Target = Target(xi=1.0)  # noqa: RUF009 - frozen
    width: int = 128
    depth: int = 3
    dt: float = 2e-3
    duration: float = 0.7
    pool: int = 1
    epochs: int = 20
    lr: float = 5e-3
    batch_size: int = 128
    measured_on: int = 128
    seed: int = 0
    minutes: float | None = None


def train_file(
    train_path: Path, test_path: Path | None, out: Path, console: Console, settings: FileSettings, *, resume: bool
) -> FitResult:
    """Initialise a network on the training file, train it, test it once, and write figures and tables to `out`.

    Args:
        train_path: HDF5 file in the layout of SHD; a tenth of it is kept for validation.
        test_path: likewise; None to keep another tenth of the training file for the test.
        out: folder of the run.
        console: to print to.
        settings: of network and training.
        resume: go on with the run that `out` holds.

    Raises:
        OSError: a file cannot be read, or `out` not written; FileExistsError if it holds a run and `resume` is false.
        ValueError: settings out of range, files of another layout, or too few samples.
        TrainingInterrupted: Ctrl-C while training; a KeyboardInterrupt.
    """
    s = settings
    train = TrainSettings(epochs=s.epochs, lr=s.lr, optimizer="adam", seed=s.seed, max_minutes=s.minutes)
    data = SpikeDataModule.from_shd_files(
        train_path, test_path, dt=s.dt, duration=s.duration, batch_size=s.batch_size, pool=s.pool, seed=s.seed
    )
    if empty := [name for name, part in data.splits.items() if len(part) == 0]:
        raise ValueError(
            f"no sample of {train_path} is left for {' and '.join(empty)}: a tenth of each class is held out, so give "
            "ten samples of each or more"
        )
    RunFolder(out).claim(resume=resume)
    model = feed_forward(data.n_units, data.n_classes, width=s.width, depth=s.depth, dt=s.dt, duration=s.duration)
    x, _ = data.batch(min(s.measured_on, len(data.splits["train"])))
    before = bring_up(model, x, s.method, target=s.target, seed=s.seed)
    console.rule(f"Initial state: {LABELS[s.method]}", align="left")
    console.print(before)
    result = fit(model, data, out_dir=out, settings=train, resume=resume)
    console.rule("After training", align="left")
    after = fluctua.inspect(model, x)
    console.print(after)
    files = [
        save(before.plot("Before training"), out / "before.png"),
        save(after.plot("After training"), out / "after.png"),
        save(learning_figure({LABELS[s.method]: result.history}, 1 / data.n_classes), out / "learning.png"),
    ]
    console.print(f"Best epoch {result.best_epoch} of {len(result.history)}, by validation. Accuracy on:")
    for name, accuracy in result.test.items():
        console.print(f"  {name}: [bold]{accuracy:.1%}[/bold]")
    console.print(
        "Written: " + ", ".join(map(str, [*files, out / "metrics.csv", out / "model.safetensors"])), soft_wrap=True
    )
    return result
