"""A spiking network as a Lightning module: loss, regularisers and logging."""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from fluctua.homeostasis import ActivityBound
from fluctua.homeostasis.optimizers import make_optimizer
from fluctua.homeostasis.refinement import TrainingDiverged, rates
from fluctua.lab.training.losses import loss_by_name
from fluctua.lab.training.schedules import Schedule
from fluctua.layers.dale import constrain_
from fluctua.network import Network
from fluctua.network.adapters.registry import KnownNeurons
from fluctua.network.facts import Population
from fluctua.network.run import recorded

try:
    import lightning
    from lightning.pytorch.utilities.types import OptimizerLRScheduler
except ImportError as error:
    raise ImportError('training needs lightning, which is missing: pip install "fluctua[train]".') from error

Batch = tuple[Tensor, Tensor]


class SpikingClassifier(lightning.LightningModule):
    """Trains any model `[T, B, ...] -> [T, B, C]` on batches `(x [T, B, ...], y)`.

    Classes y are integers `[B]`. Values are floating-point numbers `[B, C]` or `[T, B, C]`; they have no accuracy, and
    are tested by their squared error, `test_loss`.

    Logged per epoch, weighted by samples: `train_loss` and `val_loss` (of the task only), `train_penalty` and
    `val_penalty` (of the regularisers), `train_accuracy`, `val_accuracy`, `test_accuracy`, and in validation
    `rate_<population>`, the mean firing rate in Hz of each spiking population. Populations are those of a report,
    found on the first batch; if a model cannot be traced, a warning says why there are no rates.

    Args:
        model: the network.
        loss: name of the loss, see `LOSSES`.
        optimizer: name of the optimiser, see `make_optimizer`.
        lr: learning rate.
        regularizers: penalties on the spikes of every spiking population.
        optimizer_options: further options of the optimiser.
        schedule: of the learning rate.

    Raises:
        ValueError: an unknown loss, or regularisers for a model without neurons that fluctua knows.
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
        if regularizers and not KnownNeurons().found_in(model):
            raise ValueError(
                "activity regularisers need spiking neurons that fluctua knows, but the model has none: pass no "
                "regularisers, or build it from fluctua's neurons"
            )
        self.model = model
        self.loss = loss_by_name(loss)
        self.optimizer, self.lr, self.optimizer_options = optimizer, lr, dict(optimizer_options or {})
        self.regularizers = tuple(regularizers)
        self.schedule = schedule
        self._spiking: tuple[Population, ...] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Input `[T, B, ...]` -> readout potential `[T, B, C]`."""
        output: Tensor = self.model(x)
        return output

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build the optimiser over all trainable parameters, and its learning-rate schedule."""
        trainable = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        if not trainable:
            raise ValueError("the model has no trainable parameters: there is nothing to fit")
        optimizer = make_optimizer(self.optimizer, trainable, self.lr, **self.optimizer_options)
        if self.schedule.constant:
            return optimizer
        steps = self.trainer.estimated_stepping_batches / self.schedule.epochs
        by_step = 0 < steps < math.inf  # without a length, all steps count as the middle of the epoch
        # The rate of a step is that at its middle.
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
        """Log the accuracy, or the error for values."""
        x, y = batch
        output = self(x)
        accuracy = self._accuracy(output, y)
        if accuracy is None:
            self._log("test_loss", self.loss(output, y), output.shape[1])
        else:
            self._log("test_accuracy", accuracy, output.shape[1])

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, and restore the sign of weights under Dale's law."""
        super().optimizer_step(*args, **kwargs)
        constrain_(self.model)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Stop at a gradient that is not finite.

        NaN weights may not show in the loss: a NaN potential is not above threshold, so its neuron just falls silent.
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
        n, accuracy = output.shape[1], self._accuracy(output, y)
        self._log(f"{stage}_loss", task, n)
        self._log(f"{stage}_penalty", penalty, n)
        if accuracy is not None:
            self._log(f"{stage}_accuracy", accuracy, n)
        if stage == "val":
            self._log("val_score", -task if accuracy is None else accuracy, n)
            timed = [p for p in self._populations(x) if not p.neuron.in_steps]
            for name, rate in rates(timed, spikes).items():
                self._log(f"rate_{name}", rate, n)
        return loss

    def _run(self, x: Tensor, *, looking: bool) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The output, and the spikes of all populations if `looking`, which prevents fusion."""
        if not looking:
            return self(x), {}
        with recorded(self._populations(x)) as spikes:
            return self(x), spikes

    def _populations(self, x: Tensor) -> tuple[Population, ...]:
        """The spiking populations; none if the model cannot be traced and no regulariser needs them."""
        if self._spiking is None:
            try:
                with torch.inference_mode(False):
                    self._spiking = Network.of(self.model, x.clone()).spiking
            except ValueError as error:
                if self.regularizers:
                    raise
                warnings.warn(f"no firing rates are logged: {error}", stacklevel=2)
                self._spiking = ()
        return self._spiking

    def _penalty(self, spikes: Mapping[str, Tensor], *, like: Tensor) -> Tensor:
        penalties = [bound(train) for bound in self.regularizers for train in spikes.values()]
        return torch.stack(penalties).sum() if penalties else torch.zeros_like(like)

    def _accuracy(self, output: Tensor, y: Tensor) -> Tensor | None:
        """The accuracy for classes; None for values."""
        return None if y.is_floating_point() else (self.loss.classes(output) == y).float().mean()

    def _log(self, name: str, value: Tensor | float, n_samples: int) -> None:
        # time-major input: Lightning would mistake the number of steps for the batch size
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
