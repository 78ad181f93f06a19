"""Time constants that differ from neuron to neuron."""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor


def heterogeneous(
    mean: float,
    shape: Sequence[int],
    *,
    law: Literal["gamma", "lognormal"] = "gamma",
    cv: float = 1 / math.sqrt(3),
    dt: float = 2e-3,
    low: float | None = None,
    high: float = math.inf,
    seed: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw the time constants of a population, as in `LIF(tau_mem=heterogeneous(20e-3, (128,), seed=0))`.

    The default is the gamma law of shape 3 from which Perez-Nieves et al. (2021) start; they also train the time
    constants (`learn_tau=True`). Draws outside `low..high` are set to the bound. The theory accounts for all this: each
    neuron has its own kernel.

    Args:
        mean: of the law, in seconds.
        shape: of the population, `[*N]`, or one that broadcasts to it, such as `(channels, 1, 1)`.
        law: "gamma" or "lognormal".
        cv: coefficient of variation of the law, standard deviation over mean; a gamma law has the shape `1 / cv^2`.
        dt: time step of the neurons in seconds.
        low: lower bound in seconds; default: one time step, since anything faster is lost between two steps.
        high: upper bound in seconds.
        seed: for the draws, not negative; default: drawn from torch's generator. The same seed gives the same values.
        generator: for the draws, on the CPU, instead of a seed.

    Returns:
        Time constants in seconds, `shape`, in torch's default type.

    Raises:
        ValueError: an unknown law, a `cv` that is not positive, bounds that do not hold `dt <= low <= mean <= high`, or
            both a seed and a generator.

    Example:
        >>> taus = heterogeneous(20e-3, (1000,), seed=0)
        >>> round(float(taus.mean()), 3), bool(taus.min() >= 2e-3)
        (0.02, True)
    """
    low = dt if low is None else low
    if not 0 < dt <= low <= mean <= high or mean == math.inf:
        raise ValueError(
            f"time constants need dt <= low <= mean <= high, got dt={dt:g}, low={low:g}, mean={mean:g}, high={high:g}"
        )
    if not 0 < cv < math.inf:
        raise ValueError(f"the coefficient of variation cv must be positive and finite, got {cv}")
    rng = _rng(seed, generator)
    if law == "gamma":
        taus = rng.gamma(1 / cv**2, mean * cv**2, tuple(shape))
    elif law == "lognormal":
        variance = math.log1p(cv**2)
        taus = rng.lognormal(math.log(mean) - variance / 2, math.sqrt(variance), tuple(shape))
    else:
        raise ValueError(f"unknown law {law!r}: choose 'gamma' or 'lognormal'")
    return torch.as_tensor(taus.clip(low, high), dtype=torch.get_default_dtype())


def _rng(seed: int | None, generator: torch.Generator | None) -> np.random.Generator:
    """NumPy's generator: torch has no gamma law that takes one."""
    if seed is not None and generator is not None:
        raise ValueError("give a seed or a generator, not both")
    return np.random.default_rng(int(torch.randint(2**62, (), generator=generator)) if seed is None else seed)
