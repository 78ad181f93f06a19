from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from fluctua.homeostasis import ActivityBound
from fluctua.homeostasis.bounds import paper_bounds

FORMS = list(product(("lower", "upper"), (1, 2), ("neuron", "channel", "population")))
T = 6


def trains(*shape: int) -> Tensor:
    """Spikes [T, *shape] as float64, about half of them 1."""
    return torch.rand(T, *shape, generator=torch.Generator().manual_seed(1)).round().double()


def formula(spikes: Tensor, kind: str, threshold: float, strength: float, order: int, per: str) -> float:
    """The definition, sample by sample and neuron by neuron."""
    penalties: list[float] = []
    for sample in spikes.unbind(1):
        counts = sample.sum(0)  # [C, ...]
        if per == "neuron":
            units = counts.flatten().tolist()
        elif per == "channel":
            units = [channel.mean().item() for channel in counts]
        else:
            units = [counts.mean().item()]
        for count in units:
            excess = threshold - count if kind == "lower" else count - threshold
            penalties.append(max(excess, 0.0) ** float(order))
    return strength * sum(penalties) / len(penalties)


@pytest.mark.parametrize("shape", [(4, 5), (4, 3, 5), (2, 3, 2, 2)])
@pytest.mark.parametrize(("kind", "order", "per"), FORMS)
def test_penalty_follows_the_formula(kind: Any, order: Any, per: Any, shape: tuple[int, ...]) -> None:
    spikes = trains(*shape)
    penalty = ActivityBound(kind, threshold=3.1, strength=0.7, order=order, per=per)(spikes)
    assert penalty.item() == pytest.approx(formula(spikes, kind, 3.1, 0.7, order, per))


@pytest.mark.parametrize(("kind", "order", "per"), FORMS)
def test_gradient_is_right(kind: Any, order: Any, per: Any) -> None:
    bound = ActivityBound(kind, threshold=3.1, strength=0.7, order=order, per=per)
    assert torch.autograd.gradcheck(bound, trains(3, 2, 2).requires_grad_())


def test_gradient_of_the_papers_lower_bound_by_hand() -> None:
    spikes = torch.zeros(T, 2, 5)
    spikes[:, :, 0] = 1.0  # one neuron fires, the others are silent
    spikes.requires_grad_()
    lower, _ = paper_bounds("shd")
    (gradient,) = torch.autograd.grad(lower(spikes), spikes)
    push = -2 * 100 * 1e-3 / (2 * 5)
    torch.testing.assert_close(gradient[:, :, 1:], torch.full((T, 2, 4), push))
    assert not gradient[:, :, 0].any()


@pytest.mark.parametrize(("kind", "order", "per"), FORMS)
def test_a_bound_that_is_kept_costs_nothing(kind: Any, order: Any, per: Any) -> None:
    threshold = 0.0 if kind == "lower" else float(T)
    spikes = trains(4, 3, 5).requires_grad_()
    penalty = ActivityBound(kind, threshold, order=order, per=per)(spikes)
    (gradient,) = torch.autograd.grad(penalty, spikes)
    assert penalty.item() == 0.0
    assert not gradient.any()


def test_a_population_may_share_what_a_neuron_may_not() -> None:
    spikes = torch.zeros(T, 1, 3)
    spikes[:, :, 0] = 1.0
    assert ActivityBound("upper", 3.0, per="population")(spikes).item() == 0.0
    assert ActivityBound("upper", 3.0, per="neuron")(spikes).item() > 0.0


def test_spikes_may_be_bool() -> None:
    spikes = trains(4, 5)
    bound = ActivityBound("upper", 1.0, per="population")
    assert bound(spikes.bool()).item() == pytest.approx(bound(spikes).item())


@pytest.mark.parametrize("settings", [{"kind": "both"}, {"order": 3}, {"per": "layer"}, {"threshold": -1.0}])
def test_senseless_settings_are_refused(settings: dict[str, Any]) -> None:
    fine: dict[str, Any] = {"kind": "lower", "threshold": 1.0}
    with pytest.raises(ValueError, match=next(iter(settings))):
        ActivityBound(**fine | settings)


def test_spikes_without_neurons_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[T, B, \.\.\.\]"):
        ActivityBound("lower", 1.0)(torch.zeros(T, 4))


def test_an_unknown_experiment_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="randman, shd"):
        paper_bounds("mnist")
