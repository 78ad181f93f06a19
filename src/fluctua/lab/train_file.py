"""Train a network on files of spikes or images."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from torch import nn

import fluctua
from fluctua.explain.monitor import FILE
from fluctua.lab.data.augmentations import Augmentation, Mirror, PixelShift, SpatialShift, UnitShift
from fluctua.lab.data.dvs_gesture import holds_gestures
from fluctua.lab.data.image_module import ImageDataModule
from fluctua.lab.data.module import SpikeDataModule
from fluctua.lab.data.nmnist import NMNIST as NMNISTFiles
from fluctua.lab.data.nmnist import is_tar
from fluctua.lab.data.shd import SHDPaths, find_shd
from fluctua.lab.networks import LABELS, Architecture, bring_up, network
from fluctua.lab.recipes import Ingredients, recipe_by_name
from fluctua.lab.results.figures import learning_figure, save
from fluctua.lab.training.description import as_of_now, different
from fluctua.lab.training.fit import FitResult, TrainSettings, fit
from fluctua.lab.training.folder import RunFolder
from fluctua.lab.training.isolation import isolated_randomness, seed_all
from fluctua.theory import Target

Data = SpikeDataModule | ImageDataModule


@dataclass(frozen=True)
class Kind:
    """The name of a kind of data, and its defaults.

    Attributes:
        name: in words.
        duration: of a trial in seconds.
        batch_size: samples per training step. Feature maps are large: 16 images fill 0.7 GB per layer in 250 steps.
        augment: augmentations of training samples, if asked for.
        nu: rate of the afferents in Hz for the paper's formula; None to measure it.
    """

    name: str
    duration: float
    batch_size: int
    augment: tuple[Augmentation[Any], ...]
    nu: float | None = None


SHD = Kind("spike trains in the layout of SHD", duration=0.7, batch_size=128, augment=(UnitShift(10),))
NMNIST = Kind("N-MNIST", duration=0.3, batch_size=16, augment=(SpatialShift(2, NMNISTFiles.shape),))
DVS_GESTURE = Kind("DVS128 Gesture", duration=1.0, batch_size=16, augment=(SpatialShift(4, (2, 32, 32)),), nu=9.2)
CIFAR10 = Kind(  # a constant current has no rate
    "CIFAR-10", duration=0.5, batch_size=16, augment=(PixelShift(4), Mirror()), nu=9.2
)


@dataclass(frozen=True)
class FileSettings:
    """A network, its initial state and its training; times in seconds, `monitor` in steps, 0 for none.

    None stands for the default of the recipe, the model or the data.
    """

    recipe: str = "plain"
    model: str | None = None
    method: str = "measured"
    target: Target = Target(xi=1.0)  # noqa: RUF009 - frozen
    nu: float | None = None
    width: int | None = None
    depth: int | None = None
    dt: float = 2e-3
    duration: float | None = None
    pool: int = 1
    augment: bool | None = None
    epochs: int = 20
    lr: float | None = None
    loss: str | None = None
    optimizer: str | None = None
    weight_decay: float | None = None
    schedule: str | None = None
    warmup: float | None = None
    batch_size: int | None = None
    seed: int = 0
    minutes: float | None = None
    monitor: int = 50

    @property
    def ingredients(self) -> Ingredients:
        """The recipe's ingredients, with the given settings in their place."""
        recipe = recipe_by_name(self.recipe)
        own = {field.name: getattr(self, field.name) for field in fields(recipe)}
        return replace(recipe, **{name: value for name, value in own.items() if value is not None})


