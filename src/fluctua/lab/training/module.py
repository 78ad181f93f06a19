"""A spiking classifier as a Lightning module: loss, regularisers and what is logged."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.hooks import RemovableHandle

from fluctua.homeostasis import ActivityBound
from fluctua.homeostasis.optimizers import make_optimizer
from fluctua.homeostasis.refinement import TrainingDiverged
from fluctua.lab.training.losses import loss_by_name
from fluctua.lab.training.schedules import Schedule

try:
    import lightning
    from lightning.pytorch.utilities.types import OptimizerLRScheduler
except ImportError as error:
    raise ImportError('training needs lightning, which is missing: pip install "fluctua[train]".') from error

Batch = tuple[Tensor, Tensor]


class SpikingClassifier(lightning.LightningModule):
    """Trains any model `[T, B, ...] -> [T, B, C]` on batches `(x [T, B, ...], y [B])`.

    Logged per epoch, weighted by samples: `train_loss` and `val_loss` (the task's alone), `train_penalty` and
    `val_penalty` (the regularisers'), `train_accuracy`, `val_accuracy`, `test_accuracy`, and in validation
    `rate_<population>`, the mean firing rate in Hz of each spiking module with a time step `dt`.

    Args:
        model: the network; its spiking modules have `spiking = True` and return their spikes `[T, B, ...]`.
        loss: name of the loss, see `LOSSES`.
        optimizer: name of the optimiser, see `make_optimizer`.
        lr: learning rate.
        regularizers: penalties on the spikes of every spiking module.
        optimizer_options: further options of the optimiser.
        schedule: what becomes of the learning rate.

    Raises:
        ValueError: an unknown loss, or regularisers for a model without spiking modules.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        loss: str = "max_over_time",
        optimizer: str = "smorms3",
        lr: float = 5e-3,
        regularizers: Sequence[ActivityBound] = (),
        optimizer_options: Mapping[str, Any] | None = None,
        schedule: Schedule = Schedule(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__()
        if regularizers and not any(getattr(module, "spiking", False) for module in model.modules()):
            raise ValueError(
                "activity regularisers need spiking modules (spiking = True), but the model has none: pass no "
                "regularisers, or build it from fluctua's neurons"
            )
        self.model = model
        self.loss = loss_by_name(loss)
        self.optimizer, self.lr, self.optimizer_options = optimizer, lr, dict(optimizer_options or {})
        self.regularizers = tuple(regularizers)
        self.schedule = schedule

    def forward(self, x: Tensor) -> Tensor:
        """Input `[T, B, ...]` -> readout potential `[T, B, C]`."""
        output: Tensor = self.model(x)
        return output

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build the optimiser over all trainable parameters, and what changes its learning rate."""
        trainable = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        if not trainable:
            raise ValueError("the model has no trainable parameters: there is nothing to fit")
        optimizer = make_optimizer(self.optimizer, trainable, self.lr, **self.optimizer_options)
        if self.schedule.constant:
            return optimizer
        steps = self.trainer.estimated_stepping_batches / self.schedule.epochs
        by_step = 0 < steps < math.inf  # a loader without a length has all its steps in the middle of the epoch
        # The middle of a step stands for all of it.
        scheduler = LambdaLR(optimizer, lambda k: self.schedule.factor((k + 0.5) / (steps if by_step else 1)))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step" if by_step else "epoch"},
        }

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Task loss plus penalty, to be minimised."""
        return self._step(batch, "train")

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the loss, the accuracy and the firing rates."""
        self._step(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Log the accuracy."""
        x, y = batch
        self._log("test_accuracy", self._accuracy(self(x), y), len(y))

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, and put weights with a sign (Dale's law) back where they belong."""
        super().optimizer_step(*args, **kwargs)
        for module in self.model.modules():
            if callable(constrain := getattr(module, "constrain_", None)):
                constrain()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Stop at a gradient that is not finite.

        NaN weights need not show in the loss: a NaN potential is not above threshold, so its neuron just falls silent.
        """
        norms = [parameter.grad.norm() for parameter in self.model.parameters() if parameter.grad is not None]
        if norms:
            self._stop_unless_finite(torch.stack(norms).norm(), "gradient norm")

    def _step(self, batch: Batch, stage: str) -> Tensor:
        x, y = batch
        output, spikes = self._run(x, looking=bool(self.regularizers) or stage == "val")
        task = self.loss(output, y)
        penalty = self._penalty(spikes, like=task)
        loss = task + penalty
        self._stop_unless_finite(loss, "loss")
        self._log(f"{stage}_loss", task, len(y))
        self._log(f"{stage}_penalty", penalty, len(y))
        self._log(f"{stage}_accuracy", self._accuracy(output, y), len(y))
        if stage == "val":
            for name, rate in firing_rates(self.model, spikes).items():
                self._log(f"rate_{name}", rate, len(y))
        return loss

    def _run(self, x: Tensor, *, looking: bool) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The output, and the spikes of all populations if one is looking: that keeps layers from being fused."""
        if not looking:
            return self(x), {}
        with recorded_spikes(self.model) as spikes:
            return self(x), spikes

    def _penalty(self, spikes: Mapping[str, Tensor], *, like: Tensor) -> Tensor:
        penalties = [bound(train) for bound in self.regularizers for train in spikes.values()]
        return torch.stack(penalties).sum() if penalties else torch.zeros_like(like)

    def _accuracy(self, output: Tensor, y: Tensor) -> Tensor:
        return (self.loss.predict(output) == y).float().mean()

    def _log(self, name: str, value: Tensor, n_samples: int) -> None:
        # time-major input: Lightning would take the number of time steps for the batch size
        in_bar = name.endswith("_accuracy")
        self.log(name, value, on_step=False, on_epoch=True, batch_size=n_samples, prog_bar=in_bar)

    def _stop_unless_finite(self, value: Tensor, what: str) -> None:
        number = float(value.detach())
        if not math.isfinite(number):
            raise TrainingDiverged(
                f"training diverged in epoch {self.current_epoch + 1}, step {self.global_step + 1} ({what} "
                f"{number}): try a smaller lr than {self.lr:g} or a gradient_clip, and inspect the network's "
                "activity before training; epochs finished before are kept"
            )


@contextmanager
def recorded_spikes(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Collect the output `[T, B, ...]` of every spiking module that runs inside the `with`, by module name.

    A module that runs a second time is kept as `name#2` and so on; one that merely hands on the spikes of a module
    inside it is left out.
    """
    spikes: dict[str, Tensor] = {}
    handles: list[RemovableHandle] = []

    def record(name: str, output: Tensor) -> None:
        if any(output is seen for seen in spikes.values()):
            return
        runs = sum(seen.partition("#")[0] == name for seen in spikes)
        spikes[f"{name}#{runs + 1}" if runs else name] = output

    for name, module in model.named_modules():
        if getattr(module, "spiking", False):
            hook = lambda _module, _inputs, output, name=name: record(name, output)  # noqa: E731
            handles.append(module.register_forward_hook(hook))
    try:
        yield spikes
    finally:
        for handle in handles:
            handle.remove()


def firing_rates(model: nn.Module, spikes: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Mean firing rate in Hz of each recorded population whose module has a time step `dt` in seconds."""
    modules = dict(model.named_modules())
    steps = {name: getattr(modules[name.partition("#")[0]], "dt", None) for name in spikes}
    return {name: spikes[name].detach().float().mean() / dt for name, dt in steps.items() if dt is not None}
