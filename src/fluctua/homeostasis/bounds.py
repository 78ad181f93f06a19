"""Activity regularisers: a penalty on spike counts that are too low or too high (homeostatic plasticity)."""

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor


@dataclass(frozen=True)
class ActivityBound:
    """One-sided penalty on the spike count `n` of a trial: `strength * mean relu(excess)^order`.

    The excess is `threshold - n` for a lower bound and `n - threshold` for an upper one. `n` is first averaged as `per`
    says, over the neurons of a population or over the positions of a feature map. The outer mean runs over samples and
    the remaining axes of `n`. A bound that is kept costs nothing and has no gradient.

    Attributes:
        kind: which side is penalised, `"lower"` or `"upper"`.
        threshold: the bound, in spikes per trial (not Hz).
        strength: the factor in front.
        order: 1 or 2, the power of the excess.
        per: what must keep the bound: each `"neuron"`, each `"channel"` (axis 2 of `[T, B, C, ...]`) on average, or
            the whole `"population"` on average.

    Example:
        >>> import torch
        >>> bound = ActivityBound("upper", threshold=3.0, order=1)
        >>> bound(torch.ones(5, 1, 2))  # five spikes where three are allowed
        tensor(2.)
    """

    kind: Literal["lower", "upper"]
    threshold: float
    strength: float = 1.0
    order: Literal[1, 2] = 2
    per: Literal["neuron", "channel", "population"] = "neuron"

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"an activity bound's {name} is one of {allowed}, got {getattr(self, name)!r}")
        for name in ("threshold", "strength"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"an activity bound's {name} must be 0 or more, got {getattr(self, name)}")

    def __call__(self, spikes: Tensor) -> Tensor:
        """Spikes of one population `[T, B, ...]` -> penalty, a scalar.

        Raises:
            ValueError: spikes without an axis of neurons.
        """
        if spikes.ndim < 3:
            raise ValueError(f"spikes must be [T, B, ...] with at least one axis of neurons, got {tuple(spikes.shape)}")
        count = (spikes if spikes.is_floating_point() else spikes.float()).sum(dim=0)
        if self.per == "population":
            count = count.flatten(1).mean(dim=1)
        elif self.per == "channel" and count.ndim > 2:
            count = count.flatten(2).mean(dim=2)
        excess = self.threshold - count if self.kind == "lower" else count - self.threshold
        return self.strength * excess.relu().pow(self.order).mean()


_CHOICES = {"kind": ("lower", "upper"), "order": (1, 2), "per": ("neuron", "channel", "population")}

_NO_SILENCE = ActivityBound("lower", threshold=1e-3, strength=100.0)
_PAPER_BOUNDS: dict[str, tuple[ActivityBound, ...]] = {
    "randman": (_NO_SILENCE, ActivityBound("upper", threshold=4.0, strength=0.1, per="population")),
    "shd": (_NO_SILENCE, ActivityBound("upper", threshold=7.0, strength=0.1, per="population")),
    "shd_dale": (ActivityBound("upper", threshold=7.0, strength=0.1, per="population"),),
    "shd_conv": (ActivityBound("upper", threshold=7.0, strength=0.01, per="channel"),),
    "dvs_conv": (ActivityBound("upper", threshold=10.0, strength=0.01, per="channel"),),
    "cifar10_conv": (ActivityBound("upper", threshold=10.0, strength=0.01, per="channel"),),
}


def paper_bounds(experiment: str) -> tuple[ActivityBound, ...]:
    """Bounds that an experiment of the paper applies to every hidden population.

    As in the authors' published notebooks: the fully connected networks have both bounds, the others only the upper;
    7 spikes in 0.7 s are 10 Hz, 4 in 0.2 s are 20 Hz.

    Args:
        experiment: `"randman"`, `"shd"` (fully connected), `"shd_dale"`, `"shd_conv"`, `"dvs_conv"` or
            `"cifar10_conv"`.

    Raises:
        ValueError: an unknown experiment.
    """
    if experiment not in _PAPER_BOUNDS:
        raise ValueError(f"experiment {experiment!r} is unknown: choose one of {', '.join(_PAPER_BOUNDS)}")
    return _PAPER_BOUNDS[experiment]
