"""Weights that a model computes at every step are the same at each of them, if they are; else the model is refused."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import fluctua
from fluctua.fusion import FuseError
from shared.fused_networks import INPUTS, SAMPLES, STEPS, SnnLoop, assert_each_alike, spikes, woken

BATCH = spikes(STEPS, SAMPLES, INPUTS)


class LowRank(nn.Linear):
    """A weight with an adapter of rank two."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__(base.in_features, base.out_features)
        self.load_state_dict(base.state_dict())
        self.a = nn.Parameter(torch.randn(self.out_features, 2, generator=torch.Generator().manual_seed(0)))
        self.b = nn.Parameter(torch.randn(2, self.in_features, generator=torch.Generator().manual_seed(1)))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight + self.a @ self.b, 2 * self.bias)


class Masked(nn.Linear):
    """A mask of other entries at every step, or of the same."""

    def __init__(self, base: nn.Linear, *, anew: bool) -> None:
        super().__init__(base.in_features, base.out_features)
        self.load_state_dict(base.state_dict())
        self.anew, self.calls = anew, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        rows = torch.arange(self.out_features)[:, None]
        mask = (rows + self.calls * self.anew) % 2 == 0
        return nn.functional.linear(x, self.weight * mask, self.bias)


COMPUTED: dict[str, Callable[[nn.Linear], nn.Module]] = {
    "weight norm": parametrizations.weight_norm,
    "orthogonal": parametrizations.orthogonal,
    "spectral norm in eval": lambda layer: parametrizations.spectral_norm(layer).eval(),
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),  # type: ignore[no-untyped-call]
    "low rank": LowRank,
    "masked": lambda layer: Masked(layer, anew=False),
}


def changed(change: Callable[[nn.Linear], nn.Module]) -> Any:
    """A loop over time whose second layer has a computed weight."""
    model: Any = woken(SnnLoop(), gain=4.0)
    torch.manual_seed(0)
    model.fc2 = change(model.fc2)
    return model


@pytest.mark.parametrize("name", COMPUTED)
def test_a_weight_that_is_computed_anew_is_multiplied_once(name: str) -> None:
    model = changed(COMPUTED[name])
    fast = fluctua.fuse(model, BATCH)
    assert_each_alike(fast, model, BATCH, model.parameters())
    model.requires_grad_(False)  # no graph tells how it was computed
    assert torch.equal(fast(BATCH)[0], model(BATCH)[0])


class Weighed(SnnLoop):
    """A learned weight for each step, all equal at first, and a bias of zero of which a part is dropped."""

    def __init__(self) -> None:
        super().__init__()
        self.of_steps, self.bias = (
            nn.Parameter(torch.full((STEPS,), 0.5)),
            nn.Parameter(torch.zeros(self.fc1.out_features)),
        )

    def forward(self, x: Tensor) -> Any:
        mem1, out = self.lif1.reset_mem(), torch.zeros(())
        keep = torch.arange(self.fc1.out_features) % 2
        for t, step in enumerate(x):
            spk1, mem1 = self.lif1(self.fc1(step), mem1)
            out = out + (spk1 + self.bias * (keep if t % 4 else 1 - keep)) * self.of_steps[t]
        return out


def test_equal_values_of_other_entries_are_not_the_same() -> None:
    model: Any = woken(Weighed(), gain=4.0)
    learned = model.of_steps, model.bias
    assert_each_alike(fluctua.fuse(model, BATCH), model, BATCH, learned)
    assert all(p.grad.unique().numel() > 2 for p in learned)


@pytest.mark.parametrize(
    "change",
    [parametrizations.spectral_norm, lambda layer: Masked(layer, anew=True)],
    ids=["spectral norm in training", "a mask that changes"],
)
def test_a_weight_that_is_another_at_every_step_is_refused(change: Callable[[nn.Linear], nn.Module]) -> None:
    with pytest.raises(FuseError, match="with weights or random numbers that change from step to step"):
        fluctua.fuse(changed(change), BATCH)
