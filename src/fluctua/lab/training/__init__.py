"""Losses; `fit` and its Lightning module are in `training.fit` and `.module`."""

from fluctua.lab.training.losses import LOSSES, TimeLoss, ValueLoss, loss_by_name
from fluctua.lab.training.renamed import loss_of_old_name as __getattr__

__all__ = ["LOSSES", "TimeLoss", "ValueLoss", "__getattr__", "loss_by_name"]
