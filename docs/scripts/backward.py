"""What blunt surrogates and a relay bring in deep networks: the tables of docs/depth.md, seed by seed.

    python docs/scripts/backward.py run --seeds 100-109        # resumes where it stopped
    python docs/scripts/backward.py table

Fully connected networks of 128 neurons a layer on Randman or spoken digits, recurrent if asked, or the eight
convolutions of the paper on N-MNIST; measured and balanced; the weights tested are those of the best epoch by
validation. Arms differ in the sharpness of the surrogate, the weight law and factors on the gradient alone, and meet
the same task, draws and order of samples.
Results are appended, run by run, to docs/results/backward.csv.
"""

import argparse
import csv
import itertools
import math
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from scipy.stats import t as student
from torch import nn

import fluctua
from fluctua.lab.networks import Architecture, FullyConnected, network
from fluctua.lab.studies.image_task import NMNISTTask
from fluctua.lab.studies.task import FSDD, RandmanTask, Task
from fluctua.lab.training.fit import fit
from fluctua.lab.training.losses import loss_by_name
from fluctua.lab.training.settings import TrainSettings
from fluctua.methods import Measured
from fluctua.neurons import LIF, ArcTan, SigmoidDerivative, SuperSpike
from fluctua.neurons.surrogates import Surrogate
from fluctua.theory import Relay, Target
from fluctua.theory.laws import Family, Normal

RESULTS = Path(__file__).parents[1] / "results" / "backward.csv"


@dataclass(frozen=True)
class Arm:
    """What differs between runs that are compared.

    Attributes:
        surrogate: see `fluctua.initialize`.
        law: of the hidden weights.
        even: a factor on each layer's gradient makes its gain 1.
        frozen: the readout alone is trained.
    """

    surrogate: str | float | None = None
    law: Family = Normal()  # noqa: RUF009 - frozen
    even: bool = False
    frozen: bool = False


ARMS = {
    "beta 20": Arm(),
    "beta 20, gain 1": Arm(even=True),
    "share": Arm("share"),
    "share, gain 1": Arm("share", even=True),
    "beta 20 + relay": Arm(law=Relay()),
    "share + relay": Arm("share", Relay()),
    "share + relay, gain 1": Arm("share", Relay(), even=True),
    "share + relay 0.5": Arm("share", Relay(share=0.5)),
    "share + relay 0.98": Arm("share", Relay(share=0.98)),
    "share + relay 0.995": Arm("share", Relay(share=0.995)),
    "beta 10 + relay 0.98": Arm(10.0, Relay(share=0.98)),
    "beta 20 + relay 0.98": Arm(None, Relay(share=0.98)),
    "readout alone": Arm(frozen=True),
    "relay 0.98, readout alone": Arm(law=Relay(share=0.98), frozen=True),
    "beta 25": Arm(25.0),
    "beta 10": Arm(10.0),
    "beta 5": Arm(5.0),
    "beta 2.5": Arm(2.5),
}
SHARP = ("beta 20", "beta 25")
"""What the others of a setting are compared to: the first of these that was run."""
SHAPES: Mapping[str, Surrogate] = {"SuperSpike": SuperSpike(), "sigmoid": SigmoidDerivative(), "arctan": ArcTan()}
TASKS: Mapping[str, Task] = {
    "randman": RandmanTask(samples_per_class=200, batch_size=50, heard=0.2),
    "fsdd": replace(FSDD, dt=4e-3, pool=7, batch_size=50),
    "nmnist": NMNISTTask(path="nmnist_small.tar", dt=5e-3, batch_size=10, per_class=72, val_fraction=0.2, pool=2),
}
WORDS = {
    "randman": "Randman",
    "fsdd": "digits",
    "nmnist": "N-MNIST",
    "mean_over_time": "mean over time",
    "max_over_time": "largest potential",
}
MEASURED_ON = {"randman": 250, "fsdd": 250, "nmnist": 16}


