"""Laws of the monitor: it sees what a measurement by hand sees, changes nothing, and survives a kill."""

import copy
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn

import fluctua
from fluctua import Monitor
from fluctua.explain.monitor import FILE, append_rows, read_rows
from fluctua.explain.monitor_figure import LABELS
from fluctua.layers import DaleLayer, Recurrent
from fluctua.neurons import LI, LIF
from shared.processes import start

X = (torch.rand(60, 8, 30, generator=torch.Generator().manual_seed(0)) < 0.1).float()
LABELS_OF_X = torch.arange(8) % 3


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Linear(30, 20), LIF(), nn.Linear(20, 20), Recurrent(LIF(), nn.Linear(20, 20, bias=False))]
    model = nn.Sequential(*layers, nn.Linear(20, 3), LI(0.1))
    fluctua.initialize(model, X, seed=0)
    return model


def loss_of(model: nn.Module) -> Tensor:
    return nn.functional.cross_entropy(model(X).mean(0), LABELS_OF_X)


def train(model: nn.Module, steps: int, loss: Callable[[nn.Module], Tensor] = loss_of) -> None:
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model).backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def test_a_row_holds_what_a_measurement_by_hand_shows() -> None:
    model = network()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    report = fluctua.inspect(model, X, loss=lambda output: nn.functional.cross_entropy(output.mean(0), LABELS_OF_X))
    with Monitor(model, every=1) as monitor:
        train(model, 1)
    assert [row["population"] for row in monitor.rows()] == [p.name for p in report] == ["1", "3", "5"]
    for row, p in zip(monitor.rows(), report, strict=True):
        assert row["step"] == 0
        seen = [row[key] for key in ("rate", "silent", "saturated", "mu_u", "sigma_u", "xi", "gradient_norm")]
        own = [p.rate, p.silent, p.saturated, p.mu_u, p.sigma_temporal, p.xi, p.gradient_norm]
        assert [x is None for x in seen] == [x is None for x in own]
        assert [x or 0.0 for x in seen] == pytest.approx([x or 0.0 for x in own], rel=1e-3, abs=1e-4)
        weights = [q.name for q in p.pathways]
        now = dict(model.named_parameters())
        moved = sum(float((now[n] - before[n]).detach().square().sum()) for n in weights) ** 0.5
        size = sum(float(before[n].square().sum()) for n in weights) ** 0.5
        assert row["update_ratio"] == pytest.approx(moved / size, rel=1e-4)
    assert all(0 < (row["surrogate"] or 1) <= 1 for row in monitor.rows())


def test_the_populations_of_one_module_are_told_apart() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(DaleLayer(30, 20, 6), nn.Linear(20, 3), LI(0.1))
    fluctua.initialize(model, X, seed=0)
    report = fluctua.inspect(model, X)
    with Monitor(model, every=1) as monitor:
        train(model, 1)
    assert [row["population"] for row in monitor.rows()] == [p.name for p in report]
    for key, own in (("rate", [p.rate for p in report]), ("sigma_u", [p.sigma_temporal for p in report])):
        assert [row[key] or 0.0 for row in monitor.rows()] == pytest.approx([x or 0.0 for x in own], rel=1e-3)


def snn() -> nn.Module:
    snntorch = pytest.importorskip("snntorch")
    torch.manual_seed(0)
    leaky = {"beta": 0.9, "init_hidden": True}
    return nn.Sequential(nn.Linear(30, 20), snntorch.Leaky(**leaky), nn.Linear(20, 3), snntorch.Leaky(**leaky))


def snn_loss(model: nn.Module) -> Tensor:
    """As the tutorials of snnTorch have it: reset, then one call a step."""
    for m in model.modules():
        if hasattr(m, "reset_mem"):
            m.reset_mem()  # type: ignore[operator]
    return nn.functional.cross_entropy(torch.stack([model(x) for x in X]).sum(0), LABELS_OF_X)


def jelly() -> nn.Module:
    layer, neuron = (pytest.importorskip(f"spikingjelly.activation_based.{name}") for name in ("layer", "neuron"))
    torch.manual_seed(0)
    layers = [layer.Linear(30, 20), neuron.LIFNode(), layer.Linear(20, 3), neuron.LIFNode()]
    return nn.Sequential(*layers)


def jelly_loss(model: nn.Module) -> Tensor:
    """As the tutorials of SpikingJelly have it: the rate over all steps against one hot, and a reset."""
    functional = pytest.importorskip("spikingjelly.activation_based.functional")
    rate = sum((model(4 * x) for x in X), torch.zeros(())) / len(X)
    loss = nn.functional.mse_loss(rate, nn.functional.one_hot(LABELS_OF_X, 3).float())
    functional.reset_net(model)
    return loss


LOOPS: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module], Tensor]]] = {
    "a plain loop": (network, loss_of),
    "snnTorch": (snn, snn_loss),
    "SpikingJelly": (jelly, jelly_loss),
}


