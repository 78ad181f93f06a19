"""Randman: classes as smooth random manifolds of spike times (Zenke & Vogels 2021, github.com/fzenke/randman).

Every unit fires equally often in every sample, so only the spike times tell the classes apart.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from fluctua.lab.data.events import EventArrays, cumulative

Spectrum = Literal["torch", "numpy"]

_PRECISION, _MAX_TERMS = 1e-3, 1000  # the original's cut-off of the series
_CHUNK = 1 << 18  # sines evaluated at once: a few MB whatever the number of samples
_LAST = 1 - 1e-6  # of the duration: a value of 1 still falls into the last time step


@dataclass(frozen=True)
class RandmanSettings:
    """Settings of a Randman task; the defaults are those of Rossbroich, Gygax & Zenke (2022).

    Attributes:
        n_classes: number of classes, each on its own manifolds.
        n_units: number of input units, the embedding dimension.
        dim: dimension of the manifolds; more is harder.
        alpha: fall-off of the spectrum; smaller is rougher and harder.
        n_spikes: spikes of every unit in every sample, each from its own manifold.
        duration: seconds; no event comes at it or later.
        step_frac: share of `duration`, less the offset, over which the events spread.
        offset_frac: share of `duration` before the first event.
        samples_per_class: over training, validation and test together.
        fractions: shares of training, validation and test.
        spectrum: `"torch"` for `1 / ((k + 1)^alpha + 1)`, `"numpy"` for `1 / (k + 1)^alpha`, as in the two originals.
        leaky_standardisation: standardise by the range of all samples, as the original does, which leaks validation and
            test samples into the training data; if False, by the training samples only.

    Raises:
        ValueError: if a setting is out of range.
    """

    n_classes: int = 10
    n_units: int = 20
    dim: int = 1
    alpha: float = 1.0
    n_spikes: int = 1
    duration: float = 0.2
    step_frac: float = 0.5
    offset_frac: float = 0.0
    samples_per_class: int = 1000
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    spectrum: Spectrum = "torch"
    leaky_standardisation: bool = False

    def __post_init__(self) -> None:
        for name in ("n_classes", "n_units", "dim", "n_spikes", "samples_per_class"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1: raise it.")
        for name in ("alpha", "duration"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"{name}={getattr(self, name)} must be positive and finite: raise it above 0.")
        if not 0 < self.step_frac <= 1:
            raise ValueError(f"step_frac={self.step_frac} must be in (0, 1]: it is a share of the duration.")
        if not 0 <= self.offset_frac < 1:
            raise ValueError(f"offset_frac={self.offset_frac} must be in [0, 1): it is a share of the duration.")
        if self.spectrum not in ("torch", "numpy"):
            raise ValueError(f"spectrum={self.spectrum!r} is unknown: choose 'torch' or 'numpy'.")
        if len(self.fractions) != 3 or self.part_ends[0] < 1:
            raise ValueError(
                f"fractions={self.fractions} of {self.samples_per_class} samples per class must be three shares and "
                "leave a training sample: raise the first share or samples_per_class."
            )

    @property
    def part_ends(self) -> NDArray[np.int64]:
        """Where training, validation and test end among the samples of a class, int64 `[3]`."""
        return np.rint(cumulative(self.fractions) * self.samples_per_class).astype(np.int64)


PAPER = RandmanSettings()


def make_randman(settings: RandmanSettings = PAPER, *, seed: int) -> tuple[EventArrays, EventArrays, EventArrays]:
    """Draw a Randman task.

    For each class and each spike, a manifold `f` (see `evaluate_manifold`) is drawn; a sample is a point
    `x ~ U[0, 1)^dim`, shared by its spikes. Unit d fires at
    `duration * (step_frac * (1 - offset_frac) * y_d + offset_frac)`, where `y_d` is `f_d(x)` scaled to [0, 1] per unit
    and class and clipped to that range.

    Unless `leaky_standardisation`, a class's training samples do not depend on how many held-out samples or other
    classes there are. Numbers differ from those of the original, which draws from torch's global generator.

    Args:
        settings: of the task.
        seed: not negative; the same seed gives the same data. No global generator is touched.

    Returns:
        Training, validation and test set, each with the classes mixed.
    """
    seeds = np.random.SeedSequence(seed)
    order_seeds, class_seeds = seeds.spawn(3), seeds.spawn(settings.n_classes)
    times = np.stack([_class_times(settings, np.random.default_rng(child)) for child in class_seeds])
    parts = np.split(times, settings.part_ends[:-1], axis=1)
    train, val, test = (
        _mix(part, settings, np.random.default_rng(child)) for part, child in zip(parts, order_seeds, strict=True)
    )
    return train, val, test


def draw_manifold(settings: RandmanSettings, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw the parameters of one manifold: U[0, 1), `[units, dim, 3, F]`.

    The middle axis holds amplitude, frequency and phase; `F = min(ceil(1e-3^(-1 / alpha)), 1000)`.
    """
    alpha = max(settings.alpha, 1.0)  # below 1 the cap applies, and the power would overflow
    n_terms = min(math.ceil(_PRECISION ** (-1 / alpha)), _MAX_TERMS)
    theta = rng.random((settings.n_units, settings.dim, 3, n_terms))
    theta[:, :, 0, 0] = 0  # no constant term: the manifolds stay centred
    return theta


