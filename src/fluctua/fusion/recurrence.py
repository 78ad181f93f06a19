"""A recurrent population, whose spikes return one step late."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fluctua.layers.fusion import demand, demand_eager, heard_map, heard_spikes, is_unmodified, plan
from fluctua.timeloop.contract import Dynamics, Tensors
from fluctua.timeloop.engines import step_by_step, widened

_CONVOLUTIONS = nn.Conv1d, nn.Conv2d


@dataclass(frozen=True, eq=False)
class Echo:
    """The recurrence of a population.

    Attributes:
        back: turns the spikes of the last step into a current `[B, *N]`: a module, or a weight `[N, N]`.
        before: the recurrent spikes at the first step, `[B, *N]`; 0.0 for silent neurons, or None if there is no
            recurrent input yet, not even a bias.
        bias: beside a weight.
    """

    back: nn.Module | Tensor
    before: Tensor | float | None = 0.0
    bias: Tensor | None = None

    @property
    def tensors(self) -> Iterable[Tensor]:
        """What it is computed with."""
        return self.back.parameters() if isinstance(self.back, nn.Module) else (self.back,)

    def of(self, spikes: Tensor) -> Tensor:
        """The current `[B, *N]` that spikes of one step cause in the next."""
        if isinstance(self.back, Tensor):
            return F.linear(spikes, self.back, self.bias)
        current: Tensor = self.back(spikes)
        return current.reshape(spikes.shape)

    def with_first(self, x: Tensor) -> Tensor:
        """The current `[T, B, *N]` from outside, plus the recurrent input of the first step."""
        if self.before is None or (isinstance(self.before, float) and self._without_bias):
            return x
        return torch.cat([x[:1] + self.of(torch.zeros_like(x[0]) + self.before), x[1:]])

    def added(self, x: Tensor, spikes: Tensor) -> Tensor:
        """The whole current, from the current from outside and all spikes, both `[T, B, *N]`."""
        heard = self.of(spikes[:-1].flatten(0, 1)).reshape(x[1:].shape)
        return torch.cat([self.with_first(x)[:1], x[1:] + heard])

    def numbers(self, like: Tensor) -> tuple[Tensor, Tensor | None]:
        """Weight and bias, for neurons `[N]` of the type of `like`."""
        if isinstance(self.back, Tensor):
            return self.back, self.bias
        if is_unmodified(self.back, nn.Linear):
            return self.back.weight, self.back.bias  # type: ignore[return-value]
        each = torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)
        bias = self.of(torch.zeros_like(each))
        return (self.of(each) - bias).t().contiguous(), bias[0]

    def throughout(self, like: Tensor) -> tuple[Tensor, Tensor | None] | None:
        """As `numbers`, with a bias that acts from the first step on; None if it does not."""
        weight, bias = self.numbers(like)
        fits = (self.before is None and bias is None) or isinstance(self.before, float)
        return (weight, bias) if fits and tuple(weight.shape) == (like.shape[-1],) * 2 else None

    @property
    def _without_bias(self) -> bool:
        return isinstance(self.back, Tensor | nn.Linear) and getattr(self.back, "bias", self.bias) is None


def run(x: Tensor, dynamics: Dynamics, initial: Sequence[Tensor | float], echo: Echo) -> Tensor:
    """Spikes `[T, B, *N]` for a current `x` from outside, in a fused loop if possible; the log says why not."""

    def fused() -> Tensor:
        demand_eager(x, ("cpu", "cuda"))
        numbers = [part for part in initial if not isinstance(part, Tensor)]
        demand(len(numbers) == len(initial), "the state before the first step differs between neurons")
        outside, own = echo.with_first(x), dynamics.to(x)
        if not isinstance(echo.back, Tensor) and is_unmodified(echo.back, *_CONVOLUTIONS):
            conv: nn.Conv2d = echo.back  # type: ignore[assignment]
            if conv.bias is not None:
                outside = torch.cat([outside[:1], outside[1:] + conv.bias.view(-1, *[1] * (x.ndim - 3))])
            return heard_map(own, numbers, conv, outside)
        demand(x.ndim == 3, f"neurons of the shape {tuple(x.shape[2:])} have no plain convolution as recurrence")
        return heard_spikes(own, numbers, *echo.numbers(x), outside)

    found = plan("a recurrent population", fused)
    return _by_steps(x, dynamics, initial, echo) if found is None else found


def _by_steps(x: Tensor, dynamics: Dynamics, initial: Sequence[Tensor | float], echo: Echo) -> Tensor:
    wide, advance = widened(x), step_by_step(dynamics)
    output: list[Tensor] = []
    state: Tensors = tuple(torch.zeros_like(wide[0]) + part for part in initial)
    for k, current in enumerate(echo.with_first(wide)):
        spikes, state = advance((current + echo.of(output[-1]) if k else current,), state)
        output.append(spikes)
    return torch.stack(output).to(x.dtype)
