"""The rivals by name, all called alike."""

import math
from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, Protocol

from torch import nn

from fluctua.methods.baselines.classic import folded_kaiming, kaiming, torch_default, xavier
from fluctua.methods.baselines.ding import ding
from fluctua.methods.baselines.ei_init import ei_init
from fluctua.methods.baselines.lsuv import lsuv
from fluctua.methods.baselines.micheli import micheli
from fluctua.methods.baselines.spikeinit import spikeinit, spikeinit_sim
from fluctua.methods.baselines.tdbn import tdbn
from fluctua.network.preserve import Forward, plain_call


class Baseline(Protocol):
    """An initialiser: overwrites the parameters of a model in place."""

    def __call__(
        self, model: nn.Module, batch: Any = None, *, seed: int | None = None, forward: Forward = plain_call
    ) -> None:
        """Initialise a model.

        Args:
            model: of known neurons; its weights are overwritten, its biases too.
            batch: input `[T, B, ...]` as in training; the ANN initialisers do without.
            seed: of the draws; default: drawn from torch's generator.
            forward: `forward(model, batch)` runs all time steps, where a plain call does not.
        """


BASELINES: Mapping[str, Baseline] = MappingProxyType(
    {
        "kaiming": kaiming,
        "kaiming-relu": partial(kaiming, gain=math.sqrt(2)),
        "xavier": xavier,
        "torch": torch_default,
        "ding": ding,
        "micheli": micheli,
        "spikeinit": spikeinit,
        "spikeinit-sim": spikeinit_sim,
        "tdbn": tdbn,
        "lsuv": lsuv,
    }
)

DALE_BASELINES: Mapping[str, Baseline] = MappingProxyType({"ei-init": ei_init, "kaiming-folded": folded_kaiming})
"""Those for networks with layers under Dale's law."""


def baseline(name: str) -> Baseline:
    """The initialiser of that name.

    Raises:
        ValueError: an unknown name; lists the known ones.
    """
    known = {**BASELINES, **DALE_BASELINES}
    if name not in known:
        raise ValueError(f"unknown baseline {name!r}: choose one of {', '.join(known)}")
    return known[name]