@pytest.mark.parametrize("name", LOOPS)
def test_the_weights_are_the_same_with_and_without(name: str) -> None:
    make, loss = LOOPS[name]
    without, watched = make(), make()
    train(without, 5, loss)
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in watched.modules()]
    with Monitor(watched, every=2) as monitor:
        train(watched, 5, loss)
    assert all(torch.equal(a, b) for a, b in zip(without.parameters(), watched.parameters(), strict=True))
    assert sorted({row["step"] for row in monitor.rows()}) == [0, 2, 4]
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in watched.modules()] == hooks
    first = [row for row in monitor.rows() if row["step"] == 0]
    assert len(first) == len({row["population"] for row in first}) == sum(1 for _ in fluctua.inspect(without, X))
    again = monitor.rows()
    train(watched, 2, loss)
    assert monitor.rows() == again, "it looks no more once it is closed"


def test_the_rate_of_a_loop_over_steps_is_that_of_all_of_them() -> None:
    model = snn()
    report = fluctua.inspect(model, X)
    with Monitor(model, every=1) as monitor:
        train(model, 1, snn_loss)
    assert [row["rate"] for row in monitor.rows()] == pytest.approx([p.rate for p in report], rel=1e-5)
    assert [row["sigma_u"] for row in monitor.rows()] == pytest.approx([p.sigma_temporal for p in report], rel=1e-4)


def test_a_run_that_was_killed_goes_on_in_the_same_file(tmp_path: Path) -> None:
    model = network()
    with Monitor(model, every=2, out=tmp_path) as monitor:
        train(model, 4)
    file = tmp_path / FILE
    with file.open("a") as opened:
        opened.write('{"step": 4, "popul')  # killed in the middle of a line
    with Monitor(model, every=2, out=tmp_path, start=4) as resumed:
        train(model, 3)
    steps = [row["step"] for row in resumed.rows()]
    assert sorted(set(steps)) == [0, 2, 4, 6]
    assert read_rows(file) == resumed.rows()
    assert resumed.rows()[: len(monitor.rows())] == monitor.rows()
    assert Monitor(model, every=2, out=tmp_path).step == 7


def test_a_step_that_is_seen_again_counts_as_it_was_last(tmp_path: Path) -> None:
    file = tmp_path / FILE
    append_rows(file, [{"step": k, "population": "1", "rate": 1.0} for k in (0, 1)])
    append_rows(file, [{"step": 1, "population": "1", "rate": 2.0}])
    assert [row["rate"] for row in read_rows(file)] == [1.0, 2.0]
    assert len(file.read_text().splitlines()) == 3
    with file.open("ab") as opened:
        opened.write(b"\n1\n[]\n{}\n\xff\xfe\n" + b"[" * 50 + b"\n")
    assert [row["rate"] for row in read_rows(file)] == [1.0, 2.0]


