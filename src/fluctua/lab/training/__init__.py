"""Losses; `fit` and its Lightning module are in `training.fit` and `.module`."""

from fluctua.lab.training.losses import (
    LOSSES,
    TimeLoss,
    loss_by_name,
    max_over_time_cross_entropy,
    mean_over_time_cross_entropy,
    sum_of_softmax_cross_entropy,
    sum_over_time_cross_entropy,
)

__all__ = [
    "LOSSES",
    "TimeLoss",
    "loss_by_name",
    "max_over_time_cross_entropy",
    "mean_over_time_cross_entropy",
    "sum_of_softmax_cross_entropy",
    "sum_over_time_cross_entropy",
]