@dataclass(frozen=True)
class FileRun:
    """The input of `fluctua train`: a training file or folder, an optional test file, and settings."""

    train: Path
    test: Path | None
    settings: FileSettings

    def plain(self) -> dict[str, Any]:
        """As plain data for JSON and `fit(origin=...)`."""
        test = None if self.test is None else str(self.test.absolute())
        return {"train": str(self.train.absolute()), "test": test, "settings": asdict(self.settings)}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "FileRun":
        """The inverse of `plain`."""
        settings = {**plain["settings"], "target": Target(**plain["settings"]["target"])}
        return cls(Path(plain["train"]), plain["test"] and Path(plain["test"]), FileSettings(**settings))

    def settled(self) -> "FileRun":
        """The run with the defaults of its kind of data instead of None.

        Raises:
            ValueError: the data are not of the model's kind.
        """
        s = self.settings
        kind = _kind(self.train, _architecture(s), s.ingredients.model)
        return replace(
            self,
            settings=replace(
                s,
                duration=kind.duration if s.duration is None else s.duration,
                batch_size=kind.batch_size if s.batch_size is None else s.batch_size,
                nu=kind.nu if s.nu is None else s.nu,
            ),
        )

    def train_settings(self) -> TrainSettings:
        """The settings for `fit`.

        Raises:
            ValueError: settings out of range.
        """
        s = self.settings
        return s.ingredients.settings(epochs=s.epochs, seed=s.seed, max_minutes=s.minutes, monitor=s.monitor or None)

    def load_data(self) -> Data:
        """The data of a settled run; errors as in `train_file`."""
        s = self.settings
        data = _data(_kind(self.train, _architecture(s), s.ingredients.model), self.train, self.test, s)
        if empty := [name for name, part in data.splits.items() if len(part) == 0]:
            raise ValueError(
                f"no sample of {self.train} is left for {' and '.join(empty)}: a tenth of each class is held out, so "
                "give at least ten samples of each"
            )
        return data

    def build(self, data: Data) -> nn.Sequential:
        """The network of a settled run, not yet initialised."""
        s = self.settings
        assert s.duration is not None
        return _architecture(s).build(data.shape, data.n_classes, dt=s.dt, duration=s.duration)


def _resumed(
    out: Path, train: Path | None, test: Path | None, settings: FileSettings, said: Collection[str] | None
) -> FileRun | None:
    """The run in a folder, with the settings that may change; None if there is none."""
    description = RunFolder(out).describe()
    if description is None:
        return None
    if "train" not in description.origin:
        raise ValueError(f"the run in {out} was not started by `fluctua train`: resume it with what started it")
    with as_of_now():
        before = FileRun.from_plain(description.origin["train"])
    told = {
        name: value for name, value in vars(settings).items() if value is not None and (said is None or name in said)
    }
    now = replace(before.settings, **{name: told[name] for name in ("epochs", "minutes", "monitor") if name in told})
    if changed := different(_decisive(now), _decisive(replace(now, **told))):
        raise ValueError(
            f"{out} was trained with {' and '.join(changed)}: leave out what differs, or choose another out_dir"
        )
    return FileRun(train or before.train, test or before.test, now)


def _decisive(settings: FileSettings) -> dict[str, Any]:
    facts = asdict(settings) | asdict(settings.ingredients)
    target = facts.pop("target")
    return {**facts, **target}


def train_file(
    train_path: Path | None,
    test_path: Path | None,
    out: Path,
    console: Console,
    settings: FileSettings,
    *,
    resume: bool,
    said: Collection[str] | None = None,
) -> FitResult:
    """Initialise a network on the training data, train it, test it once, and write figures and tables to `out`.

    Args:
        train_path: the training data: an HDF5 file in the layout of SHD, the folder of SHD or SSC, N-MNIST's folder or
            tar file, the folder of DVS128 Gesture, or CIFAR-10's folder of batches. A tenth is held out for validation,
            unless SSC's validation file is there.
        test_path: another file in the layout of SHD. None for the test file in the folder; without one, another tenth
            of the training file is held out. The image data have their own test set. A resumed run knows both paths;
            give them if the data have moved.
        out: folder of the run.
        console: to print to.
        settings: of network and training.
        resume: continue the run in `out`, or start one if there is none.
        said: names of the settings that must match those of a resumed run, except `epochs`, `minutes` and `monitor`,
            which may differ; default: all. The others, and those that are None, are taken from `out`.

    Raises:
        OSError: a file cannot be read, `out` cannot be written, or another process uses it; FileExistsError if it holds
            a run and `resume` is false.
        ValueError: settings out of range, data of another layout or not of the model's kind, too few samples, or a
            resumed run with other settings or other data.
        TrainingInterrupted: Ctrl-C while training; a KeyboardInterrupt.
    """
    run = _resumed(out, train_path, test_path, settings, said) if resume else None
    if run is None:
        if train_path is None:
            raise ValueError(f"{out} holds no run to resume: give --data to start one")
        if settings.nu is not None and settings.method != "poisson":
            raise ValueError(f"nu={settings.nu:g} Hz is for the method poisson, not {settings.method}: leave it out")
        run = FileRun(train_path, test_path, settings)
    run.train_settings()  # refuse before data are read
    run = run.settled()
    data = run.load_data()
    model = run.build(data)
    with RunFolder(out).claimed(resume=resume):
        return _train(run, model, data, out, console, resume=resume)


