"""Laws of homeostatic plasticity: rates, counted by running the network, come to their targets; all else stays."""

import dataclasses
import io
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import fluctua
from fluctua import Target
from fluctua.homeostasis import ActivityBound, prime, scale_synapses
from fluctua.homeostasis.bounds import paper_bounds
from fluctua.homeostasis.refinement import Refinement, TrainingDiverged
from fluctua.lab.data import SHDFile, bin_events
from fluctua.lab.networks import feed_forward
from fluctua.layers import DaleLayer, OverTime, Recurrent
from fluctua.methods import Poisson
from fluctua.network import Network
from fluctua.network.errors import BatchError
from fluctua.neurons import LI, LIF
from shared.spikes import spikes as random_spikes

DT = 2e-3
STEPS, SAMPLES, N_IN = 150, 16, 60
RATE = 20.0  # Hz: 96 spikes of a neuron in the batch, so that a tenth of that can be told


spikes = partial(random_spikes, p=0.06)


X = spikes(STEPS, SAMPLES, N_IN)


@pytest.mark.parametrize("bad", [X[:, :0], X * torch.nan], ids=["empty", "NaN"])
def test_a_later_batch_that_holds_nothing_is_told_of_and_no_step_taken(bad: Tensor) -> None:
    model = silent(2)
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(BatchError, match="is empty or has NaN or infinite values: leave it out"):
        prime(model, [X, bad], seed=0)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_priming_leaves_the_gradients_of_the_user_alone() -> None:
    model = silent(2)
    model(X).square().sum().backward()
    given = [(p, p.grad, torch.clone(p.grad)) for p in model.parameters() if p.grad is not None]
    prime(model, X, epochs=3, seed=0)
    assert given
    assert all(p.grad is grad and torch.equal(grad, value) for p, grad, value in given)


def test_rates_are_per_step_where_time_counts_in_steps() -> None:
    snn = pytest.importorskip("snntorch")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(N_IN, 32), snn.Leaky(beta=0.9, init_hidden=True))
    table = str(found := scale_synapses(model, X, rate=0.03))
    assert table.startswith("population  per step before  per step after  within tolerance")
    assert f"{found.after['1']:.3f}" in table
    assert found.after["1"] == pytest.approx(0.03, rel=0.2)


def deep(depth: int, width: int = 32) -> nn.Sequential:
    return feed_forward(N_IN, 5, width=width, depth=depth, dt=DT, duration=STEPS * DT)


def silent(depth: int) -> nn.Sequential:
    """By Kaiming."""
    model = deep(depth)
    fluctua.initialize(model, X, method="kaiming", seed=0)
    return model


def fading(depth: int) -> nn.Sequential:
    """By the paper's formula at xi = 2, with the input's rate for every layer."""
    model = deep(depth)
    fluctua.initialize(model, X, Target(xi=2.0), method="poisson", seed=0)
    return model


def roaring(depth: int) -> nn.Sequential:
    model = deep(depth)
    fluctua.initialize(model, X, seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0)
    return model


def conv() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        OverTime(nn.Conv1d(1, 8, 7, stride=2, bias=False)),
        LIF(),
        OverTime(nn.AvgPool1d(2)),
        OverTime(nn.Conv1d(8, 6, 3, groups=2, bias=False)),
        nn.Flatten(2),
        LIF(),
    )


def recurrent() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(N_IN, 32, bias=False), Recurrent(LIF(), nn.Linear(32, 32, bias=False)), nn.Linear(32, 5), LI()
    )


def dale() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(DaleLayer(N_IN, 24), nn.Linear(24, 5), LI())