@dataclass(frozen=True)
class Run:
    """One network to train; `dt` in ms, `duration` in seconds, `width` in neurons a layer or filters of the first.

    `shape` is that of the surrogate; it and `recurrent` (1 or 0) are of fully connected networks.
    """

    seed: int
    layers: int
    loss: str
    arm: str
    dt: float
    optimizer: str
    task: str
    lr: float
    epochs: int
    duration: float
    xi: float
    width: int
    clip: float
    readout: float
    shape: str = "SuperSpike"
    recurrent: int = 0

    @property
    def key(self) -> tuple[str, ...]:
        """As it stands in the file."""
        return tuple(map(str, vars(self).values()))

    def network(self) -> Architecture:
        """What is trained."""
        if self.task == "nmnist":
            return network("dvs-conv-deep").with_width(self.width)
        surrogate, recurrent = SHAPES[self.shape], bool(self.recurrent)
        return FullyConnected(width=self.width, depth=self.layers, surrogate=surrogate, recurrent=recurrent)

    def row(self, folder: Path | None) -> dict[str, object]:
        """Train it; `folder` has the recordings."""
        torch.manual_seed(self.seed)
        start, arm = time.process_time(), ARMS[self.arm]
        task = replace(TASKS[self.task], dt=1e-3 * self.dt, duration=self.duration)
        data = task.load(self.seed, folder)
        model = self.network().build(data.shape, data.n_classes, dt=task.dt, duration=self.duration)
        x, y = data.batch(MEASURED_ON[self.task])
        method, target, readout = Measured(law=arm.law), Target(xi=self.xi), Target(sigma=self.readout)
        fluctua.initialize(model, x, target, method=method, readout=readout, surrogate=arm.surrogate, seed=self.seed)
        betas = [cell.surrogate.beta for cell in model.modules() if isinstance(cell, LIF)]
        if arm.frozen:
            for weight in list(model.parameters())[:-1]:  # the last is the readout's
                weight.requires_grad_(False)
        if arm.even:
            loss = loss_by_name(self.loss)
            even_out(model, fluctua.inspect(model, x, loss=lambda output: loss(output, y)))
        settings = TrainSettings(
            epochs=self.epochs,
            lr=self.lr,
            optimizer=self.optimizer,
            optimizer_options={"momentum": 0.9} if self.optimizer == "sgd" else {},
            loss=self.loss,
            seed=self.seed,
            progress=False,
            gradient_clip=self.clip or None,
        )
        with tempfile.TemporaryDirectory() as out:
            result = fit(model, data, out_dir=Path(out) / "run", settings=settings)
        return {
            **vars(self),
            "test": f"{result.test.get('test', math.nan):.4f}",
            "val": f"{max(row['val_accuracy'] for row in result.history):.4f}",
            "best": result.best_epoch,
            "beta": f"{sum(betas) / len(betas):.3g}",
            "seconds": f"{time.process_time() - start:.0f}",
        }


def even_out(model: nn.Module, before: fluctua.Report) -> None:
    """Let the gradients of all hidden weights be as large as those of the last layer were: what heights of the
    surrogates would do in a network without recurrence, for which the gain of every layer is 1.

    The first layer, whose weights hear the data, gets the factor that the gain between the next two asks for.
    """
    norms = [p.gradient_norm or 1.0 for p in before if p.threshold is not None]
    factors = [norms[-1] / norm for norm in norms]
    factors[0] = factors[1] * norms[2] / norms[1] if len(norms) > 2 else factors[0]
    weights = [w for w in model.parameters() if w.dim() > 1]
    for weight, factor in zip(weights, factors, strict=False):  # the readout's comes last and has none
        weight.register_hook(lambda gradient, factor=factor: factor * gradient)


def runs(seeds: Sequence[int], options: argparse.Namespace) -> Iterator[Run]:
    """Seed by seed, so that arms can be compared in pairs whenever it is stopped."""
    for seed, layers, loss, arm in itertools.product(seeds, options.layers, options.losses, options.arms):
        yield Run(
            seed,
            layers,
            loss,
            arm,
            options.dt,
            options.optimizer,
            options.task,
            options.lr,
            options.epochs,
            options.duration or (0.4 if layers > 10 else 0.2),
            options.xi,
            options.width,
            options.clip,
            options.readout,
            options.shape,
            int(options.recurrent),
        )


def sweep(options: argparse.Namespace) -> None:
    """All runs that are not in the file yet."""
    first, _, last = options.seeds.partition("-")
    seeds = range(int(first), int(last or first) + 1)
    done = {tuple(row[f.name] for f in fields(Run)) for row in read()}
    for run in runs(seeds, options):
        if run.key in done:
            continue
        row = run.row(options.data)
        new = not RESULTS.exists()
        with RESULTS.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(row), lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow(row)
        print(", ".join(map(str, row.values())), flush=True)


def read() -> list[dict[str, str]]:
    """What is known."""
    if not RESULTS.exists():
        return []
    with RESULTS.open(newline="") as file:
        return list(csv.DictReader(file))


def interval(values: Sequence[float]) -> str:
    """Mean and half of its 95 % interval, in per cent."""
    n, mean = len(values), sum(values) / len(values)
    if n < 3:
        return f"{100 * mean:.1f}"
    deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1))
    return f"{100 * mean:.1f} ± {100 * student.ppf(0.975, n - 1) * deviation / math.sqrt(n):.1f}"


def setting(row: Mapping[str, str]) -> tuple[str, ...]:
    """All that a run has in common with those that it is compared to."""
    return tuple(row[f.name] for f in fields(Run) if f.name not in ("seed", "arm"))


