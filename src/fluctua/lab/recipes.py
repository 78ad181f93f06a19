"""Training recipes by name: everything except data, duration and seed."""

from collections.abc import Mapping
from dataclasses import dataclass
from inspect import signature
from types import MappingProxyType
from typing import Any

from fluctua.homeostasis.optimizers import optimizer_by_name
from fluctua.lab.training.settings import TrainSettings


@dataclass(frozen=True, kw_only=True)
class Ingredients:
    """The parts of a recipe.

    Attributes:
        model: name of the network in `lab.networks`.
        loss: name of the loss, see `fluctua.lab.training.LOSSES`.
        optimizer: name of the optimiser, see `make_optimizer`.
        lr: learning rate; its maximum if it changes.
        weight_decay: of the optimiser.
        schedule: of the learning rate, see `TrainSettings`.
        warmup: epochs over which it rises.
        augment: whether training samples are augmented, with new draws in every epoch.
    """

    model: str = "fc"
    loss: str = "max_over_time"
    optimizer: str = "adam"
    lr: float = 5e-3
    weight_decay: float = 0.0
    schedule: str = "constant"
    warmup: float = 0.0
    augment: bool = False

    def settings(self, *, epochs: int, seed: int, **others: Any) -> TrainSettings:
        """The settings for `fit`; `others` are added.

        Raises:
            ValueError: a setting out of range, or a weight decay for an optimiser that has none.
        """
        decays = "weight_decay" in signature(optimizer_by_name(self.optimizer)).parameters
        if self.weight_decay and not decays:
            raise ValueError(
                f"the optimiser {self.optimizer} has no weight decay, but {self.weight_decay:g} was asked for: "
                "set it to 0, or choose adamw"
            )
        return TrainSettings(
            epochs=epochs,
            lr=self.lr,
            optimizer=self.optimizer,
            # Pass a decay of 0 too: AdamW has another default.
            optimizer_options={"weight_decay": self.weight_decay} if decays else {},
            loss=self.loss,
            schedule=self.schedule,
            warmup=self.warmup,
            seed=seed,
            **others,
        )


RECIPES: Mapping[str, Ingredients] = MappingProxyType(
    {
        "plain": Ingredients(),
        "paper": Ingredients(optimizer="smorms3"),
        "modern": Ingredients(
            model="modern",
            loss="sum_of_softmax",
            optimizer="adamw",
            lr=1e-2,
            weight_decay=1e-2,
            schedule="cosine",
            augment=True,
        ),
    }
)
"""The paper's loss with Adam; with its own optimiser; and what the field has added since."""


def recipe_by_name(name: str) -> Ingredients:
    """Look up one of `RECIPES`.

    Raises:
        ValueError: an unknown recipe.
    """
    if name not in RECIPES:
        raise ValueError(f"unknown recipe {name!r}: choose one of {', '.join(RECIPES)}")
    return RECIPES[name]
