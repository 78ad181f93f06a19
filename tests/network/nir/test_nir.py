"""Laws of NIR graphs: each convention is its framework's, numbers survive, what cannot be expressed is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import fluctua
from fluctua.layers import OverTime, Recurrent, ResidualBlock
from fluctua.layers.blocks import OneToOne
from fluctua.methods.nir import initialize_nir
from fluctua.network import WiringError, from_nir, to_nir
from fluctua.network.adapters.framework import Timing
from fluctua.network.adapters.registry import specs_of
from fluctua.network.errors import UnsupportedNeuronError
from fluctua.network.nir.conventions import convention_of, neuron_of
from fluctua.neurons import LI, LIF, AdaptiveLIF
from fluctua.neurons.current_based import CurrentBased
from shared.spikes import spikes
from shared.tracing import trace

nir = pytest.importorskip("nir")

T, DT = 100, 1e-3


def response(neuron: nn.Module, steps: int = T) -> np.ndarray[Any, Any]:
    kernel = specs_of(neuron, Timing(steps=steps))[""].neuron.kernel.response(steps)
    return kernel.reshape(steps, -1)[:, 0]


def network(*, convolutional: bool = False) -> nn.Sequential:
    torch.manual_seed(1)

    def cell() -> LIF:
        return LIF(20e-3, 10e-3, DT)

    if convolutional:
        layers = [OverTime(nn.Conv2d(2, 4, 3, padding=1)), cell(), OverTime(nn.AvgPool2d(2)), nn.Flatten(2)]
        return nn.Sequential(*layers, nn.Linear(64, 10, bias=False), LI(50e-3, None, DT))
    block = ResidualBlock(nn.Sequential(nn.Linear(32, 32), cell(), nn.Linear(32, 32)), OneToOne(32), cell())
    recurrent = Recurrent(LIF(torch.linspace(10e-3, 30e-3, 32), 5e-3, DT), nn.Linear(32, 32, bias=False))
    return nn.Sequential(nn.Linear(20, 32), cell(), block, nn.Linear(32, 32), recurrent, nn.Linear(32, 5), LI(dt=DT))


def trains(*shape: int, rate: float = 30.0) -> torch.Tensor:
    return spikes(*shape, p=rate * DT, seed=2)


def lif(n: int, **fields: float) -> Any:
    values = {"tau": 20e-3, "r": 1.0, "v_leak": 0.0, "v_threshold": 1.0} | fields
    return nir.LIF(**{name: np.full(n, value) for name, value in values.items()})


def graph(nodes: dict[str, Any], *edges: tuple[str, str], type_check: bool = True) -> Any:
    return nir.NIRGraph(nodes, list(edges), type_check=type_check)


def same(a: Any, b: Any) -> bool:
    """Whether two graphs have the same nodes with the same numbers, and the same edges."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return sorted(map(str, a)) == sorted(map(str, b))
    return np.array_equal(np.asarray(a), np.asarray(b))


# -- one neuron ---------------------------------------------------------------------------------------------------


