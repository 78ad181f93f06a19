"""The fused loop among torch's other features: compiled, in mixed precision, with less memory, transformed."""

import logging

import pytest
import torch
from torch import Tensor, nn

from fluctua.layers import FusedSequential, Recurrent
from fluctua.neurons import LI, AdaptiveLIF
from fluctua.neurons import LIF as LIFNeurons
from fluctua.timeloop import cpu_loop, engine
from shared.leaky_populations import LoopParameters, run
from shared.loop_populations import (
    ADAPTIVE,
    DTYPE,
    LIF,
    READOUTS,
    SHAPE,
    SPIKING,
    assert_same_gradients,
    assert_same_results,
    drawn,
    everything,
    leaf,
    named,
)


def test_a_network_compiles_to_one_graph_and_computes_the_same() -> None:
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(
        nn.Linear(20, 16),
        LIFNeurons(threshold=0.05),
        nn.Linear(16, 8),
        AdaptiveLIF(threshold=0.05, beta=1.0, learn_tau=True, differentiable_reset=True),
        nn.Linear(8, 3),
        LI(learn_tau=True),
    )
    for parameter in network.parameters():
        if parameter.ndim:
            nn.init.normal_(parameter, std=0.3, generator=generator)
    x = torch.randn(30, 4, 20, generator=generator)
    results = []
    for forward in (network, torch.compile(network, fullgraph=True, backend="aot_eager")):
        network.zero_grad()
        output = forward(x)
        output.square().sum().backward()
        results.append([output.detach(), *(p.grad.clone() for p in network.parameters() if p.grad is not None)])
        assert len(results[-1]) == 1 + len(list(network.parameters()))
    for ours, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, ours)
    assert results[0][0].abs().max() > 0


def test_an_exported_network_has_none_but_torchs_operations() -> None:
    layers = FusedSequential(nn.Linear(20, 16), Recurrent(LIFNeurons(threshold=0.05), nn.Linear(16, 16)))
    network, x = nn.Sequential(*layers, AdaptiveLIF(threshold=0.05), LI()), 9 * torch.rand(10, 4, 20)
    program = torch.export.export(network, (x,))
    spaces = {getattr(node.target, "namespace", "aten") for node in program.graph.nodes if node.op == "call_function"}
    assert spaces == {"aten"}
    torch.testing.assert_close(program.module()(x), network(x))


@pytest.mark.parametrize("p", [LIF, SPIKING[1], ADAPTIVE[0], ADAPTIVE[5]], ids=named)
def test_bfloat16_keeps_the_spikes_and_gradients_to_one_percent(p: LoopParameters) -> None:
    exact, gradients = everything("cpu", p, drawn(SHAPE), torch.float32)
    compact, rough = everything("cpu-bfloat16", p, drawn(SHAPE), torch.float32)
    assert_same_results(compact, exact)
    assert_same_gradients(rough, gradients, 0.01)
    assert not torch.equal(rough["x"], gradients["x"])


def test_bfloat16_errs_by_no_more_than_the_rounding_of_a_distance() -> None:
    x, y = (leaf(drawn((1, 40, 100), 1.0)) for _ in range(2))
    p = LoopParameters(torch.tensor(0.0).double(), None, torch.tensor(0.5).double())  # U[1] = x[0]
    weight = torch.ones(1, 40, 100).double()
    for name, z in (("cpu", x), ("cpu-bfloat16", y)):
        with engine(name):
            run(torch.cat([z, torch.zeros_like(z)]), p).output[1:].backward(weight)  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert y.grad is not None
    error = ((y.grad - x.grad) / x.grad).abs().max()
    assert 2**-10 < error <= 2**-7  # half a unit in the last of eight places, squared by SuperSpike


def test_bfloat16_keeps_half_the_memory() -> None:
    x = torch.zeros(100, 64, 256, requires_grad=True)
    p = LoopParameters(torch.tensor(0.9), torch.tensor(0.8), torch.tensor(0.5))
    lent = []
    for name in ("cpu", "cpu-bfloat16"):
        before = cpu_loop.pool.lent
        with engine(name):
            output = run(x, p).output
        lent.append(cpu_loop.pool.lent - before - output.nbytes)
        del output
    assert lent[1] <= 0.6 * lent[0]  # blocks are of two megabytes


def test_without_gradients_nothing_is_kept() -> None:
    x = torch.zeros(100, 64, 256, requires_grad=True)
    p = LoopParameters(torch.tensor(0.9), torch.tensor(0.8), torch.tensor(0.5))
    before = cpu_loop.pool.lent
    with torch.no_grad():
        output = run(x, p).output
    assert cpu_loop.pool.lent - before <= output.nbytes + (1 << 21)


def test_autocast_gives_what_single_precision_gives() -> None:
    linear, neurons = nn.Linear(20, 16), LIFNeurons(threshold=0.05)
    x = torch.randn(30, 4, 20, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        current = linear(x)
        spikes = neurons(current)
    assert current.dtype == spikes.dtype == torch.bfloat16
    assert torch.equal(spikes.float(), neurons(current.float()))
    spikes.sum().backward()
    assert linear.weight.grad is not None
    assert bool(linear.weight.grad.isfinite().all())


def test_vmap_is_refused_with_a_way_out() -> None:
    currents = torch.zeros(3, *SHAPE, dtype=DTYPE)
    with pytest.raises(ValueError, match=r"vmap.*batch axis"):
        torch.func.vmap(lambda x: run(x, LIF).output)(currents)
    with pytest.raises(ValueError, match=r"vmap.*batch axis"):
        torch.func.vmap(torch.func.grad(lambda x: run(x, LIF).output.sum()))(currents)


def test_a_gradient_that_is_the_same_at_all_steps_is_not_copied() -> None:
    """Of a mean over time: `expand` gives it, with steps that share their memory."""
    gradients = []
    for spread in (True, False):
        x = leaf(drawn(SHAPE))
        weight = drawn(SHAPE[1:]).expand(SHAPE)
        run(x, LIF).output.backward(weight if spread else weight.contiguous())  # type: ignore[no-untyped-call]
        gradients.append(x.grad)
    torch.testing.assert_close(*gradients, rtol=0, atol=0)


def test_a_current_that_is_the_same_at_all_steps_or_skips_some() -> None:
    for view in (drawn(SHAPE[1:]).expand(SHAPE), drawn((50, *SHAPE[1:]))[::2]):
        for p in (READOUTS[1], LIF, SPIKING[5]):
            ours, gradients = everything("cpu", p, view)
            truth, of_truth = everything("reference", p, view)
            assert_same_results(ours, truth)
            assert_same_gradients(gradients, of_truth, 1e-10)
            assert torch.equal(run(view, p).potential, run(view.contiguous(), p).potential)


def test_no_population_of_this_package_is_left_to_the_reference(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "fluctua.timeloop"):
        for p in (*READOUTS, *SPIKING, *ADAPTIVE):
            run(drawn(SHAPE), p)
        for kind in ("threshold", "current"):
            spikes: Tensor = AdaptiveLIF(kind=kind, threshold=0.1)(torch.ones(5, 2, 3))  # type: ignore[arg-type]
            assert spikes.shape == (5, 2, 3)
    assert not [record for record in caplog.records if "'cpu'" in record.getMessage()]