def in_words(row: Mapping[str, str]) -> str:
    """The setting of a run; numbers that are the same in most runs are named where they differ."""
    usual = {
        "dt": (5 if row["task"] == "nmnist" else 2, "{:g} ms"),
        "lr": (5e-3, "lr {:g}"),
        "epochs": (10, "{:g} epochs"),
        "duration": ({"nmnist": 0.3, "fsdd": 0.7}.get(row["task"], 0.4 if int(row["layers"]) > 10 else 0.2), "{:g} s"),
        "xi": (1, "xi = {:g}"),
        "width": (4 if row["task"] == "nmnist" else 128, "{:g} wide"),
        "clip": (0, "clipped at {:g}"),
        "readout": (0.1, "readout at {:g}"),
    }
    told = [f"{WORDS[row['task']]}, {row['layers']} layer{'s' * (row['layers'] != '1')}", WORDS[row["loss"]]]
    told += ["recurrent"] if row["recurrent"] == "1" else []
    told += [row["shape"]] if row["shape"] != "SuperSpike" else []
    told += [row["optimizer"].upper()] if row["optimizer"] != "adam" else []
    told += [words.format(float(row[name])) for name, (value, words) in usual.items() if float(row[name]) != value]
    return ", ".join(told)


MAIN = ("share", "share + relay")


def table() -> None:
    """Accuracies, and paired differences from the sharp surrogate: a row for each setting, and then all other arms."""
    rows, others = sorted(read(), key=_place), list[str]()
    print("| setting | seeds | sharp | share | share + relay |")
    print("|---" * 5 + "|")
    for here in dict.fromkeys(map(setting, rows)):
        those = [row for row in rows if setting(row) == here]
        of_arm = {arm: {r["seed"]: float(r["test"]) for r in those if r["arm"] == arm} for arm in ARMS}
        sharp = next((arm for arm in SHARP if of_arm[arm]), SHARP[0])
        shown, words = (sharp, *MAIN), in_words(those[0])
        if any(of_arm[arm] for arm in MAIN):
            seeds = sorted({len(of_arm[arm]) for arm in shown if of_arm[arm]})
            cells = [" to ".join(map(str, (seeds[0], seeds[-1])[: len(seeds)]))]
            cells += [_cell(of_arm[arm], of_arm[sharp] if arm != sharp else {}) for arm in shown]
            print(f"| {words} | {' | '.join(cells)} |")
        rest = {arm: found for arm, found in of_arm.items() if found and arm not in shown}
        others += [f"| {words} | {arm} | {len(found)} | {_cell(found, of_arm[sharp])} |" for arm, found in rest.items()]
    print("\n| setting | arm | seeds | test accuracy |")
    print("|---" * 4 + "|")
    print("\n".join(others))


def _place(row: Mapping[str, str]) -> tuple[bool | int | str | float, ...]:
    """Where a run stands in the table."""
    first = row["task"] != "randman", row["task"], row["recurrent"], int(row["layers"])
    return *first, row["loss"], row["optimizer"], float(row["dt"])


def _cell(found: Mapping[str, float], base: Mapping[str, float]) -> str:
    """A mean, and the paired difference in small print."""
    paired = [found[seed] - base[seed] for seed in found if seed in base]
    if not found or not paired:
        return interval(list(found.values())) if found else ""
    pairs = f", n = {len(paired)}" if len(paired) < len(found) else ""
    sign = "+" if sum(paired) > 0 else ""
    return f"{interval(list(found.values()))}<br><small>{sign}{interval(paired)}{pairs}</small>"


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "table"])
    parser.add_argument("--seeds", default="100-109", help="a number, or a range such as 100-109")
    parser.add_argument("--layers", type=int, nargs="+", default=[10, 3])
    losses = ["mean_over_time", "max_over_time"]
    parser.add_argument("--losses", nargs="+", default=losses, choices=losses)
    parser.add_argument("--arms", nargs="+", default=["beta 20", "share", "share + relay"], choices=ARMS)
    parser.add_argument("--dt", type=float, default=2.0, help="time step in ms")
    parser.add_argument("--optimizer", default="adam", help="sgd has a momentum of 0.9")
    parser.add_argument("--task", default="randman", choices=TASKS)
    parser.add_argument("--data", type=Path, help="folder of the recordings")
    parser.add_argument("--lr", type=float, default=5e-3)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--duration", type=float, help="of a trial in seconds; 0.2, or 0.4 beyond ten layers")
    parser.add_argument("--xi", type=float, default=1.0)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--readout", type=float, default=0.1, help="sigma of the readout before training")
    parser.add_argument("--shape", default="SuperSpike", choices=SHAPES, help="of the surrogate")
    parser.add_argument("--recurrent", action="store_true", help="each layer hears itself")
    parser.add_argument("--clip", type=float, default=0.0, help="largest norm of the gradient; 0 for no limit")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.what == "table":
        table()
    else:
        sweep(options)


if __name__ == "__main__":
    main()