class Frameworks:
    """A neuron of each kind that a framework's own exporter knows, with the node that it writes."""

    @staticmethod
    def snntorch(kind: str) -> tuple[nn.Module, Any]:
        package = pytest.importorskip("snntorch")
        export = pytest.importorskip("snntorch.export_nir")._extract_snntorch_module
        alpha, beta, theta = torch.full((3,), 0.8), torch.full((3,), 0.9), torch.ones(3)
        made = {"LIF": lambda: package.Leaky(beta, threshold=theta, init_hidden=True)}
        made["CubaLIF"] = lambda: package.Synaptic(alpha, beta, threshold=theta, init_hidden=True)
        neuron = made[kind]()
        return neuron, export(neuron)

    @staticmethod
    def norse(kind: str) -> tuple[nn.Module, Any]:
        package = pytest.importorskip("norse.torch")
        export = pytest.importorskip("norse.torch.utils.export_nir")._extract_norse_module
        name = {"LIF": "LIFBoxCell", "CubaLIF": "LIFCell", "LI": "LIBoxCell", "IF": "IAFCell"}[kind]
        neuron = getattr(package, name)()
        return neuron, export(neuron)

    @staticmethod
    def spikingjelly(kind: str) -> tuple[nn.Module, Any]:
        package = pytest.importorskip("spikingjelly.activation_based.neuron")
        export = pytest.importorskip("spikingjelly.activation_based.nir_exchange").export_to_nir
        name = {"LIF": "ParametricLIFNode", "CubaLIF": "CUBALIFNode", "IF": "IFNode"}[kind]
        neuron = getattr(package, name)()
        written = export(nn.Sequential(neuron), torch.zeros(1, 3), dt=1e-4)
        return neuron, next(n for n in written.nodes.values() if type(n).__name__ == kind)

    @staticmethod
    def sinabs(kind: str) -> tuple[nn.Module, Any]:
        package = pytest.importorskip("sinabs.layers")
        export = pytest.importorskip("sinabs.nir")._extract_sinabs_module
        neuron = (
            package.IAF() if kind == "IF" else getattr(package, {"LIF": "LIF", "LI": "ExpLeak"}[kind])(tau_mem=20.0)
        )
        neuron(torch.zeros(1, 1, 3))
        return neuron, export(neuron)

    @staticmethod
    def rockpool(kind: str) -> tuple[nn.Module, Any]:
        package = pytest.importorskip("rockpool.nn.modules.torch")
        export = pytest.importorskip("rockpool.nn.modules.torch.nir")._extract_rockpool_module
        name = {"LIF": "LIFNeuronTorch", "CubaLIF": "LIFTorch"}[kind]
        neuron = getattr(package, name)(3, tau_mem=20e-3, dt=DT)
        return neuron, export(neuron)


WRITTEN = {
    "snntorch": ("LIF", "CubaLIF"),
    "norse": ("LIF", "CubaLIF", "LI", "IF"),
    "spikingjelly": ("LIF", "CubaLIF", "IF"),
    "sinabs": ("LIF", "LI", "IF"),
    "rockpool": ("CubaLIF",),
}


