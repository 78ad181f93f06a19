"""Laws of `initialize(..., surrogate=)`: the wanted share, the forward pass untouched, all or nothing."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fluctua
from fluctua import Target
from fluctua.layers import DaleLayer, Recurrent
from fluctua.methods import Measured
from fluctua.neurons import LI, LIF, ArcTan, SigmoidDerivative, SuperSpike, from_step, spike
from fluctua.neurons.current_based import CurrentBased
from fluctua.neurons.surrogates import Surrogate
from fluctua.state.summary import SHARE
from fluctua.theory import Relay
from shared.spikes import spikes

N = 40
X = spikes(100, 12, N, p=0.05).float()


def stack(*cells: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [layer for cell in cells for layer in (nn.Linear(N, N), cell)]
    return nn.Sequential(*layers, nn.Linear(N, 3), LI(0.2))


def betas(model: nn.Module) -> list[float]:
    found = (getattr(m, "surrogate", None) for m in model.modules())
    return [surrogate.beta for surrogate in found if isinstance(surrogate, Surrogate)]


@pytest.mark.parametrize("surrogate", [SuperSpike(20.0), SuperSpike(0.1), SigmoidDerivative(), ArcTan()], ids=repr)
@pytest.mark.parametrize("xi", [0.7, 2.0])
def test_every_population_gets_the_share_whatever_shape_start_and_target(surrogate: Surrogate, xi: float) -> None:
    model = stack(LIF(surrogate=surrogate), LIF(dt=4e-3, threshold=3.0, surrogate=surrogate))
    report = fluctua.initialize(model, X, Target(xi=xi), surrogate="share", seed=0)
    assert [p.participation for p in report if p.threshold] == pytest.approx([SHARE] * 2, rel=0.011)
    assert [p.sharpness for p in report if p.threshold] == betas(model)
    assert all(f"{beta:.3g}" == f"{beta:.10g}" for beta in betas(model))  # as it is read in a report


def test_sharpness_goes_with_the_unit_of_the_potential() -> None:
    small, large = (stack(LIF(threshold=theta)) for theta in (1.0, 100.0))
    for model in (small, large):
        fluctua.initialize(model, X, surrogate="share", seed=0)
    assert betas(small)[0] == pytest.approx(100 * betas(large)[0], rel=0.02)


def test_the_weights_and_the_forward_pass_are_those_without() -> None:
    sharp, blunt = stack(LIF(), LIF()), stack(LIF(), LIF())
    plain = fluctua.initialize(sharp, X, seed=3)
    report = fluctua.initialize(blunt, X, surrogate="share", seed=3)
    assert all(torch.equal(a, b) for a, b in zip(sharp.parameters(), blunt.parameters(), strict=True))
    assert torch.equal(sharp(X), blunt(X))
    assert betas(sharp) == [20.0, 20.0]
    assert [p.sigma_u for p in plain] == [p.sigma_u for p in report]


def test_a_number_is_the_sharpness_itself_for_the_chosen_populations() -> None:
    model = stack(LIF(), LIF(), LIF())
    report = fluctua.initialize(model, X, surrogate=7.5, populations=["1", "5"], seed=0)
    assert betas(model) == [7.5, 20.0, 7.5]
    assert [p.sharpness for p in report if p.threshold] == [7.5, 20.0, 7.5]


@pytest.mark.parametrize("wanted", ["sharp", 0.0, -1.0, float("nan"), float("inf"), True])
def test_anything_else_is_refused_before_anything_is_done(wanted: Any) -> None:
    model = stack(LIF())
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match='surrogate= is "share", a sharpness above 0, or None'):
        fluctua.initialize(model, X, surrogate=wanted, seed=0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    "cell",
    [
        Recurrent(LIF(), nn.Linear(N, N, bias=False)),
        CurrentBased(0.9, 0.1, 2e-3, decay_syn=0.8, threshold=1.0),
    ],
    ids=lambda cell: type(cell).__name__,
)
def test_own_neurons_of_all_kinds_get_it_and_keep_it_in_checkpoints_and_text(cell: nn.Module) -> None:
    model = stack(cell, LIF())
    fresh = copy.deepcopy(model)
    report = fluctua.initialize(model, X, surrogate="share", seed=0)
    assert [p.participation for p in report if p.threshold] == pytest.approx([SHARE] * 2, rel=0.011)
    fresh.load_state_dict(model.state_dict())
    assert betas(fresh) == betas(model) != [20.0, 20.0]
    if isinstance(cell, Recurrent):
        assert f"SuperSpike(beta={betas(model)[0]})" in repr(model)


def test_checkpoints_of_surrogates_as_built_are_what_they_were() -> None:
    model = stack(LIF())
    assert not any("surrogate" in name for name in model.state_dict())
    fluctua.initialize(model, X, surrogate=3.0, seed=0)
    state = model.state_dict()
    assert state["1.surrogate_beta"] == 3.0
    other = stack(LIF(surrogate=SigmoidDerivative(5.0)))
    other.load_state_dict(state)
    assert other[1].surrogate == SigmoidDerivative(3.0)


def test_dale_layers_get_it_in_both_populations() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(DaleLayer(N, 32, 8), nn.Linear(32, 3), LI(0.2))
    report = fluctua.initialize(model, X, surrogate="share", seed=0)
    assert [p.participation for p in report if p.threshold] == pytest.approx([SHARE] * 2, rel=0.011)


def test_a_silent_population_is_left_alone_with_a_warning() -> None:
    model = stack(LIF(), LIF(threshold=100.0, surrogate=SuperSpike(11.0)))
    report = fluctua.initialize(model, X, populations=["1"], surrogate="share", seed=0)
    assert betas(model)[1] == 11.0
    report = fluctua.initialize(
        stack(LIF(), LIF(threshold=100.0)), X, Target(xi=9.0), surrogate="share", method="poisson"
    )
    (warning,) = [w for w in report.warnings if "surrogate" in w]
    assert warning == "the surrogate of 1, 3 was left as it is: no neuron fires on this batch"


def test_a_step_of_the_users_own_has_no_parameter_to_set_and_a_note_says_so() -> None:
    def step(x: Tensor, state: Any, c: Any) -> Any:
        u = c["decay"] * state[0] + x
        out = spike(u - c["theta"])
        return out, (u * (1 - out.detach()),)

    model = stack(from_step(step, constants={"decay": 0.9, "theta": 1.0}, threshold="theta"), LIF())
    report = fluctua.initialize(model, X, surrogate="share", seed=0)
    (note,) = [n for n in report.notes if "surrogate" in n]
    assert note.startswith("the surrogate of 1 was left as it is: fluctua knows no parameter")
    assert report["1"].sharpness is None
    assert 0.01 < report["1"].participation < 0.2  # it is known all the same
    assert report["3"].participation == pytest.approx(SHARE, rel=0.011)


class Breaking(LIF):
    """Goes wrong when its surrogate has been set."""

    broken = False

    def initial_state(self, current: Tensor) -> Any:
        if Breaking.broken and self.surrogate.beta != 20.0:
            raise RuntimeError("broken")
        return super().initial_state(current)


def test_a_failing_call_leaves_surrogates_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    model = stack(LIF(), Breaking())
    before, weight = repr(model), model.get_parameter("0.weight").clone()
    monkeypatch.setattr(Breaking, "broken", True)
    with pytest.raises(RuntimeError, match="broken"):
        fluctua.initialize(model, X, surrogate="share", seed=0)
    assert repr(model) == before
    assert betas(model) == [20.0, 20.0]
    assert torch.equal(model.get_parameter("0.weight"), weight)


# --- frameworks ---

Make = Callable[[], tuple[nn.Module, dict[str, Any]]]


def snntorch() -> tuple[nn.Module, dict[str, Any]]:
    snn = pytest.importorskip("snntorch")
    surrogate = pytest.importorskip("snntorch.surrogate")
    shared = surrogate.fast_sigmoid(slope=25)
    cells = [
        snn.Leaky(beta=0.9, init_hidden=True),
        snn.Synaptic(alpha=0.8, beta=0.9, spike_grad=shared, init_hidden=True),
        snn.Alpha(alpha=0.9, beta=0.8, spike_grad=surrogate.sigmoid(), init_hidden=True),
        snn.Leaky(beta=0.9, spike_grad=shared, init_hidden=True, output=True),
    ]
    return _of(cells), {}


def norse() -> tuple[nn.Module, dict[str, Any]]:
    norse = pytest.importorskip("norse.torch")
    p = norse.LIFParameters(method="tanh", alpha=torch.tensor(10.0))
    cells = [norse.LIFCell(p), norse.LIFRefracCell(norse.LIFRefracParameters(lif=p)), norse.LIFCell(p)]
    return norse.SequentialState(*_layers(cells)), {}


def spikingjelly() -> tuple[nn.Module, dict[str, Any]]:
    neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
    cells = [
        neuron.LIFNode(tau=4.0, step_mode="m"),
        neuron.ParametricLIFNode(step_mode="m"),
        neuron.IFNode(step_mode="m"),
        neuron.LIFNode(step_mode="m"),  # all made by default, with one surrogate for all of them
    ]
    return _of(cells), {}


def sinabs() -> tuple[nn.Module, dict[str, Any]]:
    layers = pytest.importorskip("sinabs.layers")
    cells = [layers.LIF(tau_mem=10.0), layers.LIF(tau_mem=10.0, tau_syn=5.0)]
    return _of(cells), {"time": 1}


def rockpool() -> tuple[nn.Module, dict[str, Any]]:
    modules = pytest.importorskip("rockpool.nn.modules")
    combinators = pytest.importorskip("rockpool.nn.combinators")
    cells = [modules.LIFTorch(N, dt=1e-3, bias=torch.full((N,), 1e-3)) for _ in range(2)]
    layers = [layer for cell in cells for layer in (modules.LinearTorch((N, N)), cell)]
    return combinators.Sequential(*layers), {"time": 1}


def _layers(cells: list[Any]) -> list[nn.Module]:
    return [layer for cell in cells for layer in (nn.Linear(N, N), cell)]


def _of(cells: list[Any]) -> nn.Module:
    return nn.Sequential(*_layers(cells))


@pytest.mark.parametrize("make", [snntorch, norse, spikingjelly, sinabs, rockpool], ids=lambda make: make.__name__)
def test_each_framework_gets_it_in_its_own_parameter_module_by_module(make: Make) -> None:
    torch.manual_seed(0)
    model, options = make()
    batch = X.transpose(0, 1) if options else X
    relay = Measured(law=Relay())
    report = fluctua.initialize(model, batch, method=relay, surrogate="share", readouts=[], seed=0, **options)
    spiking = [p for p in report if p.threshold is not None]
    assert len(spiking) >= 2
    assert [p.sigma_u for p in spiking] == pytest.approx([p.target_sigma_u for p in spiking], rel=0.02)
    assert [p.participation for p in spiking] == pytest.approx([SHARE] * len(spiking), rel=0.02)  # a window has steps
    assert len({p.sharpness for p in spiking}) > 1  # a parameter of its own, even where one object served several
    assert not [note for note in report.notes if "surrogate" in note]
    again = fluctua.inspect(model, batch, loss=_loss, readouts=[], **options)
    assert [again[p.name].sharpness for p in spiking] == [p.sharpness for p in spiking]


def _loss(output: Any) -> Tensor:
    first: Tensor = output if isinstance(output, Tensor) else _loss(output[0])
    return first.square().mean() if first.ndim else first


@pytest.mark.parametrize("make", [snntorch, norse, spikingjelly, sinabs, rockpool], ids=lambda make: make.__name__)
def test_what_failed_later_leaves_the_frameworks_surrogate_as_it_was(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model, options = make()
    batch = X.transpose(0, 1) if options else X

    def sharpnesses() -> list[float | None]:
        found = fluctua.inspect(model, batch, loss=_loss, readouts=[], **options)
        return [p.sharpness for p in found if p.threshold is not None]

    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("too late")

    before = sharpnesses()
    monkeypatch.setattr("fluctua.methods.method.report_of", fail)
    with pytest.raises(RuntimeError, match="too late"):
        fluctua.initialize(model, batch, surrogate=0.77, readouts=[], seed=0, **options)
    assert sharpnesses() == before
    assert 0.77 not in before


def test_a_surrogate_whose_parameter_changes_nothing_stays_as_it_is_with_a_note() -> None:
    norse = pytest.importorskip("norse.torch")
    model = norse.SequentialState(*_layers([norse.LIFCell(), norse.LIFCell()]))  # SuperSpike of 1.1.0 ignores alpha
    report = fluctua.initialize(model, X, surrogate="share", readouts=[], seed=0)
    (note,) = [n for n in report.notes if "surrogate" in n]
    assert note == "the surrogate of 1, 3 was left as it is: its alpha does not change how many neurons take part"
    assert [p.sharpness for p in report] == [100.0, 100.0]


def rleaky() -> tuple[list[nn.Module], dict[str, Any]]:
    snn = pytest.importorskip("snntorch")
    return [nn.Linear(N, N), snn.RLeaky(beta=0.9, linear_features=N, init_hidden=True, output=True)], {}


def norse_cell() -> tuple[list[nn.Module], dict[str, Any]]:
    norse = pytest.importorskip("norse.torch")
    return [norse.LIFRecurrentCell(N, N, p=norse.LIFParameters(method="tanh", alpha=torch.tensor(10.0)))], {}


def sinabs_recurrent() -> tuple[list[nn.Module], dict[str, Any]]:
    layers = pytest.importorskip("sinabs.layers")
    own = nn.Linear(N, N, bias=False)
    return [nn.Linear(N, N), layers.LIFRecurrent(tau_mem=10.0, rec_connect=own)], {"time": 1}


def container() -> tuple[list[nn.Module], dict[str, Any]]:
    pytest.importorskip("spikingjelly.activation_based")
    from spikingjelly.activation_based import layer, neuron

    return [layer.LinearRecurrentContainer(neuron.LIFNode(tau=4.0), N, N, step_mode="m")], {}


@pytest.mark.parametrize("make", [rleaky, norse_cell, sinabs_recurrent, container], ids=lambda make: make.__name__)
def test_neurons_that_hear_themselves_inside_one_module_get_it_too(
    make: Callable[[], tuple[list[nn.Module], dict[str, Any]]],
) -> None:
    torch.manual_seed(0)
    layers, options = make()
    norse = layers[0] if len(layers) == 1 and not hasattr(layers[0], "sub_module") else None
    model = nn.Sequential(*layers) if norse is None else pytest.importorskip("norse.torch").SequentialState(norse)
    batch = X.transpose(0, 1) if options else X
    (p,) = fluctua.initialize(model, batch, surrogate="share", readouts=[], seed=0, **options)
    assert p.participation == pytest.approx(SHARE, rel=0.011)
    (again,) = fluctua.initialize(model, batch, surrogate=3.0, readouts=[], seed=0, **options)
    assert again.sharpness == pytest.approx(3.0)
