"""One trained network of a study: its state before training, and how it learned."""

import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import fluctua
from fluctua.homeostasis.bounds import paper_bounds
from fluctua.lab.networks import Architecture
from fluctua.lab.recipes import Ingredients
from fluctua.lab.studies.methods import start
from fluctua.lab.studies.task import Task
from fluctua.lab.sweeps.study import Measure, Outcome
from fluctua.lab.training import loss_by_name
from fluctua.lab.training.isolation import isolated_randomness, seed_all
from fluctua.lab.training.settings import FitResult, TrainSettings
from fluctua.state import Report
from fluctua.theory import Target

POSITIVE = (0.0, math.inf)
MEASURES = (
    Measure("test", "test accuracy (%)", factor=100, spec=".1f", within=(0, 1)),
    Measure("val", "validation accuracy of the best epoch (%)", factor=100, spec=".1f", within=(0, 1)),
    Measure("first", "validation accuracy after the first epoch (%)", factor=100, spec=".1f", within=(0, 1)),
    Measure(
        "epochs_to",
        "epochs until the validation accuracy is within reach (never: one more than there were)",
        spec=".1f",
        within=(1, math.inf),
    ),
    Measure("seconds_to", "CPU seconds until then, with those of initialisation", spec=".1f", within=POSITIVE),
    Measure("start_seconds", "CPU seconds of initialisation", spec=".2f", within=POSITIVE),
    Measure("rate", "firing rate of the last hidden layer before training (Hz)", spec=".2f", within=POSITIVE),
    Measure("silent", "silent neurons of the last hidden layer before training (%)", 100, ".1f", within=(0, 1)),
    Measure("sigma_u", "sigma_U of the last hidden layer before training", spec=".3f", within=POSITIVE),
    Measure("gradient_first", "gradient norm of the first hidden layer before training", 1, ".2e", within=POSITIVE),
    Measure("gradient_readout", "gradient norm of the readout before training", 1, ".2e", within=POSITIVE),
)
"""The measures of `trained`."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How networks are trained.

    Attributes:
        epochs: passes over the training data.
        optimizer: its name.
        bounds: the paper's activity bounds, named by its experiment, used by priming and, if `regularized`, also by
            the loss.
        regularized: add the bounds to the loss.
        reach: validation accuracy that counts as within reach.
        measured_on: number of samples for initialisation.
    """

    epochs: int = 20
    optimizer: str = "adam"
    bounds: str = "randman"
    regularized: bool = False
    reach: float = 0.8
    measured_on: int = 250

    def settings(self, lr: float, seed: int) -> TrainSettings:
        """The settings for `fit`."""
        bounds = paper_bounds(self.bounds) if self.regularized else ()
        return TrainSettings(
            epochs=self.epochs, lr=lr, optimizer=self.optimizer, regularizers=bounds, seed=seed, progress=False
        )


@dataclass(frozen=True, kw_only=True)
class MixedRecipe(Recipe):
    """A recipe whose ingredients replace `optimizer` and `regularized`."""

    ingredients: Ingredients

    def settings(self, lr: float, seed: int) -> TrainSettings:
        return replace(self.ingredients, lr=lr).settings(epochs=self.epochs, seed=seed, progress=False)


def trained(
    task: Task,
    network: Architecture,
    recipe: Recipe,
    *,
    method: str,
    target: Target,
    lr: float,
    seed: int,
    data: Path | None,
    alpha: float = 0.9,
    nu: float | None = None,
) -> Outcome:
    """Initialise a network by a method of `methods.LABELS` and train it; `data` is the folder of the task's files.

    The weights tested, once, are those of the epoch with the best validation accuracy. Further test sets of the task
    keep their own names.
    """
    from fluctua.lab.training.fit import fit

    samples = task.load(seed, data)
    model = network.build(samples.shape, samples.n_classes, dt=task.dt, duration=task.duration)
    x, y = samples.batch(min(recipe.measured_on, len(samples.splits["train"])))
    settings = recipe.settings(lr, seed)
    loss = loss_by_name(settings.loss)
    with isolated_randomness():
        seed_all(seed)  # dropout is active during initialisation and inspection
        begun = time.process_time()
        start(model, x, method, target=target, seed=seed, bounds=recipe.bounds, alpha=alpha, nu=nu)
        initialised = time.process_time() - begun
        before = fluctua.inspect(model, x, loss=lambda output: loss(output, y))
    begun = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        result = fit(model, samples, out_dir=folder, settings=settings)
    epoch = (time.process_time() - begun) / len(result.history)
    learned = _learning(result, recipe)
    times = {"start_seconds": initialised, "seconds_to": initialised + epoch * learned["epochs_to"]}
    return Outcome({**_state(before), **learned, **times}, _curves(before, result))


def _state(before: Report) -> dict[str, float]:
    hidden = [p for p in before if p.threshold is not None]
    last = hidden[-1]
    return {
        "rate": last.rate or 0.0,
        "silent": last.silent_units or 0.0,
        "sigma_u": last.sigma_u,
        "gradient_first": hidden[0].gradient_norm or 0.0,
        "gradient_readout": before[-1].gradient_norm or 0.0,
    }


def _learning(result: FitResult, recipe: Recipe) -> dict[str, float]:
    scores = [row["val_accuracy"] for row in result.history]
    reached = [epoch for epoch, score in enumerate(scores, 1) if score >= recipe.reach]
    return {
        "val": max(scores),
        "first": scores[0],
        **result.test,
        "epochs_to": reached[0] if reached else recipe.epochs + 1,  # if left out, a failure would not count
    }


def _curves(before: Report, result: FitResult) -> dict[str, Sequence[float]]:
    hidden = [p for p in before if p.threshold is not None]
    return {
        "val_accuracy": [row["val_accuracy"] for row in result.history],
        "train_loss": [row["train_loss"] for row in result.history],
        "rates": [p.rate or 0.0 for p in hidden],
        "gradients": [p.gradient_norm or 0.0 for p in hidden],
    }
