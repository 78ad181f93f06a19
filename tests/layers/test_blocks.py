"""Laws of the blocks: the sum of their ways, the shapes that they give, what an initialiser sees in them."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

import fluctua
from fluctua import Target
from fluctua.layers import ResidualBlock
from fluctua.layers.blocks import OneToOne
from fluctua.network.facts import free_potential
from fluctua.neurons import LIF
from shared.parts import parts
from shared.spikes import spikes as random_spikes
from shared.tracing import trace

DT = 2e-3
cell = partial(LIF, 20e-3, 10e-3, DT)


spikes = partial(random_spikes, p=0.2)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def dense_block(n: int = 5) -> ResidualBlock:
    body = nn.Sequential(nn.Linear(n, n, bias=False), cell(), nn.Linear(n, n, bias=False))
    return ResidualBlock(body, nn.Linear(n, n, bias=False), cell())


def test_a_residual_block_adds_both_ways() -> None:
    block, x = dense_block(), spikes(50, 3, 5)
    for p in block.parameters():
        nn.init.normal_(p, std=2.0)
    out = block(x)
    assert out.any()
    torch.testing.assert_close(out, cell()(block.body(x) + block.skip(x)))
    nn.init.zeros_(parts(block.body, nn.Linear)[-1].weight)
    torch.testing.assert_close(block(x), cell()(block.skip(x)))


@pytest.mark.parametrize("skip", [nn.Linear(60, 60, bias=False), OneToOne(60)], ids=["random", "one to one"])
def test_a_skip_with_weights_is_one_more_pathway_of_equal_share(skip: nn.Module) -> None:
    block = dense_block(60)
    block.skip = skip
    model = nn.Sequential(nn.Linear(30, 60, bias=False), cell(), block)
    x = spikes(200, 20, 30)
    end = {p.name: p for p in trace(model, x)}["2.cell"]
    assert {q.name: q.sources for q in end.pathways} == {"2.body.2.weight": ("2.body.1",), "2.skip.weight": ("1",)}
    assert end.unweighted == ()
    fluctua.initialize(model, x, Target(sigma=1.0), seed=0)
    before: Tensor = model[1](model[0](x))
    for current in (block.skip(before), block.body(before)):
        u = free_potential(current, end.neuron.kernel)
        # Half of 1 each; besides, the body cancels the mean that positive weights of the skip bring.
        assert float(u.var(correction=0)) == pytest.approx(0.5, rel=0.15)


def test_a_bare_skip_is_a_part_that_no_weight_can_change() -> None:
    block = dense_block()
    block.skip = nn.Identity()
    found = {p.name: p for p in trace(nn.Sequential(nn.Linear(4, 5, bias=False), cell(), block), spikes(5, 2, 4))}
    assert found["2.cell"].unweighted == ("1",)


def test_one_to_one_is_a_factor_for_each_neuron_or_channel() -> None:
    layer = OneToOne(3)
    assert (layer.weight == 1).all()
    nn.init.normal_(layer.weight)
    factor = layer.weight.flatten()
    x = spikes(6, 2, 3)
    torch.testing.assert_close(layer(x), factor * x)
    maps = spikes(6, 2, 3, 4, 5)
    torch.testing.assert_close(layer(maps), factor[:, None, None] * maps)
    layer.reset_parameters()
    torch.testing.assert_close(layer(maps), maps)


def test_one_to_one_starts_with_nearly_equal_positive_weights() -> None:
    """So spikes are handed on alike; the law's standard deviation is 1 % of the mean."""
    block = ResidualBlock(nn.Sequential(nn.Linear(50, 50), cell(), nn.Linear(50, 50)), OneToOne(50), cell())
    model = nn.Sequential(nn.Linear(10, 50), cell(), block)
    fluctua.initialize(model, spikes(100, 10, 10), seed=0)
    weights = parts(block, OneToOne)[0].weight.detach()
    assert float(weights.min()) > 1
    assert float(weights.std() / weights.mean()) == pytest.approx(0.01, rel=0.4)  # of 50: +- 10 %


def test_a_residual_block_whose_ways_differ_in_shape_is_refused() -> None:
    block = ResidualBlock(nn.Linear(5, 1), nn.Linear(5, 5), cell())  # would broadcast
    with pytest.raises(ValueError, match=r"shape \(6, 2, 1\) and the skip one of \(6, 2, 5\)"):
        block(spikes(6, 2, 5))
