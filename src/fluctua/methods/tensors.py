"""Measured initialisation of a plain weight tensor, for hand-written networks."""

import math

import torch
from torch import Tensor, nn

from fluctua.methods.balance import Balance
from fluctua.methods.measured import Measured, fit
from fluctua.methods.population import Goal
from fluctua.methods.weights import check_given, new_generator
from fluctua.network.facts import INPUT, Neuron, Pathway, Population
from fluctua.network.preserve import all_or_nothing
from fluctua.network.replay import Replay
from fluctua.network.run import plain_call
from fluctua.theory.psp import PspKernel, number
from fluctua.theory.target import Target


class _Layer(nn.Module):
    def __init__(self, weight: Tensor, bias: Tensor | None, rows: int) -> None:
        super().__init__()
        self.rows, self.weight = rows, nn.Parameter(weight.detach())  # the same memory
        self.bias = None if bias is None else nn.Parameter(bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        current = x @ self.weight.transpose(0, 1 - self.rows)
        return current if self.bias is None else current + self.bias


@all_or_nothing
def measured_(
    weight: Tensor,
    x: Tensor,
    *,
    kernel: PspKernel,
    target: Target | None = None,
    threshold: float | None = 1.0,
    bias: Tensor | None = None,
    share: float = 1.0,
    rows: int | None = None,
    time: int = 0,
    balance: Balance = "auto",
    seed: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Fill a weight in place so that the potential it causes on a batch has the target's moments.

    This is `Measured` for one weight and the neurons that it feeds; neither needs to be a module. The input from
    several weights to one population adds up: give each its `share` of the variance, such as 0.9 to the weight from
    outside and 0.1 to the recurrent one, on spikes at the rate that you expect.

    Args:
        weight: `[out, in]` or `[in, out]`.
        x: the input of the weight, `[T, B, in]`: the data, or spikes of the layer before.
        kernel: kernel of the neurons; `PspKernel.by_update` has those of common updates.
        target: the wanted state (default: mean 0, xi = 1).
        threshold: threshold of the neurons; None for a readout, whose target is a `sigma`.
        bias: `[out]`; set if the mean calls for one, else to zero.
        share: of the variance of U that this weight should supply.
        rows: axis of the weight that counts output units; needed only if it is square.
        time: axis of `x` that is time, 1 for `[B, T, in]`.
        balance: see `Measured`.
        seed: for the draw; default: torch's own generator.
        generator: for the draw, instead of a seed.

    Returns:
        The weight.

    Raises:
        ValueError: shapes that do not match, or a square weight without `rows`.
        SilentInputError: no input, or none in time.
        InfeasibleTargetError: a target out of reach.

    After any error weight and bias are as they were.

    Example:
        >>> from fluctua import PspKernel
        >>> x = (torch.rand(100, 16, 30, generator=torch.Generator().manual_seed(0)) < 0.1).float()
        >>> w = torch.empty(30, 20, requires_grad=True)
        >>> _ = measured_(w, x, kernel=PspKernel.by_update("leaky", beta=0.9), seed=0)
        >>> u, potentials = torch.zeros(16, 20), []
        >>> for now in x:  # the free potential by hand
        ...     u = 0.9 * u + now @ w.detach()
        ...     potentials.append(u)
        >>> print(f"{torch.stack(potentials).std():.2f}")
        1.00
    """
    check_given(kernel, target, weight=weight)
    if not (isinstance(x, Tensor) and x.isfinite().all()):
        raise ValueError(
            f"x must be a tensor of finite numbers, got {type(x).__name__}: remove NaN and infinite values"
        )
    rows, balance = _rows(weight, x, rows), Measured(balance=balance).balance
    if time not in (0, 1) or not 0 < number(share) <= 1:
        raise ValueError(f"time must be 0 or 1, and share above 0 and at most 1, got {time} and {share}")
    if bias is not None and bias.shape != (weight.shape[rows],):
        raise ValueError(f"a bias has one entry for each of {weight.shape[rows]} units, got {[*bias.shape]}")
    wanted = target or Target()
    sigma = wanted.sigma_u(threshold, kernel) * math.sqrt(share)
    layer, neurons = _Layer(weight, bias, rows), nn.Identity()
    pathway = Pathway("weight", layer, "weight", (INPUT,), rows=rows)
    population = Population("the potential", neurons, Neuron((kernel,), threshold), (pathway,), (), neurons)
    goal = Goal(Target(wanted.mean, sigma=float(sigma)), balance)
    batch = x.detach().transpose(0, time).to(weight)
    replay = Replay(nn.Sequential(layer, neurons), batch, plain_call, [population])
    fit(population, goal, replay, new_generator(seed, generator))
    return weight


def _rows(weight: Tensor, x: Tensor, rows: int | None) -> int:
    """The axis of the weight that counts output units."""
    shapes = f"got the weight {[*weight.shape]} and x {[*x.shape]}"
    if weight.ndim != 2 or x.ndim != 3:
        raise ValueError(f"measured_ needs a weight of two axes and x [T, B, in], {shapes}")
    fitting = [axis for axis in (0, 1) if weight.shape[1 - axis] == x.shape[2] and rows in (None, axis)]
    if not fitting:
        raise ValueError(f"no axis of the weight has as many entries as x has inputs, {shapes}")
    if len(fitting) > 1:
        raise ValueError(f"say which axis of a square weight counts output units: rows=0 for [out, in] or 1, {shapes}")
    return fitting[0]
