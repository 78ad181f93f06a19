"""Bad input gets one clear sentence."""

import copy
import math
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fluctua
from fluctua import Target
from fluctua.hardware import Grid, quantize
from fluctua.homeostasis import prime, scale_synapses
from fluctua.methods import LSUV, Kaiming, Measured, Poisson
from fluctua.methods.components import SilentInputError, _told_apart
from fluctua.neurons import LI, LIF, spike


def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(30, 40), LIF(), nn.Linear(40, 5), LI(0.2))


def weight_of(net: nn.Sequential, k: int = 0) -> Tensor:
    layer = net[k]
    assert isinstance(layer, nn.Linear)
    return layer.weight


def batch() -> Tensor:
    return (torch.rand(200, 8, 30, generator=torch.Generator().manual_seed(0)) < 0.05).float()


STATE = fluctua.inspect(model(), batch())


def with_value(value: float) -> Tensor:
    x = batch()
    x[3, 2, 1] = value
    return x


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(200, 8, 30), "all zero"),
        (torch.zeros(200, 0, 30), "at least 2 steps and 1 sample"),
        (torch.ones(1, 8, 30), "at least 2 steps"),
        (torch.ones(200, 30), "must be a sequence"),
        (torch.ones(200, 8, 30, dtype=torch.complex64), r"call \.float\(\)"),
        (with_value(math.nan), "NaN or infinite"),
        (with_value(math.inf), "NaN or infinite"),
        ({"x": batch()}, "pass the input alone"),
    ],
)
def test_a_useless_batch(x: Any, message: str) -> None:
    net = model()
    before = weight_of(net).detach().clone()
    with pytest.raises(ValueError, match=message):
        fluctua.initialize(net, x)
    assert torch.equal(weight_of(net), before)


def test_a_network_without_neurons() -> None:
    with pytest.raises(ValueError, match=r"no spiking neuron found in the model: none of its modules \(Linear, ReLU\)"):
        fluctua.initialize(nn.Sequential(nn.Linear(30, 5), nn.ReLU()), batch())


def test_a_population_whose_afferents_are_silent() -> None:
    net = nn.Sequential(nn.Linear(30, 40), LIF(), nn.Linear(40, 5), LIF())
    net[0].requires_grad_(False)
    nn.init.zeros_(weight_of(net))
    for bias in net[0].parameters():
        nn.init.zeros_(bias)
    with pytest.raises(ValueError, match=r"no spike reaches 3 .*: 1 gave none .* 0\.weight was left .*\(frozen"):
        fluctua.initialize(net, batch())
    with pytest.raises(ValueError, match="give nu in Hz"):
        fluctua.initialize(net, batch(), method=Poisson(nu="per-layer"))
    report = fluctua.initialize(net, batch(), method=Poisson(nu=10.0))
    assert any("no spike within the trial" in warning and "1, 3" in warning for warning in report.warnings)


@pytest.mark.parametrize("method", ["measured", "poisson"])
def test_a_mean_out_of_reach_names_the_largest_that_is_not(method: Any) -> None:
    net = nn.Sequential(nn.Linear(30, 400, bias=False), LIF())
    with pytest.raises(
        fluctua.theory.InfeasibleTargetError, match=r"for 1: .*the largest feasible mu_u here"
    ) as refusal:
        fluctua.initialize(net, batch(), Target(mean=0.99), method=method, seed=0)
    limit = float(str(refusal.value).rsplit(" ", 1)[-1])
    assert 0 < limit < 0.99
    fluctua.initialize(net, batch(), Target(mean=0.98 * limit), method=method, seed=0)


def test_a_mean_at_threshold() -> None:
    with pytest.raises(ValueError, match=r"not below the threshold 1"):
        fluctua.initialize(model(), batch(), Target(mean=1.0))


def test_a_rate_out_of_reach() -> None:
    with pytest.raises(ValueError, match="must lie between 0 and 11"):
        fluctua.initialize(model(), batch(), Target(rate=100.0))


def test_a_frozen_pathway_that_leaves_no_room() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.lif = nn.Linear(30, 40), nn.Linear(30, 40), LIF()

        def forward(self, x: Tensor) -> Tensor:
            return self.lif(self.a(x) + self.b(x))  # type: ignore[no-any-return]

    net = Two()
    net.a.requires_grad_(False)
    net.a.weight.data.mul_(1000)
    with pytest.raises(ValueError, match="through frozen, shared or missing weights alone"):
        fluctua.initialize(net, batch())


