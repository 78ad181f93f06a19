"""Losses, activity regularisers, optimisers; `fit` and its Lightning module are in `training.fit` and `.module`."""

from fluctua.training.losses import (
    LOSSES,
    TimeLoss,
    loss_by_name,
    max_over_time_cross_entropy,
    mean_over_time_cross_entropy,
    sum_of_softmax_cross_entropy,
    sum_over_time_cross_entropy,
)
from fluctua.training.optimizers import SMORMS3, make_optimizer
from fluctua.training.regularizers import ActivityBound, paper_bounds

__all__ = [
    "LOSSES",
    "SMORMS3",
    "ActivityBound",
    "TimeLoss",
    "loss_by_name",
    "make_optimizer",
    "max_over_time_cross_entropy",
    "mean_over_time_cross_entropy",
    "paper_bounds",
    "sum_of_softmax_cross_entropy",
    "sum_over_time_cross_entropy",
]