def evaluate_manifold(
    x: NDArray[np.float64], theta: NDArray[np.float64], *, alpha: float, spectrum: Spectrum = "torch"
) -> NDArray[np.float64]:
    """Evaluate a random manifold at the points `x`.

    `f_d(x) = prod_j sum_k theta[d, j, 0, k] s_k sin(2 pi (k x_j theta[d, j, 1, k] + theta[d, j, 2, k]))` with
    `s_k = 1 / ((k + 1)^alpha + 1)` (`spectrum="torch"`) or `1 / (k + 1)^alpha` (`"numpy"`), k = 0 .. F - 1.

    Args:
        x: `[samples, dim]`.
        theta: `[units, dim, 3, F]`, from `draw_manifold`.
        alpha: fall-off of the spectrum.
        spectrum: which of the two original spectra.

    Returns:
        `[samples, units]`.
    """
    n_terms = theta.shape[-1]
    k = torch.arange(n_terms, dtype=torch.float64)
    s = 1 / ((k + 1) ** alpha + (1 if spectrum == "torch" else 0))
    amplitude, frequency, phase = torch.from_numpy(theta).unbind(2)  # each [units, dim, F]
    amplitude, frequency = (amplitude * s).float(), frequency * k
    points, y = torch.from_numpy(x), torch.ones(len(x), len(theta), dtype=torch.float64)
    n_rows = max(1, _CHUNK // n_terms)
    for start in range(0, len(x), n_rows):
        rows = slice(start, start + n_rows)
        for d, j in np.ndindex(theta.shape[:2]):
            turns = torch.outer(points[rows, j], frequency[d, j]).add_(phase[d, j])
            # Whole turns are removed in float64; for the rest float32 is accurate enough, and ten times faster.
            turns = turns.sub_(turns.round()).mul_(2 * math.pi).float()
            y[rows, d] *= turns.sin_() @ amplitude[d, j]
    values: NDArray[np.float64] = y.numpy()
    return values


def _class_times(settings: RandmanSettings, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw one class: event times in seconds, `[samples, spikes * units]`, training samples first."""
    manifolds = [draw_manifold(settings, rng) for _ in range(settings.n_spikes)]
    x = rng.random((settings.samples_per_class, settings.dim))
    values = np.concatenate(
        [evaluate_manifold(x, theta, alpha=settings.alpha, spectrum=settings.spectrum) for theta in manifolds], axis=1
    )
    n_reference = settings.samples_per_class if settings.leaky_standardisation else settings.part_ends[0]
    y = _standardise(values, values[:n_reference])
    fraction = settings.step_frac * (1 - settings.offset_frac) * y + settings.offset_frac
    return (settings.duration * np.minimum(fraction, _LAST)).astype(np.float32)


def _standardise(values: NDArray[np.float64], reference: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale each column to [0, 1] by the range of the reference rows, and clip."""
    low, high = reference.min(axis=0), reference.max(axis=0)
    scaled: NDArray[np.float64] = (np.clip(values, low, high) - low) / (high - low + 1e-7)
    return scaled


def _mix(times: NDArray[np.float32], settings: RandmanSettings, rng: np.random.Generator) -> EventArrays:
    """Turn times `[classes, samples, events]` into a data set with the samples in random order."""
    n_classes, n_samples, n_events = times.shape
    order = rng.permutation(n_classes * n_samples)
    return EventArrays(
        times=times.reshape(-1, n_events)[order].ravel(),
        units=np.tile(np.arange(settings.n_units), len(order) * settings.n_spikes),
        offsets=np.arange(len(order) + 1) * n_events,
        labels=np.repeat(np.arange(n_classes), n_samples)[order],
        n_units=settings.n_units,
        n_classes=n_classes,
    )