@pytest.mark.parametrize(("framework", "kind"), [(name, kind) for name, kinds in WRITTEN.items() for kind in kinds])
def test_a_neuron_that_a_framework_has_written_has_the_kernel_that_it_has_there(framework: str, kind: str) -> None:
    neuron, node = getattr(Frameworks, framework)(kind)
    convention, dt = convention_of(framework, DT if framework in ("sinabs", "rockpool") else None)
    read = neuron_of("it", node, convention, dt, None)
    expected = response(neuron)
    assert np.abs(response(read) - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("kind", ["LIF", "LI", "CubaLIF", "CubaLI", "IF", "I"])
@pytest.mark.parametrize("convention", ["euler", "exact"])
def test_small_steps_of_either_convention_solve_the_equations(convention: str, kind: str) -> None:
    """Continuous response to one spike: R/tau exp(-t/tau), R w/(tau_mem - tau_syn) (...), or R (see nir.ir.neuron)."""
    fields = {"r": 2.0}
    fields |= {} if kind in ("IF", "I") else {"v_leak": 0.0}
    fields |= {"tau_mem": 20e-3, "tau_syn": 10e-3, "w_in": 3.0} if "Cuba" in kind else {}
    fields |= {"tau": 20e-3} if kind in ("LIF", "LI") else {}
    fields |= {"v_threshold": 1.0} if "F" in kind else {}
    node = getattr(nir, kind)(**{name: np.full(2, value) for name, value in fields.items()})
    steps, dt = 800, 1e-4
    read = neuron_of("it", node, *convention_of(convention, dt), None)
    t = (1 + np.arange(steps)) * dt
    if "Cuba" in kind:
        expected = 2 * 3 / (20e-3 - 10e-3) * (np.exp(-t / 20e-3) - np.exp(-t / 10e-3))
    else:
        expected = np.full(steps, 2.0) if kind in ("IF", "I") else 2 / 20e-3 * np.exp(-t / 20e-3)
    # Both are of first order in dt: off by about dt / tau_syn = 1 % of the peak.
    assert np.abs(response(read, steps) / dt - expected).max() < 0.011 * expected.max()


def test_a_neuron_runs_as_its_kernel_says_and_fires_in_the_step_of_the_input() -> None:
    neuron = CurrentBased(0.9, 0.5, DT, decay_syn=0.8, leak=0.1, threshold=1.0)
    pulse = torch.zeros(T, 1, 1)
    pulse[3] = 0.2
    u = CurrentBased(0.9, 0.5, DT, decay_syn=0.8, leak=0.1)(pulse)[:, 0, 0].numpy()
    expected = 0.1 + 0.2 * np.concatenate([np.zeros(3), response(neuron)[:-3]])
    assert np.abs(u - expected).max() < 1e-6
    assert float(neuron(pulse * 100)[3]) == 1
    assert float(neuron(pulse).sum()) == 0


@pytest.mark.parametrize(("reset", "after"), [("zero", 0.25), ("subtract", 1.5)])
def test_a_spike_resets_the_potential(reset: Any, after: float) -> None:
    neuron = CurrentBased(0.5, 1.0, DT, threshold=1.0, v_reset=0.25, reset=reset)
    result = neuron.simulate(torch.tensor([2.5, 0.0]).reshape(2, 1, 1))
    assert float(result.potential[1]) == after


# -- whole graphs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("convention", ["exact", "euler"])
@pytest.mark.parametrize("convolutional", [False, True], ids=["dense", "convolutional"])
def test_a_round_trip_through_a_file_keeps_every_number(tmp_path: Path, convention: str, convolutional: bool) -> None:
    written = to_nir(network(convolutional=convolutional), (2, 8, 8) if convolutional else (20,), convention=convention)
    nir.write(tmp_path / "net.nir", written)
    read = nir.read(tmp_path / "net.nir")
    assert same(written.to_dict(), read.to_dict())
    assert same(read.to_dict(), to_nir(from_nir(tmp_path / "net.nir")).to_dict())


def test_weights_in_double_precision_come_back_as_they_were() -> None:
    weight = np.random.default_rng(0).standard_normal((4, 3))
    nodes = {"in": nir.Input(np.array([3])), "w": nir.Linear(weight), "lif": lif(4), "out": nir.Output(np.array([4]))}
    made = graph(nodes, ("in", "w"), ("w", "lif"), ("lif", "out"))
    assert np.array_equal(to_nir(from_nir(made, DT)).nodes["w"].weight, weight)


@pytest.mark.parametrize("convention", ["exact", "euler"])
def test_an_own_neuron_has_the_same_kernel_after_the_round_trip_but_for_its_delay(convention: str) -> None:
    for own, delay in ((LIF(20e-3, 10e-3, DT), 2), (LIF(20e-3, None, DT), 1), (LI(50e-3, 10e-3, DT), 2)):
        model = from_nir(to_nir(nn.Sequential(nn.Linear(3, 2), own), (3,), convention=convention))
        (neuron,) = [m for m in model.modules() if isinstance(m, CurrentBased)]
        assert np.abs(response(neuron)[:-delay] - response(own)[delay:]).max() < 1e-6


def test_a_network_computes_the_same_after_the_round_trip_before_its_first_spike() -> None:
    """Linear layers, joins and the readout: with thresholds out of reach everything is linear."""
    torch.manual_seed(3)
    weights = nn.Linear(20, 32, bias=False), nn.Linear(32, 5, bias=False)
    model = nn.Sequential(weights[0], LI(20e-3, 10e-3, DT), weights[1], LI(50e-3, None, DT))
    read = from_nir(to_nir(model, (20,)))
    x = trains(T, 3, 20)
    with torch.no_grad():
        late, early = model(x)[3:], read(x)[:-3]  # 2 + 1 steps late
    assert float((late - early).abs().max()) < 1e-5 * float(late.abs().max())


def test_pathways_of_a_graph_are_found() -> None:
    read = from_nir(to_nir(network(), (20,)))
    found = {p.name: {q.name: q.sources for q in p.pathways} for p in trace(read, trains(20, 2, 20))}
    assert found == {
        "1": {"0.weight": ("input",)},
        "2_body_1": {"2_body_0.weight": ("1",)},
        "2_cell": {"2_body_2.weight": ("2_body_1",)},
        "4": {"3.weight": ("2_cell",), "4.weight.weight": ("4",)},
        "6": {"5.weight": ("4",)},
    }


def test_a_graph_is_initialised_and_written_back(tmp_path: Path) -> None:
    nir.write(tmp_path / "net.nir", to_nir(network(), (20,)))
    new, report = initialize_nir(tmp_path / "net.nir", trains(T, 16, 20, rate=50.0), seed=0)
    for population in report:
        assert population.sigma_u == pytest.approx(population.target_sigma_u, rel=0.1)
    old = nir.read(tmp_path / "net.nir")
    changed = {name for name in old.nodes if not same(old.nodes[name].to_dict(), new.nodes[name].to_dict())}
    assert changed == {"0", "2.body.0", "2.body.2", "3", "4.weight", "5"}
    again = fluctua.inspect(from_nir(new), trains(T, 16, 20, rate=50.0))
    assert [p.sigma_u for p in again] == pytest.approx([p.sigma_u for p in report], rel=1e-5)


def test_an_initialised_graph_is_on_target_where_its_equations_are_integrated() -> None:
    """Forward Euler as the docstring of `nir.LIF` has the neuron, in NumPy."""
    rng = np.random.default_rng(0)
    weights = [nir.Linear(rng.standard_normal((64, 30))), nir.Linear(rng.standard_normal((64, 64)))]
    cells = [lif(64, r=2.0, v_leak=0.1), lif(64, tau=10e-3, v_leak=0.1)]
    x = trains(T, 16, 30, rate=50.0)
    made = nir.NIRGraph.from_list(weights[0], cells[0], weights[1], cells[1])
    new, report = initialize_nir(made, x, dt=DT, convention="euler", seed=0)
    arriving = x.numpy()
    for name, population, cell in zip(("linear", "linear_1"), report, cells, strict=True):
        current = arriving @ new.nodes[name].weight.T
        v = np.full(current.shape[1:], cell.v_leak)
        free, potentials, fired = v, [], []
        for now in current:
            free = free + DT / cell.tau * (cell.v_leak - free + cell.r * now)
            v = v + DT / cell.tau * (cell.v_leak - v + cell.r * now)
            out = v > cell.v_threshold
            v = np.where(out, cell.v_reset, v)
            potentials.append(free)
            fired.append(out)
        arriving = np.array(fired, float)
        assert np.mean(potentials) == pytest.approx(0.0, abs=0.05)
        assert np.std(potentials) == pytest.approx(population.target_sigma_u, rel=0.05)


def test_a_nested_graph_is_taken_apart() -> None:
    inside = graph(
        {
            "input": nir.Input(np.array([4])),
            "lif": lif(4),
            "w": nir.Linear(np.eye(4)),
            "output": nir.Output(np.array([4])),
        },
        *(("input", "lif"), ("lif", "w"), ("w", "lif"), ("lif", "output")),
    )
    outside = graph(
        {
            "in": nir.Input(np.array([3])),
            "w": nir.Linear(np.ones((4, 3))),
            "rnn": inside,
            "out": nir.Output(np.array([4])),
        },
        *(("in", "w"), ("w", "rnn"), ("rnn", "out")),
    )
    model = from_nir(outside, DT)
    assert isinstance(model.rnn_lif, Recurrent)
    assert set(model.synapses) == {"w", "rnn.w"}
    with torch.no_grad():
        model.get_parameter("rnn_lif.weight.weight").mul_(2)
    assert np.array_equal(to_nir(model).nodes["rnn"].nodes["w"].weight, 2 * np.eye(4))
    assert np.array_equal(inside.nodes["w"].weight, np.eye(4))


def test_pools_scales_and_delays_do_what_they_say() -> None:
    pool = nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0]))
    shape, after = np.array([1, 4, 4]), np.array([1, 2, 2])
    nodes = {
        "in": nir.Input(shape),
        "pool": pool,
        "scale": nir.Scale(np.full(after, 0.5)),
        "delay": nir.Delay(np.array([[[0.0, DT], [2 * DT, 0.0]]])),
        "out": nir.Output(after),
    }
    model = from_nir(graph(nodes, ("in", "pool"), ("pool", "scale"), ("scale", "delay"), ("delay", "out")), DT)
    x = torch.zeros(3, 1, 1, 4, 4)
    x[0] = 1.0
    expected = torch.tensor([[[2.0, 0], [0, 2]], [[0, 2], [0, 0]], [[0, 0], [2, 0]]])
    assert torch.equal(model(x)[:, 0, 0], expected)


