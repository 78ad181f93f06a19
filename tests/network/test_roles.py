"""Laws of layers of a user's own: what is set is what the output is linear in, unit by unit; the rest is left alone."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune

import fluctua
from fluctua.layers import OverTime
from fluctua.methods import Measured, Poisson
from fluctua.network import Network
from fluctua.neurons import LI, LIF
from shared.spikes import spikes

N, UNITS = 40, 24
BATCH = spikes(80, 16, N, p=0.2) * torch.linspace(0.2, 2, N)


def parameter(*shape: int, size: float = 0.2) -> nn.Parameter:
    return nn.Parameter(size * torch.randn(shape))


class Layer(nn.Module):
    """Parameters by name, and what they make of the input."""

    def __init__(self, compute: Callable[[Any, Tensor], Tensor], **parameters: nn.Parameter | Tensor) -> None:
        super().__init__()
        self.compute = compute
        for name, p in parameters.items():
            if isinstance(p, nn.Parameter):
                self.register_parameter(name, p)
            else:
                self.register_buffer(name, p)

    def forward(self, x: Tensor) -> Any:
        return self.compute(self, x)


def in_out(units: int = UNITS, **more: Any) -> Layer:
    return Layer(lambda m, x: torch.einsum("tbi,io->tbo", x, m.w), w=parameter(N, units), **more)


def out_in(units: int = UNITS) -> Layer:
    return Layer(lambda m, x: x @ m.w.T, w=parameter(units, N))


def delays(m: Any, x: Tensor) -> Any:
    """Each contact has a delay, learnt as the centre of a bump over the steps: as DCLS has it."""
    steps = torch.arange(5.0)
    bumps = torch.exp(-((steps - 2 - m.P.unsqueeze(-1)) ** 2) / 2)
    return F.conv1d(F.pad(x.permute(1, 2, 0), (4, 0)), m.weight.unsqueeze(-1) * bumps).permute(2, 0, 1)


def standardised(m: Any) -> Any:
    centred = m.weight - m.weight.mean(1, keepdim=True)
    return centred / centred.std(1, keepdim=True)


def noisy(m: Any, x: Tensor) -> Tensor:
    return F.linear(x, m.weight_mu + m.weight_sigma * torch.randn_like(m.weight_sigma))


def quantised(m: Any, x: Tensor) -> Tensor:
    """Steps learnt row by row, straight-through: as LSQ has it."""
    levels = m.weight / m.step
    return F.linear(x, (levels + (levels.round() - levels).detach()) * m.step)


def adapted() -> Layer:
    layer = Layer(lambda m, x: x @ m.weight.T + x @ m.A.T @ m.B.T, weight=parameter(UNITS, N))
    layer.weight.requires_grad_(False)
    layer.A, layer.B = parameter(4, N), nn.Parameter(torch.zeros(UNITS, 4))
    return layer


def pruned() -> nn.Module:
    layer = nn.Linear(N, UNITS)
    prune.random_unstructured(layer, "weight", 0.8)  # type: ignore[no-untyped-call]
    return layer


SET: dict[str, tuple[Callable[[], nn.Module], set[str]]] = {
    "[in, out]": (in_out, {"w"}),
    "[in, out], square": (lambda: in_out(N), {"w"}),
    "[out, in]": (out_in, {"w"}),
    "bias named b": (
        lambda: Layer(lambda m, x: x @ m.w + m.b, w=parameter(N, UNITS), b=parameter(UNITS)),
        {"w", "b"},
    ),
    "bias named biases, [1, out]": (
        lambda: Layer(lambda m, x: x @ m.kernel.T + m.biases, kernel=parameter(UNITS, N), biases=parameter(1, UNITS)),
        {"kernel", "biases"},
    ),
    "pruned": (pruned, {"weight_orig", "bias"}),
    "masked": (
        lambda: Layer(
            lambda m, x: F.linear(x, m.weight * m.mask),
            weight=parameter(UNITS, N),
            mask=(torch.rand(UNITS, N) < 0.3).float(),
        ),
        {"weight"},
    ),
    "two factors": (
        lambda: Layer(lambda m, x: x @ m.A.T @ m.B.T, A=parameter(30, N), B=parameter(UNITS, 30)),
        {"B"},
    ),
    "scaled entry by entry": (
        lambda: Layer(
            lambda m, x: F.linear(x, m.weight * m.log_gain.exp()),
            weight=parameter(UNITS, N),
            log_gain=nn.Parameter(torch.zeros(UNITS, N)),
        ),
        {"weight"},
    ),
    "delays": (lambda: Layer(delays, weight=parameter(UNITS, N), P=parameter(UNITS, N, size=1.0)), {"weight"}),
    "noisy": (
        lambda: Layer(noisy, weight_mu=parameter(UNITS, N), weight_sigma=nn.Parameter(torch.full((UNITS, N), 0.005))),
        {"weight_mu"},
    ),
    "learnt steps of rounding": (
        lambda: Layer(quantised, weight=parameter(UNITS, N), step=nn.Parameter(torch.full((UNITS, 1), 0.001))),
        {"weight"},
    ),
    "a gain of each unit": (
        lambda: Layer(
            lambda m, x: F.linear(x, m.weight) * m.gain.exp(), weight=parameter(UNITS, N), gain=parameter(1, UNITS)
        ),
        {"weight"},
    ),
}


def network(layer: nn.Module) -> nn.Sequential:
    return nn.Sequential(layer, LIF(), nn.LazyLinear(3), LI())


def changed(layer: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {name for name, p in layer.named_parameters() if not torch.equal(p, before[name])}


def initialised(make: Callable[[], nn.Module], **options: Any) -> tuple[Any, fluctua.Report, set[str]]:
    torch.manual_seed(0)
    model = network(make())
    model(BATCH)
    before = {name: p.detach().clone() for name, p in model[0].named_parameters()}
    report = fluctua.initialize(model, BATCH, seed=0, **options)
    return model, report, changed(model[0], before)


@pytest.mark.parametrize("name", SET)
def test_every_neuron_is_at_its_target_by_the_parameters_that_the_output_is_linear_in(name: str) -> None:
    make, expected = SET[name]
    model, report, written = initialised(make)
    assert written == expected
    u = potential(model[0](BATCH).detach())
    noise = 0.05 if name == "noisy" else 0.01
    assert float(u.std(correction=0)) == pytest.approx(1.0, rel=0.01 + noise)
    assert float(u.mean((0, 1)).abs().max()) < 3 * noise
    assert report["1"].sigma_u == pytest.approx(1.0, rel=0.01)


def potential(current: Tensor, tau_mem: float | Tensor = 20e-3) -> Tensor:
    """Of LIF neurons that never fire, by their equations: `[T, B, *N]`."""
    a, b = torch.exp(-2e-3 / torch.as_tensor(tau_mem)), math.exp(-2e-3 / 10e-3)
    u = i = torch.zeros_like(current[0])
    found = []
    for x in current:
        found.append(u)
        u, i = a * u + (1 - a) * i, b * i + x
    return torch.stack(found)


LEFT: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "adapter of a frozen weight": (adapted, "0.B was skipped: it adapts weight, which is frozen"),
    "standardised": (
        lambda: Layer(lambda m, x: F.linear(x, standardised(m)), weight=parameter(UNITS, N)),
        "0.weight was skipped: its size has no effect on the output",
    ),
    "its sign alone": (
        lambda: Layer(
            lambda m, x: F.linear(x, m.weight + (m.weight.sign() - m.weight).detach()), weight=parameter(UNITS, N)
        ),
        "0.weight was skipped: its size has no effect on the output",
    ),
    "a network of its own": (
        lambda: Layer(lambda m, x: torch.tanh(x @ m.w), w=parameter(N, UNITS, size=1.0)),
        "0.w was skipped: the output is not linear in it",
    ),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_cannot_be_set_is_left_alone_with_a_note(name: str) -> None:
    make, sentence = LEFT[name]
    _, report, written = initialised(make)
    assert written == set()
    assert sentence in report.notes


def test_what_is_left_beside_a_weight_is_named() -> None:
    _, report, _ = initialised(SET["delays"][0])
    assert "0.weight: P was left as it is: the output is not linear in it" in report.notes
    _, report, _ = initialised(SET["noisy"][0])
    assert "0.weight_sigma was skipped: it scales noise" in report.notes
    _, report, _ = initialised(SET["two factors"][0])
    assert "0.B: A was left as it is: it is multiplied with B" in report.notes


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_gates_are_left_alone(kind: Any) -> None:
    class First(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = kind(N, UNITS)

        def forward(self, x: Tensor) -> Tensor:
            return self.rnn(x)[0]  # type: ignore[no-any-return]

    _, report, written = initialised(First)
    assert written == set()
    assert "0.rnn.weight_ih_l0 was skipped: the output is not linear in it" in report.notes


def test_a_weight_of_one_input_is_a_weight() -> None:
    layer = Layer(lambda m, x: x @ m.w + m.b, w=parameter(1, UNITS), b=parameter(UNITS))
    model = nn.Sequential(layer, LIF(), nn.Linear(UNITS, 3), LI())
    fluctua.initialize(model, BATCH[..., :1], seed=0, method=Measured(balance=False))
    assert float(potential(model[0](BATCH[..., :1]).detach()).std(correction=0)) == pytest.approx(1.0, rel=0.01)


def test_a_layer_that_only_encodes_is_no_synapse() -> None:
    encoder = Layer(
        lambda m, x: torch.exp(-((x - m.mean) ** 2) / m.std**2),
        mean=parameter(1, N),
        std=nn.Parameter(torch.ones(1, N)),
    )
    model = nn.Sequential(encoder, LIF(), nn.Linear(N, 3), LI())
    before = {name: p.detach().clone() for name, p in encoder.named_parameters()}
    report = fluctua.initialize(model, BATCH, seed=0)
    assert changed(encoder, before) == set()
    assert report["1"].pathways == ()


def only_pathway(make: Callable[[], nn.Module]) -> Any:
    model = network(make())
    model(BATCH)
    return Network.of(model, BATCH).populations[0].pathways[0]


@pytest.mark.parametrize(("name", "fan_in"), [("[in, out]", N), ("[out, in]", N), ("two factors", 30)])
def test_the_fan_in_counts_the_inputs_of_one_unit(name: str, fan_in: int) -> None:
    assert only_pathway(SET[name][0]).fan_in == fan_in


def test_entries_that_a_mask_or_pruning_takes_away_do_not_count() -> None:
    assert only_pathway(pruned).fan_in == round(0.2 * N)
    torch.manual_seed(0)
    q = only_pathway(SET["masked"][0])
    assert q.fan_in == round(float(q.synapse.mask.sum()) / UNITS)


def test_the_formula_of_the_paper_takes_the_fan_in_of_either_form() -> None:
    """Poisson(nu) draws the same variance for `[in, out]` as for `[out, in]`."""
    stds = []
    for make in (in_out, out_in):
        model, _, _ = initialised(make, method=Poisson(nu=100.0))
        stds.append(float(model[0].w.detach().std()))
    assert stds[0] == pytest.approx(stds[1], rel=0.1)


def test_neurons_that_differ_get_a_scale_each_from_a_weight_in_either_form() -> None:
    for make in (in_out, out_in):
        torch.manual_seed(0)
        taus = torch.linspace(5e-3, 50e-3, UNITS)
        model = nn.Sequential(make(), LIF(tau_mem=taus), nn.Linear(UNITS, 3), LI())
        fluctua.initialize(model, BATCH, seed=0)
        stds = potential(model[0](BATCH).detach(), taus).flatten(0, 1).std(0, correction=0)
        torch.testing.assert_close(stds, torch.ones(UNITS), rtol=0.01, atol=0)


def test_a_transposed_convolution_is_balanced_for_each_of_its_maps() -> None:
    torch.manual_seed(0)
    x = spikes(40, 8, 3, 6, p=0.3) * torch.linspace(0.2, 2, 3)[:, None]
    model = nn.Sequential(
        OverTime(nn.ConvTranspose1d(3, 8, 4, stride=4)), LIF(), nn.Flatten(2), nn.Linear(192, 3), LI()
    )
    report = fluctua.initialize(model, x, seed=0)
    u = potential(model[0](x).detach())
    assert float(u.std(correction=0)) == pytest.approx(1.0, rel=0.01)
    assert float(u.mean((0, 1, 3)).abs().max()) < 0.02
    assert report["1"].sigma_u == pytest.approx(1.0, rel=0.01)


def test_running_a_layer_to_find_its_roles_leaves_it_as_it_was() -> None:
    torch.manual_seed(0)
    layer = pruned()
    model = network(layer)
    model(BATCH)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    weight, random = layer.weight, torch.get_rng_state()
    Network.of(model, BATCH)
    assert layer.weight is weight
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


@pytest.mark.parametrize("method", ["kaiming", "xavier"])
def test_baselines_draw_weights_alone_and_by_the_right_axis(method: str) -> None:
    _, _, written = initialised(SET["delays"][0], method=method)
    assert written == {"weight"}
    _, _, written = initialised(SET["bias named b"][0], method=method)
    assert written == {"w", "b"}
    torch.manual_seed(0)
    layer: Any = in_out(400)
    model = nn.Sequential(layer, LIF(), nn.Linear(400, 3), LI())
    fluctua.initialize(model, BATCH, seed=0, method=method)
    expected = (1 / N if method == "kaiming" else 2 / (N + 400)) ** 0.5
    assert float(layer.w.detach().std()) == pytest.approx(expected, rel=0.02)  # of 16,000 entries


NORMED: dict[str, Callable[[], nn.Module]] = {
    "standardised": lambda: Layer(
        lambda m, x: F.linear(x, standardised(m) * m.gain, m.bias),
        weight=parameter(UNITS, N),
        gain=nn.Parameter(torch.ones(UNITS, 1)),
        bias=parameter(UNITS),
    ),
    "weight_norm": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(N, UNITS)),
    "weight_norm by hook": lambda: nn.utils.weight_norm(nn.Linear(N, UNITS)),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")  # the hook is deprecated
@pytest.mark.parametrize("name", NORMED)
def test_where_the_size_of_weights_has_no_effect_their_gain_is_set(name: str) -> None:
    model, report, written = initialised(NORMED[name])
    gains = {"gain", "weight_g", "parametrizations.weight.original0"}
    assert written <= gains | {"bias"}
    assert written & gains
    u = potential(model[0](BATCH).detach())
    assert float(u.std(correction=0)) == pytest.approx(1.0, rel=0.01)
    assert float(u.mean()) == pytest.approx(0.0, abs=0.02)
    assert report["1"].target_sigma_u == 1.0


def test_baselines_leave_what_a_weight_is_computed_from() -> None:
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(N, UNITS)), LIF(), nn.Linear(UNITS, 3), LI())
    before = {name: p.detach().clone() for name, p in model[0].named_parameters()}
    fluctua.initialize(model, BATCH, seed=0, method="kaiming")
    assert changed(model[0], before) <= {"bias"}


def test_a_norm_behind_a_layer_sets_its_size() -> None:
    layer = Layer(lambda m, x: F.linear(x, standardised(m)), weight=parameter(UNITS, N))
    norm = OverTime(nn.BatchNorm1d(UNITS))
    model = nn.Sequential(layer, norm, LIF(), nn.Linear(UNITS, 3), LI())
    report = fluctua.initialize(model, BATCH, seed=0)
    assert report["2"].target_sigma_u == 1.0
    assert float(potential(norm(layer(BATCH)).detach()).std(correction=0)) == pytest.approx(1.0, rel=0.02)


def rms_normed(m: Any, x: Tensor) -> Tensor:
    found: Tensor = m.gain * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)
    return found


def layer_normed(m: Any, x: Tensor) -> Tensor:
    found: Tensor = m.gamma * (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-5) + m.beta
    return found


NORMS_BY_HAND: dict[str, Callable[[], Layer]] = {
    "RMS norm": lambda: Layer(rms_normed, gain=parameter(UNITS)),
    "layer norm": lambda: Layer(layer_normed, gamma=parameter(UNITS), beta=parameter(UNITS)),
    "F.layer_norm": lambda: Layer(
        lambda m, x: F.layer_norm(x, (UNITS,), m.w, m.b), w=parameter(UNITS), b=parameter(UNITS)
    ),
    "one number": lambda: Layer(lambda m, x: m.g * F.normalize(x, dim=-1), g=parameter(1)),
}


@pytest.mark.parametrize("name", NORMS_BY_HAND)
def test_a_norm_written_by_hand_sets_the_size_by_its_gain(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(N, UNITS), NORMS_BY_HAND[name](), LIF(), nn.Linear(UNITS, 3), LI())
    report = fluctua.initialize(model, BATCH, seed=0)
    u = potential(model[1](model[0](BATCH)).detach())
    assert float(u.std(correction=0)) == pytest.approx(1.0, rel=0.01) == report["2"].sigma_u
    assert not any("not linear" in note for note in report.notes)


def test_a_gain_alone_is_no_norm() -> None:
    torch.manual_seed(0)
    gain: Any = Layer(lambda m, x: m.g * x, g=parameter(UNITS))
    before = gain.g.detach().clone()
    model = nn.Sequential(nn.Linear(N, UNITS), gain, LIF(), nn.Linear(UNITS, 3), LI())
    (q,) = Network.of(model, BATCH).populations[0].pathways
    assert not q.norms
    fluctua.initialize(model, BATCH, seed=0)
    assert torch.equal(gain.g, before)
    assert float(potential(gain(model[0](BATCH)).detach()).std(correction=0)) == pytest.approx(1.0, rel=0.01)


def test_a_norm_of_two_populations_is_set_for_the_first() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.norm = nn.Linear(N, UNITS), nn.Linear(UNITS, UNITS), OverTime(nn.BatchNorm1d(UNITS))
            self.first, self.second = LIF(), LIF()

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.second(self.norm(self.b(self.first(self.norm(self.a(x))))))
            return out

    torch.manual_seed(0)
    model = Twice()
    report = fluctua.initialize(model, BATCH, seed=0)
    u = potential(model.norm(model.a(BATCH)).detach())
    assert float(u.std(correction=0)) == pytest.approx(1.0, rel=0.01) == report["first"].sigma_u
    assert report["second"].target_sigma_u is None
    assert any("b.weight was skipped: its norm is shared with first" in note for note in report.notes)


def test_a_learnt_token_beside_the_signal_is_no_weight_and_counts() -> None:
    class Classifying(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches, self.lif = nn.Linear(N // 4, UNITS), LIF()
            self.token = parameter(1, 1, 1, UNITS)

        def current(self, x: Tensor) -> Tensor:
            found: Tensor = self.patches(x.reshape(*x.shape[:2], 4, -1))
            return torch.cat([self.token.expand(*x.shape[:2], -1, -1), found], 2)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.lif(self.current(x))
            return out

    torch.manual_seed(0)
    model = Classifying()
    before = model.token.detach().clone()
    report = fluctua.initialize(model, BATCH, seed=0)
    assert torch.equal(model.token, before)
    u = potential(model.current(BATCH).detach().flatten(2))
    assert float(u.std(correction=0)) == pytest.approx(report["lif"].sigma_u, rel=0.01) == pytest.approx(1.0, rel=0.1)