def test_two_numbers_of_a_refusal_differ() -> None:
    assert _told_apart(1.0004, 1.0) == ("1.0004", "1")
    assert _told_apart(2.0, 1.0) == ("2", "1")


class Erasing(nn.Module):
    """It multiplies by a gate that is shut."""

    def __init__(self) -> None:
        super().__init__()
        self.synapse, self.lif = nn.Linear(30, 40, bias=False), LIF()

    def forward(self, x: Tensor) -> Tensor:
        return self.lif(self.synapse(x) * 0.0)  # type: ignore[no-any-return]


def test_where_input_arrives_and_has_no_effect_no_silence_is_blamed() -> None:
    with pytest.raises(SilentInputError, match=r"synapse.weight cannot make .* though input"):
        fluctua.initialize(Erasing(), batch(), seed=0)


def test_a_layer_that_acts_through_another_is_no_layer_without_neurons() -> None:
    report = fluctua.initialize(nn.Sequential(nn.Linear(30, 20), nn.Linear(20, 40), LIF()), batch(), seed=0)
    assert any(note.startswith("0 was skipped: it acts on 2 through 1.weight") for note in report.notes)
    assert not any("no known neuron" in note for note in report.notes)


def test_what_holds_for_several_is_said_once() -> None:
    net = nn.Sequential(*(m for _ in range(7) for m in (nn.Linear(30, 30), LIF())))
    for k in range(2, 14, 2):
        net[k].requires_grad_(False)
    report = fluctua.inspect(net, batch()[:20])
    assert report.notes == ()
    report = fluctua.initialize(net, batch()[:20], method="kaiming", seed=0)
    assert report.notes == (
        "2.weight, 4.weight, 6.weight, 8.weight, 10.weight, 12.weight were skipped: frozen (requires_grad=False)",
    )
    assert [w for w in report.warnings if "is short for the time constants of 1, 3, 5, 7, 9 and 2 more" in w]