# -- refusals -----------------------------------------------------------------------------------------------------

IO = {"in": nir.Input(np.array([4])), "out": nir.Output(np.array([4]))}
SQUARE = nir.Linear(np.eye(4))


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (lambda: graph(IO | {"t": nir.Threshold(np.ones(4))}, ("in", "t"), ("t", "out")), "t is a Threshold"),
        (
            lambda: graph({"a": nir.Input(np.array([4])), "l": lif(4)}, ("a", "l"), type_check=False),
            "no Input or no Output",
        ),
        (
            lambda: graph(
                IO | {"a": lif(4), "b": lif(4), "v": SQUARE, "w": SQUARE},
                *(("in", "a"), ("a", "w"), ("w", "b"), ("b", "v"), ("v", "a"), ("b", "out")),
            ),
            "has a cycle over",
        ),
        (
            lambda: graph(
                IO | {"a": lif(4), "d": nir.Delay(np.zeros(4))}, ("in", "a"), ("a", "d"), ("d", "a"), ("a", "out")
            ),
            "through d, which has no weights",
        ),
        (
            lambda: graph(IO | {"d": nir.Delay(np.full(4, 1.5 * DT))}, ("in", "d"), ("d", "out")),
            "not a whole number",
        ),
    ],
    ids=["threshold", "no output", "cycle", "weightless loop", "half a step"],
)
def test_a_graph_that_cannot_be_run_is_refused(made: Any, reason: str) -> None:
    with pytest.raises(WiringError, match=reason):
        from_nir(made(), DT)