class Writer:
    """Takes numbers as TensorBoard does."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, float, int]] = []

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.seen.append((name, value, step))


class Run:
    """Takes numbers as W&B does."""

    def __init__(self) -> None:
        self.seen: list[tuple[dict[str, float], int]] = []

    def log(self, numbers: dict[str, float], step: int) -> None:
        self.seen.append((numbers, step))


class Metrics(Run):
    """Takes numbers as MLflow and the loggers of Lightning do."""

    log_metrics = Run.log
    log = None  # type: ignore[assignment]


def test_loggers_get_every_number() -> None:
    model, writer, run, metrics = network(), Writer(), Run(), Metrics()
    with Monitor(model, every=2, loggers=[writer, run, metrics]) as monitor:
        train(model, 3)
    for row in monitor.rows():
        for key in LABELS:
            if row[key] is not None:
                name = f"{row['population']}/{key}"
                assert (name, row[key], row["step"]) in writer.seen
                assert any(n.get(name) == row[key] and s == row["step"] for n, s in run.seen)
    assert metrics.seen == run.seen
    with pytest.raises(ValueError, match="list is not a logger: it has none of add_scalar"):
        Monitor(model, loggers=[[]])


def test_as_a_callback_of_lightning_it_sees_the_steps_of_the_trainer(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning")
    from lightning.pytorch.loggers import TensorBoardLogger

    class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def training_step(self, batch: Any, k: int) -> Tensor:
            return loss_of(self.net)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.1)

    def fit(callbacks: Callable[[Any], list[Any]], steps: int = 4, resumed: Path | None = None) -> Any:
        module = Module()
        trainer = lightning.Trainer(
            max_steps=steps,
            accelerator="cpu",
            logger=TensorBoardLogger(tmp_path),
            enable_checkpointing=False,
            callbacks=callbacks(module),
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        loader: Any = torch.utils.data.DataLoader(range(8))  # type: ignore[arg-type]
        trainer.fit(module, loader, ckpt_path=resumed)
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        return module

    SummaryWriter = pytest.importorskip("tensorboardX").SummaryWriter
    monitors: list[Monitor] = []

    def watching(module: Any) -> list[Any]:
        logger = SummaryWriter(str(tmp_path / "state"))
        monitors.append(Monitor(module.net, every=2, out=tmp_path, loggers=[logger]))
        return [monitors[-1].callback()]

    without, watched = fit(lambda module: []), fit(watching)
    assert all(torch.equal(a, b) for a, b in zip(without.parameters(), watched.parameters(), strict=True))
    assert sorted({row["step"] for row in monitors[0].rows()}) == [0, 2]
    assert all(row["gradient_norm"] > 0 and row["update_ratio"] > 0 for row in monitors[0].rows())
    fit(watching, 6, tmp_path / "last.ckpt")  # killed, and gone on with
    assert sorted({row["step"] for row in monitors[1].rows()}) == [0, 2, 4]
    assert read_rows(tmp_path / FILE) == monitors[1].rows()
    assert list((tmp_path / "state").glob("events.*"))


def test_passes_without_a_gradient_and_other_optimisers_do_not_count() -> None:
    model, other = network(), nn.Linear(3, 3)
    with Monitor(model, every=1) as monitor:
        with torch.no_grad():
            model(X)
        train(other, 2, lambda m: m(torch.ones(3)).sum())
        train(model, 1)
    assert {row["step"] for row in monitor.rows()} == {0}


@pytest.mark.parametrize("call", [fluctua.inspect, fluctua.diagnose, fluctua.fuse], ids=lambda call: call.__name__)
def test_passes_of_fluctua_itself_do_not_count(call: Callable[..., Any]) -> None:
    def rows(between: Callable[[nn.Module, Tensor], object]) -> list[dict[str, Any]]:
        model = snn()
        with Monitor(model, every=1) as monitor:
            for _ in range(2):
                between(model, X)
                train(model, 1, snn_loss)
        return monitor.rows()

    assert rows(call) == rows(lambda model, x: None)


def test_it_says_in_one_line_what_it_has_seen_and_draws_it() -> None:
    pytest.importorskip("matplotlib")
    from fluctua.state.style import new_figure
    from shared.layout import assert_legible

    model = network()
    with Monitor(model, every=2) as monitor:
        train(model, 5)
    assert repr(monitor) == "<Monitor every 2 steps: 3 seen, up to step 4>"
    assert str(monitor).splitlines()[0].split()[:3] == ["population", "step", "rate"]
    assert len(str(monitor).splitlines()) == 5
    assert monitor._repr_html_().count("<tr>") == 4
    figure = monitor.plot()
    assert_legible(figure)
    alone = monitor.plot("xi")
    assert_legible(alone)
    assert [line.get_label() for line in alone.axes[0].lines] == ["1", "3"]  # the readout has no threshold
    axis = new_figure(4, 3).subplots()
    assert monitor.plot(ax=axis) is axis.figure
    assert axis.get_ylabel() == LABELS["rate"]
    with pytest.raises(ValueError, match="a monitor has no 'loss': choose one of rate, silent"):
        monitor.plot("loss")
    assert json.loads(monitor.to_json()) == monitor.rows()
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert list(lines["1"].get_ydata()) == [row["rate"] for row in monitor.rows() if row["population"] == "1"]  # type: ignore[arg-type]
    assert Monitor(model)._repr_html_().count("<img") == 0


def test_rows_are_plain_json(tmp_path: Path) -> None:
    model = network()
    with torch.no_grad():
        model.get_parameter("0.weight").fill_(torch.nan)
    with Monitor(model, every=1, out=tmp_path):
        train(copy.deepcopy(model), 1)
        train(model, 1)
    rows = [json.loads(line) for line in (tmp_path / FILE).read_text().splitlines()]
    assert [row["population"] for row in rows] == ["1", "3", "5"]
    assert rows[0]["mu_u"] is None


@pytest.mark.parametrize("every", [0, 2.5, math.nan])
def test_an_interval_that_is_no_number_of_steps_is_refused(every: Any) -> None:
    with pytest.raises(ValueError, match=f"every must be a whole number, at least 1, got {every}"):
        Monitor(network(), every=every)


def _rank(rank: int, folder: str) -> None:
    """One of two processes that train on a half of the batch each."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    model = network()
    shared = nn.parallel.DistributedDataParallel(model)
    with Monitor(model, every=2, out=folder) as monitor:
        train(shared, 3, lambda m: nn.functional.cross_entropy(m(X[:, rank::2]).mean(0), LABELS_OF_X[rank::2]))
    torch.save([model.state_dict(), monitor.rows()], f"{folder}/{rank}.pt")
    distributed.barrier()
    os._exit(0)  # torch 2.13 may hang when it takes the group apart


def test_of_two_processes_the_first_writes_and_both_agree_on_gradients_and_updates(tmp_path: Path) -> None:
    if not distributed.is_available():
        pytest.skip("this torch was built without torch.distributed")
    start(_rank, str(tmp_path))
    (weights, rows), (others, seen) = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert all(torch.equal(value, others[name]) for name, value in weights.items())
    assert len((tmp_path / FILE).read_text().splitlines()) == len(rows) == 6
    assert read_rows(tmp_path / FILE) == rows
    for key in ("gradient_norm", "update_ratio"):
        assert [row[key] for row in rows] == [row[key] for row in seen]
    assert [row["rate"] for row in rows] != [row["rate"] for row in seen], "each sees its own samples"