def test_a_batch_too_short_for_the_kernel_is_a_warning() -> None:
    net = nn.Sequential(nn.Linear(30, 40), LIF(tau_mem=0.5))
    report = fluctua.initialize(net, batch()[:50], seed=0)
    assert any("is short for the time constants of 1" in warning for warning in report.warnings)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "magic"}, "unknown method 'magic'"),
        ({"window": "later"}, "unknown window 'later'"),
        ({"populations": ["9"]}, "no population '9' in the model: it has 1, 3"),
        ({"seed": 1, "generator": torch.Generator()}, "give a seed, or a torch.Generator instead, got 1 and"),
    ],
)
def test_arguments_that_make_no_sense(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fluctua.initialize(model(), batch(), **arguments)


def test_an_error_leaves_the_model_usable() -> None:
    net = nn.Sequential(nn.Linear(30, 40, bias=False), LIF(), nn.Linear(40, 5), LIF())
    x = torch.zeros(10, 4, 30)
    x[7] = 1  # too late for the second layer
    with pytest.raises(ValueError, match="no spike reaches"):
        fluctua.initialize(net, x)
    assert not any("forward" in vars(m) or m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert all(p.requires_grad for p in net.parameters())
    net(x).sum().backward()


def unlucky(*_: Any, **__: Any) -> Any:
    raise RuntimeError("in the last step")


@pytest.mark.parametrize(
    ("call", "last"),
    [
        (lambda net: fluctua.initialize(net, batch(), seed=0), "fluctua.methods.method.report_of"),
        (lambda net: fluctua.initialize(net, batch(), method="spikeinit"), "fluctua.methods.method.report_of"),
        (lambda net: prime(net, batch(), epochs=2), "fluctua.homeostasis.priming.inspect_network"),
        (lambda net: scale_synapses(net, batch(), 9.0), "fluctua.homeostasis.scaling.inspect_network"),
        (lambda net: quantize(net, batch(), report=STATE), "fluctua.hardware.inspect_network"),
    ],
    ids=["initialize", "initialize by a baseline", "prime", "scale_synapses", "quantize"],
)
def test_after_an_error_all_is_as_it_was(call: Any, last: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net = model()
    weight_of(net).grad = gradient = torch.ones(40, 30)
    values, attributes = copy.deepcopy(net.state_dict()), [dict(vars(m)) for m in net.modules()]
    monkeypatch.setattr(last, unlucky)
    with pytest.raises(RuntimeError, match="in the last step"):
        call(net)
    assert all(torch.equal(value, values[name]) for name, value in net.state_dict().items())
    assert all(vars(m) == before for m, before in zip(net.modules(), attributes, strict=True))
    assert weight_of(net).grad is gradient
    assert bool((gradient == 1).all())


untyped: Any = SimpleNamespace(
    initialize=fluctua.initialize,
    rescale=fluctua.rescale,
    inspect=fluctua.inspect,
    quantize=quantize,
    Poisson=Poisson,
    Measured=Measured,
    Grid=Grid,
    scale_synapses=scale_synapses,
    LIF=LIF,
    Kaiming=Kaiming,
    LSUV=LSUV,
)
"""What a type checker would refuse too."""


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: untyped.initialize(model(), batch(), 1.0), r"target must be a Target, such as .*, got 1\.0"),
        (lambda: untyped.initialize(model(), batch(), readout=0.1), "readout must be a Target"),
        (lambda: untyped.rescale(model(), batch(), 1.0), "target must be a Target"),
        (
            lambda: untyped.rescale(model(), batch(), grid=8),
            r"grid must be a Grid, such as Grid\(bits=8\), or None, got 8",
        ),
        (lambda: untyped.quantize(model(), batch(), 8), "grid must be a Grid, such as"),
        (lambda: untyped.Poisson(nu=-5), "nu must be a positive rate in Hz, .* got -5"),
        (lambda: untyped.Poisson(nu=math.nan), "nu must be a positive rate in Hz"),
        (lambda: untyped.Measured(balance="yes"), 'balance must be True, False or "auto"'),
        (lambda: untyped.Grid(8.5), r"a grid has a whole number of bits, 2 to 16, got 8\.5"),
        (
            lambda: untyped.inspect(model(), batch(), dt=math.nan),
            "the time step dt must be a positive number of seconds",
        ),
        (lambda: untyped.inspect(model(), batch()[0], time=None, steps=2.5), r"one or more .* got steps=2\.5"),
        (lambda: untyped.initialize(model(), batch(), seed=1.5), "a seed is a whole number of 64 bits, got 1.5"),
        (lambda: untyped.initialize(None, batch()), "the model must be a torch module, got NoneType"),
        (
            lambda: untyped.inspect(of_nobody(), batch()),
            r"0\.weight has the shape \[0, 30\]: a population needs a neuron",
        ),
        (lambda: untyped.quantize(model(), batch()[:1]), "at least 2 steps"),
        (lambda: untyped.quantize(model(), batch(), report=1), "report must be what `initialize` returned"),
        (
            lambda: untyped.initialize(nn.Sequential(nn.LazyLinear(3), LIF()), batch()),
            "lazy layers have no weights yet",
        ),
        (lambda: untyped.scale_synapses(model(), batch(), "20"), "positive number of Hz, got '20'"),
        (lambda: untyped.LIF(threshold="1"), "a threshold must be positive and finite, got '1'"),
        (lambda: untyped.LIF(tau_mem=None), "tau_mem must be a positive number of seconds, got None"),
        (lambda: untyped.LIF(dt="1"), "the time step dt must be a positive number of seconds, got '1'"),
        (lambda: untyped.initialize(model(), batch(), generator=3), "a torch.Generator instead, got None and 3"),
        (lambda: untyped.Kaiming(gain=math.nan), "gain of Kaiming must be a positive number, got nan"),
        (lambda: untyped.LSUV(iterations=-1), "iterations of LSUV must be a positive number, got -1"),
        (
            lambda: untyped.initialize(model(), batch(), method=Measured(law=untyped.LIF)),
            r"law must be a law of weights, such as Normal\(\), got <class",
        ),
        (lambda: untyped.inspect(model().to("meta"), batch()), "some have none, on the device meta"),
        (lambda: untyped.initialize(model(), batch().to("meta")), "some have none, on the device meta"),
        (
            lambda: untyped.quantize(with_nan(), batch()),
            r"0\.weight has NaN or infinite values, which no grid contains",
        ),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_with_its_cause(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def of_nobody() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that there is nothing to fill
        return nn.Sequential(nn.Linear(30, 0), LIF(), nn.Linear(0, 5), LI(0.2))


def with_nan() -> nn.Module:
    net = model()
    weight_of(net).data[3, 2] = math.nan
    return net


class Unknown(nn.Module):
    """A layer with neurons of its own that nobody has described."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(40, 30))

    def forward(self, x: Tensor) -> Tensor:
        return spike(x @ self.weight.T - 1.0)


def test_silence_behind_an_unknown_neuron_names_it() -> None:
    with pytest.raises(SilentInputError, match="through Unknown, which may be a neuron that fluctua does not know"):
        fluctua.initialize(nn.Sequential(Unknown(), nn.Linear(40, 5, bias=False), LIF()), batch(), seed=0)
