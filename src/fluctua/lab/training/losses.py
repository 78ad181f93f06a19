"""Classification losses on the readout's membrane potential: reduce over time, then softmax cross entropy."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor
from torch.nn.functional import cross_entropy


@dataclass(frozen=True)
class TimeLoss:
    """Cross entropy of a readout that is first reduced over time; call it as `loss(output, labels)`.

    Attributes:
        name: its key in `LOSSES`.
        reduce: readout potential `[T, B, C]` -> logits `[B, C]`.
    """

    name: str
    reduce: Callable[[Tensor], Tensor]

    def __call__(self, output: Tensor, labels: Tensor) -> Tensor:
        """Mean cross entropy of the samples, a scalar.

        Args:
            output: readout potential `[T, B, C]`.
            labels: class of each sample, integers in `0..C-1`, `[B]`.

        Raises:
            ValueError: wrong shapes, labels that are no integers or out of range.
        """
        logits = self._logits(output)
        _check_labels(labels, *logits.shape)
        return cross_entropy(logits, labels.long())

    def predict(self, output: Tensor) -> Tensor:
        """Readout potential `[T, B, C]` -> the likeliest class of each sample, `[B]`."""
        return self._logits(output).argmax(dim=1)

    def _logits(self, output: Tensor) -> Tensor:
        if not isinstance(output, Tensor):
            raise ValueError(f"the readout must be one tensor [T, B, C], got a {type(output).__name__}")
        if output.ndim != 3 or 0 in output.shape:
            raise ValueError(f"the readout must be [T, B, C] and not empty, got shape {tuple(output.shape)}")
        return self.reduce(output)


def _check_labels(labels: Tensor, n_samples: int, n_classes: int) -> None:
    if labels.shape != (n_samples,):
        raise ValueError(
            f"the readout has {n_samples} samples, so labels must be of shape ({n_samples},), got "
            f"{tuple(labels.shape)}: is the input time-major, [T, B, ...]?"
        )
    if labels.is_floating_point() or labels.is_complex():
        raise ValueError(f"labels must be integers, got {labels.dtype}")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= n_classes:
        raise ValueError(f"labels must be in 0..{n_classes - 1}, one class per readout unit, got {low}..{high}")


def _max_over_time(output: Tensor) -> Tensor:
    return output.max(dim=0).values  # not amax, which would share the gradient among equal maxima


def _sum_over_time(output: Tensor) -> Tensor:
    return output.sum(dim=0)


def _mean_over_time(output: Tensor) -> Tensor:
    return output.mean(dim=0)


def _sum_of_softmax(output: Tensor) -> Tensor:
    return output.log_softmax(dim=2).logsumexp(dim=0)  # in logarithms, where no probability is too small


max_over_time_cross_entropy = TimeLoss("max_over_time", _max_over_time)
"""The paper's loss: cross entropy of each class's largest potential (Rossbroich et al. 2022)."""

sum_over_time_cross_entropy = TimeLoss("sum_over_time", _sum_over_time)
"""Cross entropy of the potential summed over time."""

mean_over_time_cross_entropy = TimeLoss("mean_over_time", _mean_over_time)
"""Cross entropy of the potential averaged over time."""

sum_of_softmax_cross_entropy = TimeLoss("sum_of_softmax", _sum_of_softmax)
"""Cross entropy of the class probabilities summed over time.

The softmax of each step is summed, and the logarithm of the sum is what the cross entropy takes: minus the logarithm of
the right class's mean probability. Every step has a say, no step more than one vote.
"""

LOSSES: Mapping[str, TimeLoss] = MappingProxyType(
    {
        loss.name: loss
        for loss in (
            max_over_time_cross_entropy,
            sum_over_time_cross_entropy,
            mean_over_time_cross_entropy,
            sum_of_softmax_cross_entropy,
        )
    }
)
"""The losses by name."""


def loss_by_name(name: str) -> TimeLoss:
    """Look up one of `LOSSES`.

    Raises:
        ValueError: there is no loss of that name.
    """
    if name not in LOSSES:
        raise ValueError(f"loss {name!r} is unknown: choose one of {', '.join(LOSSES)}")
    return LOSSES[name]
