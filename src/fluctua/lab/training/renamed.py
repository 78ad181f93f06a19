"""Old names of losses, from before `TimeLoss("max")`; they work for one release, with a warning."""

import warnings

from fluctua.lab.training.losses import LOSSES, TimeLoss


def loss_of_old_name(name: str) -> TimeLoss:
    """For a package's `__getattr__`: `max_over_time_cross_entropy` and the like.

    Raises:
        AttributeError: no loss had that name.
    """
    loss = LOSSES.get(name.removesuffix("_cross_entropy"))
    if not isinstance(loss, TimeLoss) or not name.endswith("_cross_entropy"):
        raise AttributeError(f"module 'fluctua.lab.training' has no attribute {name!r}")
    warnings.warn(f"{name} is now TimeLoss({loss.over_time!r})", DeprecationWarning, stacklevel=2)
    return loss
