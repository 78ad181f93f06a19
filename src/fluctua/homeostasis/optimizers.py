"""Optimisers by name: the paper's SMORMS3, and all of torch.optim."""

import math
from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor, nn


class SMORMS3(torch.optim.Optimizer):
    """Squared mean over root mean squared cubed (Funk 2015), the paper's optimiser.

    Each weight has its own step size and memory. With gradient `d`, `r = 1 / (m + 1)` and running averages
    `g <- (1-r) g + r d`, `s <- (1-r) s + r d^2`, the agreement of recent gradients is `x = g^2 / (s + eps)`; then
    `w <- w - d min(lr, x) / (sqrt(s) + eps)` and the memory becomes `m <- 1 + m (1 - x)`.

    Source: https://sifter.org/~simon/journal/20150420.html

    Args:
        params: parameters or parameter groups.
        lr: largest step in units of the gradient's root mean square; the paper uses 5e-3.
        eps: keeps the divisions finite; gradients far below `sqrt(eps)` hardly move a weight.

    Raises:
        ValueError: `lr` or `eps` is not a positive number.
    """

    def __init__(self, params: Iterable[Any], lr: float = 1e-3, eps: float = 1e-16) -> None:
        for name, value in (("lr", lr), ("eps", eps)):
            if not 0 < value < math.inf:
                raise ValueError(f"SMORMS3 needs a positive {name}, got {value}")
        super().__init__(params, {"lr": lr, "eps": eps})

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Move every parameter that has a gradient; `closure`, if given, recomputes the loss and the gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._move(weight, weight.grad, group["lr"], group["eps"])
        return loss

    def _move(self, weight: Tensor, grad: Tensor, lr: float, eps: float) -> None:
        state = self.state[weight]
        if not state:
            state["mem"] = torch.ones_like(weight)
            state["g"] = torch.zeros_like(weight)
            state["g2"] = torch.zeros_like(weight)
        mem, g, g2 = state["mem"], state["g"], state["g2"]
        r = 1.0 / (mem + 1.0)
        g.mul_(1.0 - r).addcmul_(r, grad)
        g2.mul_(1.0 - r).addcmul_(r, grad.square())
        agreement = g.square() / (g2 + eps)
        mem.mul_(1.0 - agreement).add_(1.0)
        weight.sub_(grad * agreement.clamp(max=lr) / (g2.sqrt() + eps))


def make_optimizer(name: str, parameters: Iterable[nn.Parameter], lr: float, **options: Any) -> torch.optim.Optimizer:
    """Build an optimiser.

    Args:
        name: `"smorms3"` or a class of `torch.optim`, in any case: `"adam"`, `"AdamW"`, `"sgd"`, ...
        parameters: what to optimise.
        lr: learning rate.
        options: passed on to the optimiser, such as `weight_decay`.

    Raises:
        ValueError: an unknown optimiser.
    """
    return optimizer_by_name(name)(parameters, lr=lr, **options)


def optimizer_by_name(name: str) -> Callable[..., torch.optim.Optimizer]:
    """Look up an optimiser's class, see `make_optimizer`."""
    classes: dict[str, Callable[..., torch.optim.Optimizer]] = {
        key.lower(): value
        for key, value in vars(torch.optim).items()
        if isinstance(value, type) and issubclass(value, torch.optim.Optimizer) and value is not torch.optim.Optimizer
    }
    classes["smorms3"] = SMORMS3
    if name.lower() not in classes:
        raise ValueError(
            f"optimiser {name!r} is unknown: choose smorms3, adam, adamw, sgd, rmsprop or another class of torch.optim"
        )
    return classes[name.lower()]
