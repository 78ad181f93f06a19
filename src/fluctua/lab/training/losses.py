"""Losses on the readout's membrane potential: softmax cross entropy for classes, squared error for values."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss, nll_loss, one_hot

from fluctua.theory import Target

_REDUCTIONS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {
        "max": lambda output: output.max(dim=0).values,  # not amax, which would divide the gradient among equal maxima
        "sum": lambda output: output.sum(dim=0),
        "mean": lambda output: output.mean(dim=0),
        # In logarithms, so that no probability is too small.
        "softmax": lambda output: output.log_softmax(dim=2).logsumexp(dim=0),
        "last": lambda output: output[-1],
        "every": lambda output: output.log_softmax(dim=2).mean(dim=0),
    }
)
"""Readout potential `[T, B, C]` -> logits `[B, C]`."""


@dataclass(frozen=True)
class TimeLoss:
    """Cross entropy of a readout that is first reduced over time; call it as `loss(output, labels)`.

    Attributes:
        over_time: how the time steps are combined:

            - `"max"`: each class's largest potential, the paper's loss (Rossbroich et al. 2022);
            - `"sum"`: the potential summed over time;
            - `"mean"`: the potential averaged over time;
            - `"softmax"`: the class probabilities, by the softmax of each step, summed over time. The cross entropy is
              then minus the logarithm of the right class's mean probability: every step has one vote;
            - `"last"`: the potential of the last step;
            - `"every"`: the cross entropy of each step, averaged: every step should be right.

    Raises:
        ValueError: an unknown name.

    Example:
        >>> import torch
        >>> loss = TimeLoss("max")
        >>> output, labels = torch.zeros(10, 2, 3), torch.tensor([0, 2])  # readout [T, B, C]
        >>> print(f"{loss(output, labels):.4f}", loss.predict(output).tolist())
        1.0986 [0, 0]
    """

    over_time: str

    def __post_init__(self) -> None:
        if self.over_time not in _REDUCTIONS:
            raise ValueError(f"TimeLoss({self.over_time!r}) is unknown: choose one of {', '.join(_REDUCTIONS)}")

    def __call__(self, output: Tensor, labels: Tensor) -> Tensor:
        """Mean cross entropy of the samples, a scalar.

        Args:
            output: readout potential `[T, B, C]`.
            labels: class of each sample, integers in `0..C-1`, `[B]`.

        Raises:
            ValueError: wrong shapes, or labels that are not integers or out of range.
        """
        logits = self._logits(output)
        _check_labels(labels, *logits.shape)
        # Averaged log probabilities need not be normalised.
        return (nll_loss if self.over_time == "every" else cross_entropy)(logits, labels.long())

    def classes(self, output: Tensor) -> Tensor:
        """Readout potential `[T, B, C]` -> the likeliest class of each sample, `[B]`."""
        return self._logits(output).argmax(dim=1)

    predict = classes

    def _logits(self, output: Tensor) -> Tensor:
        if not isinstance(output, Tensor):
            raise ValueError(f"the readout must be one tensor [T, B, C], got a {type(output).__name__}")
        if output.ndim != 3 or 0 in output.shape:
            raise ValueError(f"the readout must be [T, B, C] and not empty, got shape {tuple(output.shape)}")
        return _REDUCTIONS[self.over_time](output)


@dataclass(frozen=True)
class ValueLoss:
    """Mean squared error of a readout, for regression; call it as `loss(output, wanted)`.

    For classes the wanted value is 1 for the right class and 0 for the others.

    Attributes:
        over_time: which potential should be the wanted value: that of `"every"` step, of the `"last"`, or the `"mean"`.

    Raises:
        ValueError: an unknown name.

    Example:
        >>> import torch
        >>> loss = ValueLoss("last")
        >>> output, wanted = torch.ones(10, 2, 3), torch.zeros(2, 3)  # readout [T, B, C], values [B, C]
        >>> loss(output, wanted).item(), loss.readout(torch.tensor([[0.5], [1.5]])).mean
        (1.0, 1.0)
    """

    over_time: str = "every"

    def __post_init__(self) -> None:
        if self.over_time not in ("every", "last", "mean"):
            raise ValueError(f"ValueLoss({self.over_time!r}) is unknown: choose one of every, last, mean")

    def __call__(self, output: Tensor, wanted: Tensor) -> Tensor:
        """Mean over samples, outputs and, for `"every"`, steps; a scalar.

        Args:
            output: readout potential `[T, B, C]`.
            wanted: values `[B, C]`, or `[T, B, C]` for `"every"`; or classes, integers `[B]`.

        Raises:
            ValueError: wrong shapes, or classes out of range.
        """
        predicted = self.predict(output)
        if wanted.ndim == 1 and not wanted.is_floating_point():
            _check_labels(wanted, *output.shape[1:])
            wanted = one_hot(wanted.long(), output.shape[2])
        allowed = [output.shape[1:], *([output.shape] if self.over_time == "every" else [])]
        if wanted.shape not in allowed:
            raise ValueError(
                f"the readout is {[*output.shape]}, so the wanted values must be "
                f"{' or '.join(str([*shape]) for shape in allowed)}, got {[*wanted.shape]}"
            )
        return mse_loss(predicted, wanted.to(predicted).expand_as(predicted))

    def predict(self, output: Tensor) -> Tensor:
        """Readout potential `[T, B, C]` -> predicted values: `[B, C]`, or `[T, B, C]` for `"every"`."""
        if output.ndim != 3 or 0 in output.shape:
            raise ValueError(f"the readout must be [T, B, C] and not empty, got shape {tuple(output.shape)}")
        return {"every": output, "last": output[-1], "mean": output.mean(0)}[self.over_time]

    def classes(self, output: Tensor) -> Tensor:
        """Readout potential `[T, B, C]` -> the class of the largest value of each sample, `[B]`."""
        return self.predict(output).reshape(-1, *output.shape[1:]).mean(0).argmax(1)

    def readout(self, wanted: Tensor) -> Target:
        """A target for the readout that starts it with the mean and standard deviation of the wanted values."""
        values = wanted.detach().double()
        return Target(mean=float(values.mean()), sigma=max(float(values.std(correction=0)), 1e-3))


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


LOSSES: Mapping[str, TimeLoss | ValueLoss] = MappingProxyType(
    {
        "max_over_time": TimeLoss("max"),
        "sum_over_time": TimeLoss("sum"),
        "mean_over_time": TimeLoss("mean"),
        "sum_of_softmax": TimeLoss("softmax"),
        "last_step": TimeLoss("last"),
        "every_step": TimeLoss("every"),
        "mse_every_step": ValueLoss("every"),
        "mse_last_step": ValueLoss("last"),
        "mse_mean_over_time": ValueLoss("mean"),
    }
)
"""The losses by their names in settings and on the command line."""


def loss_by_name(name: str) -> TimeLoss | ValueLoss:
    """Look up one of `LOSSES`.

    Raises:
        ValueError: an unknown loss.
    """
    if name not in LOSSES:
        raise ValueError(f"loss {name!r} is unknown: choose one of {', '.join(LOSSES)}")
    return LOSSES[name]