def _train(run: FileRun, model: nn.Sequential, data: Data, out: Path, console: Console, *, resume: bool) -> FitResult:
    s = run.settings
    x, _ = data.batch(min(_architecture(s).measured_on, len(data.splits["train"])))
    with isolated_randomness():
        seed_all(s.seed)  # dropout is active, as in training
        before = bring_up(model, x, s.method, target=s.target, seed=s.seed, nu=s.nu)
    console.rule(f"Initial state: {LABELS[s.method]}", align="left")
    console.print(before)
    origin = {"train": run.plain()}
    result = fit(model, data, out_dir=out, settings=run.train_settings(), resume=resume, origin=origin)
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
        console.print(f"  {escape(name)}: [bold]{accuracy:.1%}[/bold]")
    files += [out / "metrics.csv", out / "model.safetensors", *out.glob(FILE)]
    console.print("Written: " + ", ".join(map(str, files)), soft_wrap=True, markup=False)
    return result


def _architecture(s: FileSettings) -> Architecture:
    architecture = network(s.ingredients.model)
    if s.width is not None:
        architecture = architecture.with_width(s.width)
    return architecture if s.depth is None else architecture.with_depth(s.depth)


def _kind(path: Path, architecture: Architecture, model: str) -> Kind:
    """The kind of data at `path`.

    Raises:
        ValueError: it is not of the model's kind.
    """
    found = _kind_found(path)
    if len(architecture.shape) == 1:
        if found in (SHD, None):
            return SHD  # its reader gives the best error message
        wanted = "a file of spike trains in the layout of SHD"
    else:
        if found in (NMNIST, DVS_GESTURE, CIFAR10):
            return found
        wanted = (
            "images, the folder or tar file of N-MNIST, the folder of DVS128 Gesture or the folder cifar-10-batches-py"
        )
    what = (found.name if found else "neither") if path.exists() else "nothing"
    raise ValueError(f"{model} learns from {wanted}, and {path} holds {what}: give other data or choose another model")


def _kind_found(path: Path) -> Kind | None:
    if (path / "data_batch_1").is_file():
        return CIFAR10
    if (path / "Train").is_dir():
        return NMNIST
    if holds_gestures(path):
        return DVS_GESTURE
    if find_shd(path):
        return SHD
    if path.is_file():
        with path.open("rb") as file:
            if file.read(8) == b"\x89HDF\r\n\x1a\n":
                return SHD
        if is_tar(path):
            return NMNIST
    return None


def _data(kind: Kind, path: Path, test_path: Path | None, s: FileSettings) -> Data:
    options: dict[str, Any] = {"dt": s.dt, "duration": s.duration, "batch_size": s.batch_size, "seed": s.seed}
    options["augment"] = kind.augment if s.ingredients.augment else ()
    if kind is SHD:
        files = find_shd(path) or SHDPaths(path)
        return SpikeDataModule.from_shd_files(
            files.train, test_path or files.test, val_path=files.val, pool=s.pool, **options
        )
    if test_path is not None or s.pool != 1:
        raise ValueError(
            f"{kind.name} has a test set of its own and its pixels are not pooled: leave test and pool out"
        )
    if kind is NMNIST:
        return SpikeDataModule.from_nmnist(path, **options)
    if kind is DVS_GESTURE:
        return SpikeDataModule.from_dvs_gesture(path, **options)
    return ImageDataModule.from_cifar10(path, **options)
