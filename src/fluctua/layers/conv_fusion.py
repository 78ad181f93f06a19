"""A feature map that hears itself through a convolution, as one fused operation takes it."""

from torch import Tensor, nn

from fluctua.layers.fusion import SPIKING, dynamics_of, is_ordinary, is_unmodified, runs_eagerly
from fluctua.timeloop.engines import choose

WIDEST = 1000  # neurons that one hears; beyond, torch's dense convolution is as fast where a tenth of them spike


def recurrent_map(cell: nn.Module, conv: nn.Conv1d | nn.Conv2d, x: Tensor) -> Tensor | None:
    """Spikes of a population that hears its own of the step before, or None where it has to be stepped through.

    Hooks on the neurons do not matter, which the loop never calls but steps.

    Args:
        cell: the population; served are those of the kinds `SPIKING`, no subclasses, that start at zero.
        conv: from the population to itself; served is what keeps its map, not `WIDEST`, without bias, groups or holes.
        x: current from outside `[T, B, C, *N]`.
    """
    found = dynamics_of(cell) if type(cell) in SPIKING and runs_eagerly(x) else None
    if found is None or found[1] != 0:
        return None
    if not is_unmodified(conv, nn.Conv1d, nn.Conv2d) or not _keeps_map(conv) or not _fits(conv, x):
        return None
    dynamics = found[0].to(x)
    if choose((x,), dynamics).name != "cpu":
        return None

    from fluctua.timeloop.conv_recurrence import run

    return run(x, dynamics, conv.weight)


def _keeps_map(conv: nn.Conv1d | nn.Conv2d) -> bool:
    """Whether each neuron hears all channels through a window around it, zeros beyond the map, and nothing else."""
    middle = tuple(kernel // 2 for kernel in conv.kernel_size)
    centred = all(kernel % 2 for kernel in conv.kernel_size) and conv.padding in ("same", middle)
    alone = {*conv.stride, *conv.dilation, conv.groups} == {1} and conv.padding_mode == "zeros"
    return centred and alone and conv.bias is None and conv.weight[0].numel() <= WIDEST


def _fits(conv: nn.Conv1d | nn.Conv2d, x: Tensor) -> bool:
    """Whether the current is that of a map of these channels, not empty, and the weight of its type."""
    if x.ndim != 3 + len(conv.kernel_size) or x.numel() == 0 or {conv.in_channels, conv.out_channels} != {x.shape[2]}:
        return False
    return is_ordinary(x, x) and is_ordinary(conv.weight, x)