def counted(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Firing rate in Hz of every neuron `[*N]` of each spiking population, by its name."""
    return {name: spikes.mean((0, 1)) / DT for name, spikes in Network.of(model, x).spikes().items()}


def values(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def parameter(model: nn.Module, name: str) -> Tensor:
    return dict(model.named_parameters())[name]


# --- scaling: where it leads ---

STARTS: dict[str, tuple[Callable[[], nn.Sequential], Tensor]] = {
    "silent, one layer": (lambda: silent(1), X),
    "silent, three layers": (lambda: silent(3), X),
    "silent below, five layers": (lambda: fading(5), X),
    "too much, three layers": (lambda: roaring(3), X),
    "recurrent": (recurrent, X),
    "Dale": (dale, X),
}


@pytest.mark.parametrize("start", STARTS)
def test_every_layer_is_brought_to_its_rate(start: str) -> None:
    make, x = STARTS[start]
    model = make()
    before = counted(model, x)
    assert any(abs(float(rate.mean()) / RATE - 1) > 0.5 for rate in before.values()), "nothing to do"
    result = scale_synapses(model, x, RATE)
    assert result.reached, result
    after = counted(model, x)
    assert len(after) == len(result.after) == len(before)
    for rate in after.values():
        assert float(rate.mean()) == pytest.approx(RATE, rel=0.1)
        assert float(((rate / RATE - 1).abs() <= 0.1).double().mean()) >= 0.9
    for told, rates in ((result.before, before), (result.after, after)):
        assert list(told.values()) == pytest.approx([float(rate.mean()) for rate in rates.values()], rel=1e-5)


def test_every_channel_of_a_feature_map_is_brought_to_its_rate() -> None:
    model, x = conv(), spikes(STEPS, SAMPLES, 1, 40, p=0.1)
    assert max(float(rate.mean()) for rate in counted(model, x).values()) < RATE / 2
    assert scale_synapses(model, x, RATE, share=1.0).reached
    first, second = counted(model, x).values()
    for channels in (first.mean(1), second.reshape(6, -1).mean(1)):
        assert channels.tolist() == pytest.approx([RATE] * len(channels), rel=0.1)


def test_a_network_on_recordings_is_repaired_in_seconds(data_dir: Path) -> None:
    file = SHDFile(data_dir / "fsdd_train.h5")
    every = range(0, len(file), len(file) // 32)
    x = bin_events([file.events(i) for i in every], n_units=700, dt=DT, duration=0.7)
    model = feed_forward(700, 10, width=64, depth=5, dt=DT, duration=0.7)
    before = fluctua.initialize(model, x, Target(xi=2.0), method=Poisson(nu=15.8), seed=0)
    assert [p.silent > 0.9 for p in before if p.silent is not None][-2:] == [True, True]
    result = scale_synapses(model, x, 10.0)
    assert result.reached, result
    for p in result.report:
        if p.threshold is not None:
            assert p.silent == 0
            assert p.saturated == 0
            assert 0.5 < p.sigma_temporal < 2.0, "driven by fluctuations of the size of the threshold"
            assert p.sigma_across < 0.2, "no neuron has a mean of its own"
    for rate in counted(model, x).values():
        assert float(rate.mean()) == pytest.approx(10.0, rel=0.1)


def test_populations_can_have_rates_of_their_own_and_the_others_keep_their_weights() -> None:
    model = silent(3)
    before = values(model)
    result = scale_synapses(model, X, {"1": 30.0, "3": 12.0})
    assert result.reached
    assert list(result.after) == ["1", "3"]
    rates = counted(model, X)
    assert float(rates["1"].mean()) == pytest.approx(30.0, rel=0.1)
    assert float(rates["3"].mean()) == pytest.approx(12.0, rel=0.1)
    assert equal({name: before[name] for name in ("4.weight", "6.weight")}, values(model))


def test_excitation_is_raised_where_growth_alone_is_in_vain() -> None:
    """Rows in which inhibition prevails: all weights multiplied alike, the neurons only fall more silent."""
    model = deep(1)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        parameter(model, "0.weight").copy_(0.05 * (torch.randn(32, N_IN, generator=generator) - 0.7))
    start = values(model)
    growth = scale_synapses(model, X, RATE, per_neuron=False)
    assert not growth.reached
    assert growth.after["1"] < RATE / 2
    for name, p in model.named_parameters():
        p.data.copy_(start[name])
    assert scale_synapses(model, X, RATE).reached
    inhibition = start["0.weight"] < 0
    assert torch.equal(parameter(model, "0.weight")[inhibition], start["0.weight"][inhibition])


# --- scaling: what it does to the weights ---


def test_a_row_is_multiplied_by_one_factor_where_it_excites_and_all_rows_by_one_elsewhere() -> None:
    model = silent(2)
    before = values(model)
    scale_synapses(model, X, RATE)
    for name in ("0.weight", "2.weight"):
        factors = parameter(model, name).detach() / before[name]
        assert bool((factors > 0).all()), "a weight changed its sign"
        common = factors[before[name] < 0]
        assert common.tolist() == pytest.approx([float(common[0])] * len(common), rel=1e-5)
        rows = [row[w > 0] for row, w in zip(factors, before[name], strict=True)]
        assert all(row.tolist() == pytest.approx([float(row[0])] * len(row), rel=1e-5) for row in rows)
        assert max(float(row[0]) for row in rows) > 1.1 * min(float(row[0]) for row in rows)
    assert torch.equal(before["4.weight"], parameter(model, "4.weight")), "the readout has no rate"


def test_the_rows_of_a_convolution_are_its_channels() -> None:
    model, x = conv(), spikes(STEPS, SAMPLES, 1, 40, p=0.1)
    before = values(model)
    scale_synapses(model, x, RATE)
    for name, w in before.items():
        factors = (parameter(model, name).detach() / w).flatten(1)
        rows = [row[start > 0] for row, start in zip(factors, w.flatten(1), strict=True)]
        assert all(row.tolist() == pytest.approx([float(row[0])] * len(row), rel=1e-5) for row in rows if len(row))


def test_under_dale_s_law_only_excitation_is_scaled() -> None:
    model = dale()
    before = values(model)
    assert scale_synapses(model, X, RATE).reached
    for name, w in before.items():
        now = parameter(model, name).detach()
        if "inh_" in name or name.startswith(("1.", "2.")):
            assert torch.equal(now, w), f"{name} is inhibition, or feeds no spiking population"
        else:
            assert bool((now >= 0).all())
            ratio = now / w.clamp_min(1e-12)
            assert float((ratio / ratio.mean(1, keepdim=True) - 1).abs()[w > 0].max()) < 1e-4
            assert not torch.equal(now, w)


def test_without_single_neurons_all_weights_of_a_population_are_multiplied_alike() -> None:
    model = silent(2)
    before = values(model)
    assert scale_synapses(model, X, RATE, per_neuron=False).reached
    for name in ("0.weight", "2.weight"):
        factor = float((parameter(model, name) / before[name]).detach().mean())
        assert torch.allclose(parameter(model, name), factor * before[name], rtol=1e-5)
    assert [float(rate.mean()) for rate in counted(model, X).values()] == pytest.approx([RATE, RATE], rel=0.1)


def test_behind_a_batch_norm_its_gains_are_scaled() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(OverTime(nn.Conv1d(1, 8, 5)), OverTime(nn.BatchNorm1d(8)), LIF(), nn.Flatten(2))
    with torch.no_grad():
        parameter(model, "1.module.weight").mul_(0.3)
    before, x = values(model), spikes(STEPS, SAMPLES, 1, 20, p=0.1)
    assert scale_synapses(model, x, RATE).reached
    (rate,) = counted(model, x).values()
    assert float(rate.mean()) == pytest.approx(RATE, rel=0.1)
    assert bool((parameter(model, "1.module.weight") > before["1.module.weight"]).all())
    assert equal({name: before[name] for name in ("0.module.weight", "0.module.bias", "1.module.bias")}, values(model))


def test_a_factor_moves_by_a_bounded_step_in_each_round() -> None:
    for rounds, step in ((1, 0.5), (3, 0.2)):
        model = silent(1)
        before = values(model)["0.weight"]
        result = scale_synapses(model, X, RATE, rounds=rounds, step=step)
        assert (result.rounds, result.reached) == (rounds, False)
        factors = (parameter(model, "0.weight") / before).detach()
        assert float(factors.log().abs().max()) <= rounds * step * (1 + 1e-5)
        assert float(factors.max()) == pytest.approx(math.exp(step * min(rounds, (rounds + 1) // 2)), rel=1e-5)


def test_nothing_moves_within_tolerance() -> None:
    model = silent(2)
    scale_synapses(model, X, RATE)
    before = values(model)
    again = scale_synapses(model, X, RATE)
    assert (again.rounds, again.reached) == (0, True)
    assert equal(before, values(model))


def test_frozen_shared_and_parametrised_weights_are_skipped_because_and_named() -> None:
    class Sharing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c, self.d = (nn.Linear(20, 20, bias=False) for _ in range(4))
            self.b.weight = self.a.weight
            self.c.weight.requires_grad_(False)
            nn.utils.parametrizations.weight_norm(self.d)
            self.w, self.x, self.y, self.z = LIF(), LIF(), LIF(), LIF()

        def forward(self, x: Tensor) -> Tensor:
            x = self.x(self.b(self.w(self.a(x))))
            return self.z(self.d(self.y(self.c(x))))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    model, x = Sharing(), spikes(STEPS, SAMPLES, 20)
    for p in model.parameters():
        p.data.mul_(6.0)
    before = values(model)
    result = scale_synapses(model, x, RATE)
    moved = [name for name, w in before.items() if not torch.equal(w, parameter(model, name))]
    assert moved == ["a.weight"]
    notes = "\n".join(result.report.notes)
    for name, why in (
        ("b.weight", "shared"),
        ("c.weight", "frozen"),
        ("d.parametrizations.weight.original1", "its size"),
    ):
        assert f"{name} was skipped: {why}" in notes
    assert "note: b.weight" in str(result)
    assert not result.reached


def test_a_neuron_that_stays_silent_keeps_its_weights_but_for_the_common_factor() -> None:
    model = silent(1)
    dead = torch.zeros(N_IN, dtype=torch.bool)
    dead[:5] = True
    x = X * ~dead
    with torch.no_grad():
        parameter(model, "0.weight")[0] = torch.where(dead, 1.0, -1.0)  # excited by what never fires
    before = values(model)["0.weight"]
    result = scale_synapses(model, x, RATE)
    assert result.reached, "one of 32 may miss its rate"
    factors = (parameter(model, "0.weight") / before).detach()
    assert counted(model, x)["1"][0] == 0
    assert factors[0].tolist() == pytest.approx([float(factors[before < 0][-1])] * N_IN, rel=1e-5)


def test_all_else_of_the_model_is_left_as_it_was() -> None:
    model = conv()
    model.append(nn.Dropout(0.5))
    model.eval()
    x = spikes(STEPS, SAMPLES, 1, 40, p=0.1)
    x_before, flags = x.clone(), [m.training for m in model.modules()]
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    torch.manual_seed(3)
    scale_synapses(model, x, RATE)
    prime(model, x, epochs=2, seed=1)
    drawn = torch.rand(3)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(3)), "torch's generator moved on"
    assert torch.equal(x, x_before)
    assert flags == [m.training for m in model.modules()]
    assert all(torch.equal(b, buffers[name]) for name, b in model.named_buffers())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


# --- scaling: what it says where it fails ---


def erratic() -> nn.Sequential:
    """Recurrence so strong that its rate jumps with the weights."""
    model = recurrent()
    parameter(model, "1.weight.weight").data.mul_(10.0)
    return model


def test_what_is_not_reached_is_said_in_numbers() -> None:
    model = erratic()
    result = scale_synapses(model, X, RATE, rounds=4, tolerance=0.01, share=1.0)
    assert not result.reached
    (rate,) = counted(model, X).values()
    inside = float(((rate / RATE - 1).abs() <= 0.01).double().mean())
    assert result.missed["1"] == f"{float(rate.mean()):.3g} for 20 Hz, {inside:.0%} of its neurons within 1%"
    assert str(result).splitlines()[-1] == "not within tolerance after 4 rounds"


def test_the_best_state_is_kept_so_more_rounds_never_do_harm() -> None:
    distances, rates = [], []
    for rounds in range(1, 8):
        model = erratic()
        result = scale_synapses(model, X, RATE, rounds=rounds, per_neuron=False, tolerance=1e-6, step=1.0)
        assert (result.rounds, result.reached) == (rounds, False)
        (rate,) = counted(model, X).values()
        rates.append(float(rate.mean()))
        distances.append(abs(math.log(rates[-1] / RATE)))
    assert distances == sorted(distances, reverse=True)
    assert len(set(rates)) < len(rates), "every round was the best so far: nothing was ever put back"


def test_a_population_that_nothing_reaches_is_named_and_keeps_its_weights() -> None:
    model = silent(2)
    parameter(model, "0.weight").data.zero_()
    before = values(model)
    result = scale_synapses(model, X, RATE)
    assert result.missed["3"] == "no current reaches it"
    assert "1 was skipped: no weight that excites it may be scaled" in result.report.notes
    assert equal(before, values(model))
    assert result.report.warnings, "the report warns of the silence"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rate": 0.0}, "a target rate must be a positive number of Hz, got 0.0 for 1"),
        ({"rate": {"1": math.nan}}, "got nan for 1"),
        ({"rate": {"first": 5.0}}, "no spiking population 'first' in the model: it has 1"),
        ({"rate": {"3": 5.0}}, "no spiking population '3'"),
        ({"rounds": 0}, "rounds=0"),
        ({"step": 0.0}, "step=0.0"),
        ({"tolerance": -0.1}, "tolerance=-0.1"),
        ({"share": 1.5}, "share=1.5"),
    ],
)
def test_what_cannot_be_scaled_to_is_refused_in_a_sentence(change: dict[str, Any], words: str) -> None:
    model = silent(1)
    before = values(model)
    with pytest.raises(ValueError, match=words.replace("(", r"\(")):
        scale_synapses(model, X, **{"rate": RATE, **change})
    assert equal(before, values(model))


REFINE: list[Callable[[nn.Module, Tensor], Refinement]] = [lambda m, x: scale_synapses(m, x, RATE), prime]


@pytest.mark.parametrize("refine", REFINE, ids=["scale", "prime"])
def test_a_model_or_batch_without_spikes_is_refused(refine: Callable[[nn.Module, Tensor], Refinement]) -> None:
    with pytest.raises(ValueError, match=r"no population of the model spikes \(1\)"):
        refine(nn.Sequential(nn.Linear(N_IN, 3), LI()), X)
    with pytest.raises(ValueError, match="no spiking neuron found"):
        refine(nn.Linear(N_IN, 3), X)
    with pytest.raises(BatchError, match="all zero"):
        refine(silent(1), torch.zeros_like(X))


# --- priming ---

AWAKE = ActivityBound("lower", threshold=1e-3, strength=100.0)
CALM = ActivityBound("upper", threshold=8.0, strength=0.1, per="population")
BATCHES = [spikes(STEPS, SAMPLES, N_IN, seed=seed) for seed in range(2)]


def penalties(model: nn.Module, batches: list[Tensor]) -> list[float]:
    """Of every spiking population on every batch: the share of neurons silent in a trial, the square of the excess."""
    found: list[float] = []
    for x in batches:
        with torch.no_grad():
            for layer in cast(nn.Sequential, model):
                x = layer(x)
                if isinstance(layer, LIF):
                    count = x.sum(0)
                    found.append(float((count == 0).double().mean()))
                    found.append(float((count.mean(1) / 8.0 - 1).relu().square().mean()))
    return found


@pytest.mark.parametrize(("start", "depth"), [(silent, 1), (silent, 3), (roaring, 2)])
def test_all_populations_come_to_keep_their_bounds(start: Callable[[int], nn.Sequential], depth: int) -> None:
    model = start(depth)
    assert max(penalties(model, BATCHES)) > 0.5
    result = prime(model, BATCHES, (AWAKE, CALM), epochs=100, lr=1e-2, tolerance=0.2)
    assert result.reached, result
    assert 0 < result.rounds < 100
    assert max(penalties(model, BATCHES)) <= 0.2
    for name, rate in counted(model, BATCHES[0]).items():
        assert result.after[name] == pytest.approx(float(rate.mean()), rel=1e-5)


def test_priming_after_scaling_finds_nothing_to_do() -> None:
    model = silent(3)
    scale_synapses(model, X, RATE)
    before = values(model)
    result = prime(model, [X], (AWAKE, CALM))
    assert (result.rounds, result.reached) == (0, True)
    assert equal(before, values(model))


def test_the_steps_are_those_of_the_optimiser_on_the_penalties_alone() -> None:
    primed, by_hand = silent(1), silent(1)
    bounds = (ActivityBound("lower", threshold=5.0), CALM)
    result = prime(primed, BATCHES, bounds, epochs=2, lr=0.3, optimizer="sgd", tolerance=0.0)
    assert (result.rounds, result.reached) == (2, False)
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.3)
    for x in BATCHES * 2:
        count = by_hand[1](by_hand[0](x)).sum(0)
        optimizer.zero_grad()
        ((5 - count).relu().square().mean() + 0.1 * (count.mean(1) - 8).relu().square().mean()).backward()
        optimizer.step()
    assert not torch.equal(parameter(primed, "0.weight"), parameter(silent(1), "0.weight"))
    for name, p in by_hand.named_parameters():
        assert torch.allclose(p, parameter(primed, name), rtol=1e-5, atol=1e-7)


def test_a_layer_gets_no_gradient_while_its_afferents_are_silent() -> None:
    model = silent(2)
    parameter(model, "0.weight").data.mul_(0.1)
    before = values(model)
    result = prime(model, X, epochs=1, lr=1e-3)
    assert result.after == {"1": 0.0, "3": 0.0}
    moved = [name for name, w in before.items() if not torch.equal(w, parameter(model, name))]
    assert moved == ["0.weight"]


def test_weights_under_dale_s_law_keep_their_sign() -> None:
    model = dale()
    result = prime(model, [X], (AWAKE, CALM), epochs=6, lr=0.1, optimizer="adam")
    signed = [p for name, p in model.named_parameters() if name.startswith("0.")]
    assert len(signed) == 6
    assert all(bool((p >= 0).all()) for p in signed)
    assert any(bool((p == 0).any()) for p in signed), "no weight was ever driven to the other side"
    assert result.rounds > 0


def test_a_recurrent_network_wakes_up() -> None:
    model = recurrent()
    assert float(counted(model, X)["1"].mean()) < 1.0
    assert prime(model, [X], (AWAKE, CALM), epochs=100, lr=1e-2).reached
    assert float((counted(model, X)["1"] == 0).double().mean()) < 0.1


def test_a_seed_decides_dropout_and_order_and_a_loader_may_bring_labels() -> None:
    data = TensorDataset(X.transpose(0, 1), torch.zeros(SAMPLES))

    def collate(samples: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        x, y = (torch.stack(column) for column in zip(*samples, strict=True))
        return x.transpose(0, 1), y

    def primed(seed: int) -> Tensor:
        model = silent(1)
        model.insert(0, nn.Dropout(0.2))
        loader = DataLoader(data, batch_size=8, shuffle=True, collate_fn=collate)
        prime(model, loader, epochs=2, seed=seed)
        return parameter(model, "1.weight").detach()

    assert torch.equal(primed(1), primed(1))
    assert not torch.equal(primed(1), primed(2))


def test_a_model_can_be_run_in_its_own_way() -> None:
    model = silent(1)
    batches = [{"events": x} for x in BATCHES]
    result = prime(model, batches, epochs=1, forward=lambda model, batch: model(batch["events"]))
    alike = silent(1)
    assert prime(alike, BATCHES, epochs=1).after == result.after
    assert equal(values(alike), values(model))


def test_weights_that_are_no_numbers_stop_priming_at_once() -> None:
    model = silent(1)
    parameter(model, "0.weight").data[0, 0] = math.nan
    with pytest.raises(TrainingDiverged, match=r"priming diverged in epoch 1 \(.*nan\): try a smaller lr"):
        prime(model, X)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"regularizers": ()}, "priming needs at least one activity bound"),
        ({"batches": iter([X])}, "read only once"),
        ({"batches": []}, "there are no batches"),
        ({"epochs": 0}, "epochs=0"),
        ({"lr": -1.0}, "lr=-1.0"),
        ({"tolerance": math.nan}, "tolerance=nan"),
        ({"optimizer": "fastest"}, "optimiser 'fastest' is unknown"),
    ],
)
def test_what_cannot_be_primed_with_is_refused_in_a_sentence(change: dict[str, Any], words: str) -> None:
    model = silent(1)
    before = values(model)
    with pytest.raises(ValueError, match=words):
        prime(model, **{"batches": [X], "regularizers": paper_bounds("shd"), **change})
    assert equal(before, values(model))


def test_frozen_networks_are_not_primed() -> None:
    model = silent(1)
    parameter(model, "0.weight").requires_grad_(False)
    with pytest.raises(ValueError, match="no trainable parameter leads to a spiking population"):
        prime(model, X)
    with pytest.raises(ValueError, match="the model has no trainable parameters"):
        prime(model.requires_grad_(False), X)


# --- the result ---


def test_a_graded_spike_counts_as_one_as_in_the_report() -> None:
    snn = pytest.importorskip("snntorch")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(N_IN, 32), snn.Leaky(beta=0.9, graded_spikes_factor=3.0, init_hidden=True))
    fluctua.initialize(model, X, Target(xi=1.0), dt=DT, seed=0)
    before = fluctua.inspect(model, X, dt=DT)["1"].rate
    done = scale_synapses(model, X, RATE, dt=DT)
    assert done.before["1"] == pytest.approx(before, rel=1e-5)
    assert done.reached
    assert done.after["1"] == pytest.approx(RATE, rel=0.11)


def test_the_result_is_a_table() -> None:
    model = silent(2)
    result = scale_synapses(model, X, {"1": RATE})
    lines = str(result).splitlines()
    assert lines[0].split() == ["population", "Hz", "before", "Hz", "after", "within", "tolerance"]
    assert lines[2].split() == ["1", f"{result.before['1']:.1f}", f"{result.after['1']:.1f}", "yes"]
    assert lines[3] == f"within tolerance after {result.rounds} rounds"
    console = pytest.importorskip("rich.console").Console(width=80, record=True, file=io.StringIO())
    console.print(result)
    drawn = console.export_text()
    assert all(cell in drawn for cell in (*lines[2].split(), lines[3]))
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.rounds = 0  # type: ignore[misc]


def test_priming_leaves_time_constants_and_thresholds_alone() -> None:
    layers = nn.Linear(30, 20), Recurrent(LIF(learn_tau=True), nn.Linear(20, 20)), nn.Linear(20, 3), LI(learn_tau=True)
    model, x = nn.Sequential(*layers), random_spikes(60, 8, 30)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    prime(model, x, paper_bounds("randman"), epochs=2, seed=0)
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {"0.weight", "0.bias", "1.weight.weight", "1.weight.bias"}


def test_priming_leaves_the_neurons_of_rockpool_alone() -> None:
    modules = pytest.importorskip("rockpool.nn.modules")
    from rockpool.nn.combinators import Sequential

    model = Sequential(modules.LinearTorch((30, 20)), modules.LIFTorch(20), modules.LinearTorch((20, 3)))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    prime(model, random_spikes(60, 8, 30).transpose(0, 1), paper_bounds("randman"), epochs=2, seed=0)
    assert [name for name, p in model.named_parameters() if not torch.equal(p, before[name])] == [
        "0_LinearTorch.weight"
    ]
