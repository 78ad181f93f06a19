"""The modules of one kind in a model."""

from typing import TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


def parts(module: nn.Module, kind: type[M]) -> list[M]:
    return [m for m in module.modules() if isinstance(m, kind)]
