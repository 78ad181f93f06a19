"""Laws of trunks: every reader finds what it wants on them, and no branch is switched off."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fluctua
from fluctua.methods.trunk import GROWTH, _isotonic, trunks
from fluctua.network import Network
from fluctua.neurons import LI, LIF
from fluctua.theory import Target
from shared.free import free_potentials, sigma
from shared.spikes import spikes

N, BLOCKS = 32, 4
BATCH = spikes(60, 16, 40, p=0.15)


def linear(n: int = N, bias: bool = False) -> nn.Linear:
    return nn.Linear(n, N, bias=bias)


class Branch(nn.Module):
    """A membrane shortcut around two neurons and two weights."""

    def __init__(self, *, norm: bool = False, in_place: bool = False, scale: float = 1.0) -> None:
        super().__init__()
        self.one, self.first, self.two, self.second = LIF(), linear(), LIF(), linear()
        self.norm = nn.LayerNorm(N) if norm else nn.Identity()
        self.in_place, self.scale = in_place, nn.Parameter(torch.full((N,), scale))

    def forward(self, x: Tensor) -> Any:
        added = self.scale * self.norm(self.second(self.two(self.first(self.one(x)))))
        if not self.in_place:
            return x + added
        x += added
        return x


class Trunk(nn.Module):
    """A stem, branches that add to it, and a last reader."""

    def __init__(self, blocks: int = BLOCKS, last: nn.Module | None = None, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.blocks = linear(40), nn.Sequential(*(Branch(**options) for _ in range(blocks)))
        self.last, self.head, self.out = last or LIF(), nn.Linear(N, 3), LI()

    def forward(self, x: Tensor) -> Any:
        return self.out(self.head(self.last(self.blocks(self.stem(x)))))

    @property
    def readers(self) -> list[str]:
        return [*(f"blocks.{k}.one" for k in range(len(self.blocks))), "last"]

    def branch_gradients(self) -> list[float]:
        """Norms of the gradients of all weights in branches."""
        self.zero_grad()
        self(BATCH).square().mean().backward()
        named = self.blocks.named_parameters()
        return [float(p.grad.norm()) for _, p in named if p.grad is not None and p.ndim > 1]


KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "norm behind each branch": {"norm": True},
    "small gains of the branches": {"scale": 1e-2},
    "eight branches": {"blocks": 8},
}


@pytest.mark.parametrize(
    ("kind", "target"),
    [*((kind, Target()) for kind in KINDS), ("plain", Target(xi=2.0)), ("plain", Target(mean=0.3))],
    ids=[*KINDS, "xi=2", "mean"],
)
def test_every_reader_is_near_its_target_and_no_branch_is_switched_off(kind: str, target: Target) -> None:
    model = Trunk(**KINDS[kind])
    report = fluctua.initialize(model, BATCH, target, seed=0)
    wanted = (1 - target.mean) / (target.xi or 1.0)
    found = free_potentials(model, BATCH)
    for name, u in found.items():
        tolerance = 0.081 if name in model.readers else 0.01
        assert sigma(u) == pytest.approx(wanted, rel=tolerance)
        assert float(u.mean()) == pytest.approx(target.mean, abs=0.01)
        assert report[name].sigma_u == pytest.approx(sigma(u), rel=1e-3)
    rising = [sigma(found[name]) for name in model.readers]
    assert rising == pytest.approx(
        [rising[0] * GROWTH ** (k / 2 / len(model.blocks)) for k in range(len(rising))], rel=0.01
    )
    gradients = model.branch_gradients()
    assert max(gradients) < 100 * min(gradients)
    assert any("read one trunk" in note and "0.93 to 1.08 of the target" in note for note in report.notes)
    assert not any("shared with" in note for note in report.notes)


def test_the_same_holds_in_place() -> None:
    model, other = Trunk(in_place=True), Trunk()
    fluctua.initialize(model, BATCH, seed=0)
    fluctua.initialize(other, BATCH, seed=0)
    torch.testing.assert_close(model.state_dict(), other.state_dict())


def test_a_rate_is_met_about_the_middle_of_the_trunk() -> None:
    model = Trunk()
    report = fluctua.initialize(model, BATCH, Target(rate=10.0), seed=0)
    rates = [report[name].rate or 0.0 for name in model.readers]
    assert rates[0] < 10 < rates[-1]
    assert all(5 < rate < 15 for rate in rates)


def test_a_reader_with_a_norm_of_its_own_is_at_its_target_exactly() -> None:
    class Normed(Branch):
        def __init__(self) -> None:
            super().__init__()
            self.before = nn.LayerNorm(N)

        def forward(self, x: Tensor) -> Any:
            return x + self.second(self.two(self.first(self.one(self.before(x)))))

    model = Trunk()
    model.blocks = nn.Sequential(*(Normed() for _ in range(BLOCKS)))
    fluctua.initialize(model, BATCH, seed=0)
    found = free_potentials(model, BATCH)
    assert [sigma(found[name]) for name in model.readers[:-1]] == pytest.approx([1.0] * BLOCKS, rel=0.01)
    assert min(model.branch_gradients()) > 0


def test_a_trunk_rises_to_a_higher_threshold() -> None:
    model = Trunk(last=LIF(threshold=2.0))
    fluctua.initialize(model, BATCH, seed=0)
    assert sigma(free_potentials(model, BATCH)["last"]) == pytest.approx(2.0, rel=0.1)


def test_a_lower_threshold_at_the_end_is_warned_of() -> None:
    model = Trunk(last=LIF(threshold=0.5))
    report = fluctua.initialize(model, BATCH, seed=0)
    assert any("last 1.88 read one trunk" in warning for warning in report.warnings)
    gradients = model.branch_gradients()
    assert max(gradients) < 100 * min(gradients)


def test_what_reads_a_trunk_is_known_and_what_shares_a_weight_alone_does_not() -> None:
    model = Trunk(blocks=2)
    (readers,) = trunks(Network.of(model, BATCH).populations)
    assert [p.name for p in readers] == model.readers
    layer = linear()
    other = nn.Sequential(linear(40), LIF(), layer, LIF(), layer, LIF())
    assert trunks(Network.of(other, BATCH).populations) == []


def test_readers_between_two_additions_find_the_same() -> None:
    class Two(Trunk):
        def __init__(self) -> None:
            super().__init__(blocks=2)
            self.query, self.key, self.value = LIF(), LIF(), linear()

        def forward(self, x: Tensor) -> Any:
            x = self.blocks(self.stem(x))
            return self.out(self.head(self.last(x + self.value(self.query(x) * self.key(x)))))

    model = Two()
    fluctua.initialize(model, BATCH, seed=0)
    found = {name: sigma(u) for name, u in free_potentials(model, BATCH).items()}
    assert found["query"] == found["key"] < found["last"] == pytest.approx(GROWTH**0.25, rel=0.01)


def test_the_nearest_numbers_that_do_not_fall() -> None:
    assert _isotonic([1.0, 2.0, 3.0]) == [1.0, 2.0, 3.0]
    assert _isotonic([3.0, 2.0, 1.0]) == [2.0, 2.0, 2.0]
    assert _isotonic([1.0, 3.0, 2.0, 4.0]) == [1.0, 2.5, 2.5, 4.0]


# -- what is shared otherwise than along a trunk ----------------------------------------------------------------------


class TwoNorms(nn.Module):
    """One weight that two neurons read, each behind a norm of its own, and a third that hears both."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.before, self.other = linear(40), nn.LayerNorm(N), nn.LayerNorm(N)
        self.query, self.key, self.value, self.last = LIF(), LIF(), linear(), LIF()

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        return self.last(self.value(self.query(self.before(x)) + self.key(self.other(x))))


