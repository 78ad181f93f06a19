"""The initialisers of artificial neural networks. They know nothing of time constants, time steps or firing rates."""

import math
from typing import Any

import torch
from torch import nn

from fluctua.methods.drawing import normal, write
from fluctua.network.adapters.registry import members_of
from fluctua.network.batch import new_generator
from fluctua.network.modules import modules_of
from fluctua.network.preserve import Forward, gpus_of, plain_call


def kaiming(
    model: nn.Module,
    batch: Any = None,
    *,
    seed: int | None = None,
    forward: Forward = plain_call,
    gain: float = 1.0,
) -> None:
    """`N(0, gain^2 / fan_in)` for every trained weight of two or more dimensions, zero for every bias, in place.

    He et al. 2015; `gain=1` is what the paper compares itself with, `gain=sqrt(2)` the choice for ReLUs. Parameters of
    neurons stay as they are. The batch is not looked at.

    Raises:
        ValueError: a layer under Dale's law, whose weights must not have both signs.
    """
    draw_kaiming(model, new_generator(seed, None), gain)


def folded_kaiming(
    model: nn.Module, batch: Any = None, *, seed: int | None = None, forward: Forward = plain_call
) -> None:
    """`kaiming`, of whose draws a layer under Dale's law gets the absolute values; in place.

    What somebody does who knows Kaiming's initialiser and needs weights of one sign: their second moment is Kaiming's,
    but nothing balances excitation and inhibition. The batch is not looked at.
    """
    _draw(model, new_generator(seed, None), gain=1.0)
    for module in modules_of(model):
        if hasattr(module, "sign"):
            for weight in module.parameters(recurse=False):
                write(weight, weight.detach().abs())


def draw_kaiming(model: nn.Module, generator: torch.Generator, gain: float = 1.0) -> None:
    """`kaiming` with draws from a generator that goes on being used."""
    _refuse_signs(model)
    _draw(model, generator, gain)


def _draw(model: nn.Module, generator: torch.Generator, gain: float) -> None:
    for weight in _weights(model):
        write(weight, normal(weight, generator) * gain / math.sqrt(weight[0].numel()))


def xavier(
    model: nn.Module,
    batch: Any = None,
    *,
    seed: int | None = None,
    forward: Forward = plain_call,
    gain: float = 1.0,
) -> None:
    """`N(0, 2 gain^2 / (fan_in + fan_out))`, else as `kaiming`.

    Glorot & Bengio 2010, whose variance is certain; they drew from a uniform law, here it is the normal one that the
    other methods have.
    """
    _refuse_signs(model)
    generator = new_generator(seed, None)
    for weight in _weights(model):
        fans = weight[0].numel() + weight[:, 0].numel()
        write(weight, normal(weight, generator) * gain * math.sqrt(2 / fans))


def torch_default(
    model: nn.Module, batch: Any = None, *, seed: int | None = None, forward: Forward = plain_call
) -> None:
    """What torch starts every layer with, its biases included: `reset_parameters()` of all modules that have it.

    For `nn.Linear` and convolutions this is uniform with variance `1 / (3 fan_in)`, weights and biases alike. Torch's
    own generators give the draws, and are put back. The batch is not looked at.
    """
    seed = new_generator(seed, None).initial_seed()
    with torch.random.fork_rng(gpus_of(model)):
        torch.manual_seed(seed)
        for module in modules_of(model):
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()


def _refuse_signs(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if hasattr(module, "sign"):
            raise ValueError(
                f"{name} is a layer under Dale's law, whose weights have one sign, and this method draws both signs: "
                "use 'torch', 'kaiming-folded' or 'ei-init'"
            )


def _weights(model: nn.Module) -> list[nn.Parameter]:
    """All trained weights; the biases are set to zero on the way."""
    weights: dict[nn.Parameter, None] = {}
    for module in modules_of(model):
        if not members_of(module):
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.requires_grad and parameter.ndim >= 2:
                    weights[parameter] = None
                elif parameter.requires_grad and name == "bias":
                    write(parameter, torch.zeros_like(parameter))
    return list(weights)
