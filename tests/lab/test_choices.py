"""Laws of the names on the command line: they are those of what is chosen."""

from enum import StrEnum

import pytest

pytest.importorskip("typer")

from fluctua.lab.choices import Experiment, Loss, Method, Model, Recipe, Schedule
from fluctua.lab.networks import LABELS, NETWORKS
from fluctua.lab.recipes import RECIPES
from fluctua.lab.studies import STUDIES
from fluctua.lab.training import LOSSES
from fluctua.lab.training.schedules import SCHEDULES


@pytest.mark.parametrize(
    ("choices", "names"),
    [
        (Model, set(NETWORKS)),
        (Method, set(LABELS)),
        (Recipe, set(RECIPES)),
        (Loss, set(LOSSES)),
        (Schedule, set(SCHEDULES)),
        (Experiment, {"paper", *STUDIES}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_every_name_can_be_chosen_and_stands_for_something(choices: type[StrEnum], names: set[str]) -> None:
    assert set(choices) == names


def test_networks_for_images_come_last() -> None:
    assert list(Model)[-5:] == [name for name, a in NETWORKS.items() if len(a.shape) == 3]
