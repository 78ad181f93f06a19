"""The modules and parameters of a model.

Some frameworks override `modules()` and `parameters()` to return dictionaries, so torch's own are called here.
"""

from collections.abc import Iterator

from torch import nn


def modules_of(model: nn.Module) -> Iterator[nn.Module]:
    """As `model.modules()`."""
    return nn.Module.modules(model)


def named_modules_of(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """As `model.named_modules()`."""
    named: Iterator[tuple[str, nn.Module]] = nn.Module.named_modules(model)
    return named


def parameters_of(model: nn.Module, recurse: bool = True) -> Iterator[nn.Parameter]:
    """As `model.parameters()`."""
    return nn.Module.parameters(model, recurse)


def named_parameters_of(model: nn.Module, recurse: bool = True) -> Iterator[tuple[str, nn.Parameter]]:
    """As `model.named_parameters()`."""
    return nn.Module.named_parameters(model, recurse=recurse)
