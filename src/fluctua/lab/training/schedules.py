"""Learning-rate schedules."""

import math
from dataclasses import dataclass

SCHEDULES = ("constant", "cosine")


@dataclass(frozen=True)
class Schedule:
    """The learning rate as a share of its largest value.

    It rises linearly during the warm-up; then it stays, or falls to zero along half a cosine, `(1 + cos(pi s)) / 2`,
    where s goes from 0 to 1 until the last epoch ends (Loshchilov & Hutter 2017, without restarts).

    Attributes:
        name: "constant" or "cosine".
        epochs: of the whole training.
        warmup: length of the rise in epochs, less than `epochs`; may be fractional.

    Raises:
        ValueError: an unknown name, or a warm-up that leaves no epoch.
    """

    name: str = "constant"
    epochs: int = 1
    warmup: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in SCHEDULES:
            raise ValueError(f"schedule {self.name!r} is unknown: choose one of {', '.join(SCHEDULES)}")
        if not 0 <= self.warmup < self.epochs:
            raise ValueError(
                f"a warm-up of {self.warmup:g} epochs must be 0 or more and less than all {self.epochs}: shorten it, "
                "or train for more epochs"
            )

    @property
    def constant(self) -> bool:
        """Whether the learning rate never changes."""
        return self.name == "constant" and self.warmup == 0

    def factor(self, done: float) -> float:
        """The share of the largest learning rate after a number of epochs."""
        if done < self.warmup:
            return done / self.warmup
        if self.name == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (done - self.warmup) / (self.epochs - self.warmup))))
