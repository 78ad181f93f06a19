"""Laws of the blocks of convolutions: the shapes that they give, and their results step by step."""

from functools import partial

import pytest
import torch
from torch import nn

from fluctua.lab.networks.blocks import conv_block, recurrent_conv_block
from fluctua.layers import OverTime, Recurrent
from fluctua.neurons import LIF
from shared.parts import parts
from shared.spikes import spikes as random_spikes

cell = partial(LIF, 20e-3, 10e-3, 2e-3)


spikes = partial(random_spikes, p=0.2)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def test_a_conv_block_is_its_convolutions_step_by_step() -> None:
    block = conv_block(2, [3, 4], cell, kernel=3, padding=2, pool=2)
    first, second = parts(block, nn.Conv2d)
    for conv in (first, second):  # weights that make neurons fire
        nn.init.normal_(conv.weight, std=1.5)
    x = spikes(30, 2, 2, 8, 7)
    one, two = cell(), cell()
    hidden = one(torch.stack([first(step) for step in x]))
    output = two(torch.stack([second(step) for step in hidden]))
    wanted = torch.stack([nn.functional.max_pool2d(step, 2) for step in output])
    assert wanted.any()
    assert wanted.shape == (30, 2, 4, 6, 5)  # each convolution adds 2 rows and columns, then they are halved
    torch.testing.assert_close(block(x), wanted)


def test_a_recurrent_conv_block_hears_itself_one_step_late() -> None:
    block = recurrent_conv_block(1, 3, cell, kernel=7, stride=3, padding=1)
    forth, back = parts(block, nn.Conv1d)
    for conv in (forth, back):
        nn.init.normal_(conv.weight, std=1.5)
    x = spikes(40, 2, 1, 20)
    neurons = cell()
    state = neurons.initial_state(forth(x[0])[None])
    last = torch.zeros(2, 3, 6)  # (20 + 2 - 7) // 3 + 1 places
    wanted = []
    for step in x:
        last, state = neurons.step(forth(step) + back(last), state)
        wanted.append(last)
    assert torch.stack(wanted).any()
    torch.testing.assert_close(block(x), torch.stack(wanted))


def test_an_even_recurrent_filter_is_refused() -> None:
    with pytest.raises(ValueError, match=r"recurrent_kernel=4 has no middle.*take an odd one"):
        recurrent_conv_block(1, 3, cell, kernel=7, recurrent_kernel=4)


def test_blocks_hold_what_they_say() -> None:
    block = conv_block(1, [2, 2, 2], cell)
    assert [type(m) for m in block] == [OverTime, LIF] * 3 + [OverTime]
    assert [type(m) for m in recurrent_conv_block(1, 2, cell, kernel=3)] == [OverTime, Recurrent]
