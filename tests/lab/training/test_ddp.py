"""The fused loops inside PyTorch's own machinery: several processes, workers, mixed precision, compiling, training."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset

import fluctua
from fluctua.lab.data import RandmanSettings, make_randman
from fluctua.lab.data.module import SpikeDataModule
from fluctua.lab.networks import READOUT, feed_forward
from fluctua.lab.training import TimeLoss
from fluctua.lab.training.fit import TrainSettings, fit
from fluctua.layers import FusedSequential, Recurrent
from fluctua.neurons import LI, LIF
from shared.processes import start

T, B, N, WIDTH, CLASSES = 30, 8, 12, 10, 3
MANY = (80, 16, 128)  # entries enough for the loop to wake a second thread


def network(kind: type[nn.Sequential], dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """Feed-forward and recurrent, with weights that make every layer fire."""
    neurons = [LIF(10e-3, 5e-3, 1e-3, threshold=0.2) for _ in range(2)]
    model = kind(
        nn.Linear(N, WIDTH),
        neurons[0],
        nn.Linear(WIDTH, WIDTH),
        Recurrent(neurons[1], nn.Linear(WIDTH, WIDTH, bias=False)),
        nn.Linear(WIDTH, CLASSES),
        LI(20e-3, 5e-3, 1e-3),
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(0.0, 1.0, generator=generator)
    return model.to(dtype)


def batch(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (torch.rand(T, B, N, generator=generator) < 0.2).to(dtype), torch.arange(B) % CLASSES


def gradients(model: nn.Module, x: Tensor, y: Tensor) -> list[Tensor]:
    """Of the mean loss over the batch."""
    model.zero_grad()
    cross_entropy(model(x).amax(0), y).backward()  # type: ignore[no-untyped-call]
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


KINDS = pytest.mark.parametrize("kind", [nn.Sequential, FusedSequential])


# ---- several processes -----------------------------------------------------------------------------------------------


def _rank(rank: int, folder: str) -> None:
    """One of two processes: half of the batch, and the gradients that both agree on."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    x, y = batch(torch.float64)
    for kind in (nn.Sequential, FusedSequential):
        model = DistributedDataParallel(network(kind, torch.float64))
        torch.save(gradients(model, x[:, rank::2], y[rank::2]), f"{folder}/{kind.__name__}{rank}.pt")
    dist.barrier()
    os._exit(0)  # torch 2.13 may hang when it takes the group apart: one thread joins another that waits for the GIL


def test_two_processes_agree_on_the_gradients_of_one(tmp_path: Path) -> None:
    if not dist.is_available():
        pytest.skip("this torch was built without torch.distributed")
    kinds = nn.Sequential, FusedSequential
    alone = {kind: gradients(network(kind, torch.float64), *batch(torch.float64)) for kind in kinds}
    # Now the kernels are compiled, and neither process does it again.
    start(_rank, str(tmp_path))
    for kind, truth in alone.items():
        assert min(float(g.abs().max()) for g in truth) > 0
        for rank in range(2):
            for shared, own in zip(torch.load(tmp_path / f"{kind.__name__}{rank}.pt"), truth, strict=True):
                # Both halves are summed in another order than the whole: some rounding of float64.
                torch.testing.assert_close(shared, own, rtol=1e-10, atol=1e-12)


class Few(SpikeDataModule):
    """Randman of few samples."""

    @classmethod
    def make(cls) -> "Few":
        sets = make_randman(
            RandmanSettings(duration=T * 1e-3, n_units=N, n_classes=CLASSES, samples_per_class=20), seed=0
        )
        return cls(*sets, dt=1e-3, duration=T * 1e-3, batch_size=16, seed=0)


def _fitting(rank: int, folder: str, epochs: int) -> None:
    """One of two processes that fit the same network in the same folder."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    model = network(nn.Sequential)
    settings = TrainSettings(epochs=epochs, optimizer="adam", monitor=1, progress=False)
    try:
        result = fit(model, Few.make(), out_dir=f"{folder}/run", settings=settings)
        torch.save([model.state_dict(), result.history, result.test, result.best_epoch], f"{folder}/{rank}.pt")
    except RuntimeError as error:
        Path(f"{folder}/{rank}.txt").write_text(f"{type(error).__name__}: {error}")
    dist.barrier()
    os._exit(0)


def test_of_two_processes_that_fit_the_first_writes_and_both_agree(tmp_path: Path) -> None:
    if not dist.is_available():
        pytest.skip("this torch was built without torch.distributed")
    gradients(network(nn.Sequential), *batch())  # compiles the kernels, once for both
    start(_fitting, str(tmp_path), 2)
    (weights, *first), (others, *second) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert all(torch.equal(value, others[name]) for name, value in weights.items())
    assert first == second
    rows = (tmp_path / "run" / "monitor.jsonl").read_text().splitlines()
    assert len(rows) == len(set(rows)) > 0


# ---- workers that are forked -----------------------------------------------------------------------------------------


class Simulated(Dataset[Tensor]):
    """Samples that are themselves the output of a population, computed where they are asked for."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, i: int) -> Tensor:
        torch.set_num_threads(2)  # a worker has one by default
        return fired(i).detach()  # worker and parent exchange data, no graphs