@pytest.mark.parametrize("frozen", [False, True])
def test_a_norm_is_set_also_where_its_weight_is_not(frozen: bool) -> None:
    model = TwoNorms()
    model.stem.weight.requires_grad_(not frozen)
    before = model.stem.weight.detach().clone()
    report = fluctua.initialize(model, BATCH, Target(xi=2.0), seed=0)
    assert torch.equal(model.stem.weight, before) == frozen
    assert [sigma(u) for u in free_potentials(model, BATCH).values()] == pytest.approx([0.5] * 3, rel=0.01)
    assert report["key"].target_sigma_u == 0.5


def test_the_rows_that_only_a_later_population_reads_are_balanced_too() -> None:
    class Half(nn.Module):
        """A shortcut around half of the units, as in cross-stage partial networks."""

        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.stem, self.branch, self.first, self.last = linear(40), nn.Linear(N // 2, N // 2), LIF(), LIF()

        def forward(self, x: Tensor) -> Any:
            kept, used = self.stem(x).chunk(2, -1)
            return self.last(torch.cat([kept, used + self.branch(self.first(used))], -1))

    model = Half()
    fluctua.initialize(model, BATCH, seed=0)
    u = free_potentials(model, BATCH)["last"]
    assert float(u.mean((0, 1)).std()) < 0.05
    assert sigma(u) == pytest.approx(1.0, rel=0.1)
