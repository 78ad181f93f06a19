"""Weight laws: the shape of a distribution of weights, its mean and spread, and how sparse the connections are."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fluctua.theory.psp import Array


@dataclass(frozen=True)
class Family(ABC):
    """Shape of a distribution up to mean and scale. Weights of either sign, unless the family is `OneSided`.

    Class attributes:
        independent: whether each row of a weight is drawn for itself.
    """

    independent: ClassVar[bool] = True

    @abstractmethod
    def standard(self, rng: np.random.Generator, shape: Sequence[int]) -> Array:
        """Independent numbers of mean 0 and variance 1."""


@dataclass(frozen=True)
class Normal(Family):
    """The paper's law, `N(mean, std^2)`: weights of either sign.

    Example:
        >>> Normal().standard(np.random.default_rng(0), [2, 3]).round(2)
        array([[ 0.13, -0.13,  0.64],
               [ 0.1 , -0.54,  0.36]])
    """

    def standard(self, rng: np.random.Generator, shape: Sequence[int]) -> Array:
        return rng.standard_normal(tuple(shape))


@dataclass(frozen=True)
class Uniform(Family):
    """Uniform between `mean - sqrt(3) std` and `mean + sqrt(3) std`."""

    def standard(self, rng: np.random.Generator, shape: Sequence[int]) -> Array:
        return rng.uniform(-np.sqrt(3), np.sqrt(3), tuple(shape))


@dataclass(frozen=True)
class Relay(Family):
    """Each neuron listens mainly to one neuron of the layer before, and weakly to all others.

    The identity less its mean, `I - 1/n`, is blended into random weights, so that a layer passes on what the layer
    before represents instead of mixing it anew. In a convolution the central tap is such a matrix. This applies to
    square weights between populations; all others (from the data, recurrent, not square) are drawn from `rest`.

    Attributes:
        share: part of the variance of the weights that the identity supplies, between 0 and 1.
        rest: the law of all other weights.

    Example:
        >>> w = Relay(share=0.9).standard(np.random.default_rng(0), [100, 100])
        >>> print(f"diagonal {w.diagonal().mean():.1f}, mean {w.mean():.1f}, mean square {(w**2).mean():.1f}")
        diagonal 9.4, mean 0.0, mean square 1.0
    """

    share: float = 0.9
    rest: Family = Normal()

    independent: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 < self.share < 1 or isinstance(self.rest, Relay | OneSided):
            raise ValueError(
                "Relay needs a share between 0 and 1 and a rest of weights of either sign, got "
                f"share={self.share} and rest={self.rest}"
            )

    def standard(self, rng: np.random.Generator, shape: Sequence[int]) -> Array:
        """See `Family.standard`: mean 0 and variance 1 over the whole weight, not for each entry."""
        drawn = self.rest.standard(rng, shape)
        if len(shape) < 2 or shape[0] != shape[1] or shape[0] < 2:
            return drawn
        n, relay = shape[0], np.zeros(tuple(shape))
        middle: tuple[int | slice, ...] = (slice(None), slice(None), *(k // 2 for k in shape[2:]))
        relay[middle] = np.eye(n) - 1 / n
        relay *= np.sqrt(self.share * relay.size / (n - 1))  # n - 1 is the sum of its squares
        relay += np.sqrt(1 - self.share) * drawn
        return relay


@dataclass(frozen=True)
class OneSided(Family):
    """Weights of one sign (Dale's law): the mean fixes the spread, `E[w^2] = kappa E[w]^2`."""

    @property
    @abstractmethod
    def kappa(self) -> float:
        """`E[w^2] / E[w]^2`; above 1."""

    @property
    def spread(self) -> float:
        """Standard deviation over the size of the mean, `sqrt(kappa - 1)`."""
        return float(np.sqrt(self.kappa - 1))

    def standard(self, rng: np.random.Generator, shape: Sequence[int]) -> Array:
        """`(y - E y) / std y` of positive numbers y, so that `1 + spread * standard` is positive up to rounding."""
        return (self._of_mean_one(rng, tuple(shape)) - 1) / self.spread

    @abstractmethod
    def _of_mean_one(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Array: ...


@dataclass(frozen=True)
class Exponential(OneSided):
    """The paper's law for excitatory and inhibitory weights.

    Example:
        >>> law = Exponential()
        >>> law.kappa, law.spread  # E[w^2] = 2 E[w]^2: the standard deviation is as large as the mean
        (2.0, 1.0)
    """

    kappa = 2.0

    def _of_mean_one(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
        return rng.standard_exponential(shape)


@dataclass(frozen=True)
class LogNormal(OneSided):
    """`exp` of a normal number of standard deviation `s`: few strong and many weak synapses, as in cortex.

    Example:
        >>> [round(LogNormal(s).spread, 2) for s in (0.5, 1.0, 1.5)]
        [0.53, 1.31, 2.91]
    """

    s: float = 1.0

    def __post_init__(self) -> None:
        _check_parameter("LogNormal", "s", self.s)

    @property
    def kappa(self) -> float:
        """`exp(s^2)`."""
        return float(np.exp(self.s**2))

    def _of_mean_one(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
        return np.exp(self.s * rng.standard_normal(shape) - self.s**2 / 2)


@dataclass(frozen=True)
class Gamma(OneSided):
    """From nearly all weights zero (small `shape`) over the exponential (1) to nearly all equal (large).

    Example:
        >>> Gamma(shape=1.0).kappa == Exponential().kappa
        True
        >>> Gamma(shape=100.0).spread  # a tenth of the mean
        0.1...
    """

    shape: float = 2.0

    def __post_init__(self) -> None:
        _check_parameter("Gamma", "shape", self.shape)

    @property
    def kappa(self) -> float:
        """`1 + 1 / shape`."""
        return 1 + 1 / self.shape

    def _of_mean_one(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
        return rng.standard_gamma(self.shape, shape) / self.shape


@dataclass(frozen=True)
class HalfNormal(OneSided):
    """Absolute value of a normal number."""

    kappa = np.pi / 2

    def _of_mean_one(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
        return np.asarray(np.abs(rng.standard_normal(shape)) * np.sqrt(np.pi / 2))


@dataclass(frozen=True, eq=False)
class WeightLaw:
    """Distribution of the weights of one pathway.

    Attributes:
        family: its shape. A one-sided family with a negative mean is inhibition: all weights are 0 or below.
        mean: of the weights that are present; `[]`, or `[*N]` for one value per neuron.
        std: of the weights that are present; same shapes.
        density: the fraction of all possible synapses that is present.
    """

    family: Family
    mean: Array
    std: Array
    density: float = 1.0

    def __post_init__(self) -> None:
        check_density(self.density)
        if not (np.all(np.isfinite(self.mean)) and np.all((self.std >= 0) & np.isfinite(self.std))):
            raise ValueError(
                f"a weight law needs a finite mean and a finite std of 0 or more, got {self.mean} and {self.std}"
            )
        if isinstance(self.family, OneSided):
            std = np.abs(self.mean) * self.family.spread
            if not np.allclose(self.std, std, rtol=1e-9, atol=0.0):
                raise ValueError(
                    f"weights of one sign have their spread from their mean: {self.family} of mean {self.mean} needs "
                    f"the std {std}, got {self.std}"
                )

    @property
    def mean_square(self) -> Array:
        """`E[w^2] = mean^2 + std^2` of the weights that are present."""
        return self.mean**2 + self.std**2

    def draw(self, rng: np.random.Generator, shape: Sequence[int]) -> Array:
        """Weights of that shape, one row per neuron along axis 0; absent synapses are 0.

        Raises:
            ValueError: the law has one value per neuron, but for another number of neurons.
        """
        mean, std = (_by_row(value, shape) for value in (self.mean, self.std))
        deviation = std * self.family.standard(rng, shape)
        if isinstance(self.family, OneSided):
            weights = np.sign(mean) * np.maximum(np.abs(mean) + deviation, 0.0)  # rounding may end below zero
        else:
            weights = mean + deviation
        return weights if self.density == 1 else np.where(rng.random(tuple(shape)) < self.density, weights, 0.0)


def check_density(density: float) -> None:
    """Refuse a density that is not above 0 and at most 1."""
    if not 0 < density <= 1:
        raise ValueError(f"the density of a pathway's synapses must lie above 0 and at most at 1, got {density}")


def _by_row(value: Array, shape: Sequence[int]) -> Array:
    if value.ndim == 0:
        return value
    if value.shape != (shape[0],):
        raise ValueError(
            "a law with one value per neuron draws one row for each neuron: the law has the shape "
            f"{value.shape}, the weights {tuple(shape)}"
        )
    return value.reshape(-1, *[1] * (len(shape) - 1))


def _check_parameter(family: str, name: str, value: float) -> None:
    if not 0 < value < np.inf:
        raise ValueError(f"{family} needs a positive number {name}, got {value}")