def fired(seed: int) -> Tensor:
    """Of a population that learns from noise."""
    noise = torch.randn(MANY, generator=torch.Generator().manual_seed(seed)).requires_grad_()
    return LIF(threshold=0.2).simulate(noise).output


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.skipif("fork" not in mp.get_all_start_methods(), reason="this system cannot fork")
def test_a_forked_worker_runs_the_loop_that_its_parent_has_run(tmp_path: Path) -> None:
    expected = [fired(i).detach() for i in range(4)]  # the parent's threads are running now
    assert 0.0 < float(expected[0].mean()) < 0.5
    workers = DataLoader(Simulated(), batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=60)
    for i, sample in enumerate(workers):
        fired(i).sum().backward()  # type: ignore[no-untyped-call]  # the parent goes on
        assert torch.equal(sample, expected[i])


# ---- mixed precision -------------------------------------------------------------------------------------------------


@KINDS
def test_a_training_step_in_bfloat16_is_that_of_the_reference(kind: type[nn.Sequential]) -> None:
    x, y = batch()
    with torch.autocast("cpu", torch.bfloat16):
        fused = gradients(network(kind), x, y)
        with fluctua.engine("reference"):
            reference = gradients(network(nn.Sequential), x, y)
    for own, true in zip(fused, reference, strict=True):
        assert own.dtype == torch.float32
        # The loops differ by float32 rounding, which may tip a gradient to the next bfloat16, 2^-8 away; a weight's
        # gradient adds up at most T * B of them, here with room for chance to add in one direction.
        torch.testing.assert_close(own, true, rtol=2**-6, atol=2**-6 * float(true.abs().max()))


# ---- compiling -------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="needs a C++ compiler")
@pytest.mark.skipif("ATEN_CPU_CAPABILITY" in os.environ, reason="torch's own compiler asks the CPU")
def test_a_compiled_network_gives_the_same_output_and_gradients() -> None:
    x, y = batch()
    first = nn.Linear(N, WIDTH)
    with torch.no_grad():
        first.weight.normal_(0.0, 2.0, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(first, LIF(threshold=0.2), nn.Linear(WIDTH, CLASSES), LI())
    plain = gradients(model, x, y)
    torch._dynamo.reset()
    for own, true in zip(gradients(torch.compile(model), x, y), plain, strict=True):  # type: ignore[arg-type]
        torch.testing.assert_close(own, true, rtol=1e-4, atol=1e-5 * float(true.abs().max()))


# ---- learning --------------------------------------------------------------------------------------------------------


def test_networks_learn_as_well_on_the_fused_engines_as_on_the_reference() -> None:
    """Three seeds of a small Randman task. The engines differ by rounding, so runs part ways, to equal ends."""
    found: dict[str, list[float]] = {"reference": [], "auto": []}
    for seed in range(3):
        for engine, accuracies in found.items():
            with fluctua.engine(engine):
                accuracies.append(_accuracy(seed))
    mean = {engine: sum(values) / len(values) for engine, values in found.items()}
    assert min(mean.values()) > 0.6, "twice the chance of 1/3, or there is nothing to compare"
    # 3 test sets of 90: a mean accuracy near 0.85 has a standard error of sqrt(0.85 * 0.15 / 270) = 0.022, a difference
    # of two sqrt(2) times as much; three of these.
    assert abs(mean["reference"] - mean["auto"]) < 3 * 2**0.5 * 0.022, found


def _accuracy(seed: int) -> float:
    """On the test set, after some epochs."""
    task = RandmanSettings(n_classes=3, alpha=2.0, samples_per_class=150, fractions=(0.6, 0.2, 0.2), duration=0.1)
    data = SpikeDataModule(*make_randman(task, seed=seed), dt=4e-3, duration=0.1, batch_size=90, seed=seed)
    data.setup("fit")
    model = feed_forward(task.n_units, 3, width=32, depth=1, dt=4e-3, duration=0.1)
    fluctua.initialize(model, data.batch(100)[0], readout=READOUT, seed=seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-2)
    for _ in range(10):
        for x, y in data.train_dataloader():
            optimizer.zero_grad()
            TimeLoss("max")(model(x), y).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    data.setup("test")
    loaders = data.test_dataloader()
    hits = [TimeLoss("max").predict(model(x)) == y for x, y in (loaders[0] if isinstance(loaders, list) else loaders)]
    return float(torch.cat(hits).float().mean())