def test_a_step_too_long_for_the_neurons_is_refused() -> None:
    with pytest.raises(UnsupportedNeuronError, match=r"0\.5 time steps, which makes it unstable"):
        neuron_of("it", lif(2, tau=0.5e-3), *convention_of("euler", DT), None)


def test_a_neuron_that_a_framework_never_writes_is_refused() -> None:
    node = nir.CubaLI(*[np.ones(1)] * 4)
    with pytest.raises(UnsupportedNeuronError, match="CubaLI, which this convention does not know"):
        neuron_of("it", node, *convention_of("sinabs", DT), None)


def test_the_time_step_and_the_convention_must_be_known() -> None:
    made = graph(IO | {"a": lif(4)}, ("in", "a"), ("a", "out"))
    with pytest.raises(ValueError, match="give dt= in seconds"):
        from_nir(made)
    with pytest.raises(ValueError, match="unknown convention 'lava'"):
        from_nir(made, DT, "lava")
    assert [m.dt for m in from_nir(made, convention="snntorch").modules() if isinstance(m, CurrentBased)] == [1e-4]


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (AdaptiveLIF(dt=DT), "an AdaptiveLIF|a AdaptiveLIF"),
        (nn.MaxPool1d(2), "take nn.AvgPool2d"),
        (OverTime(nn.BatchNorm1d(4)), "fold it into the weight"),
        (LIF(dt=2 * DT), "one time step"),
    ],
    ids=["adaptive", "max pool", "batch norm", "two time steps"],
)
def test_what_nir_cannot_express_is_refused(module: nn.Module, reason: str) -> None:
    with pytest.raises(WiringError, match=reason):
        to_nir(nn.Sequential(LIF(dt=DT), module), (4,))


def test_something_else_than_a_graph_is_refused() -> None:
    with pytest.raises(WiringError, match="got a Linear"):
        from_nir(nn.Linear(2, 2), DT)
