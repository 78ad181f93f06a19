"""The engines whose loops are derived from a neuron's step: one pass over the data forward, one backward.

A loop is one operation of torch: an autograd function, or operators for `torch.compile` (see `operators.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from fluctua.timeloop.contract import Dynamics, LoopResult, Tensors, constant_when_compiled
from fluctua.timeloop.derivation import Device, Kind, Loop
from fluctua.timeloop.limits import Maybe, apply, has_potential, interpreted, unsupported_numbers


@dataclass(frozen=True)
class FusedEngine:
    """Serves float32 and float64 on a device, for every neuron that can be traced; see `unsupported`.

    On the CPU neurons and samples are split over threads. The GPU's kernels use Triton; under its interpreter (the
    variable TRITON_INTERPRET=1 in the environment) they take CPU tensors too, slowly: that is how they are tested.

    Attributes:
        name: for choosing it.
        device: where it runs.
        compact: whether the potential of spiking neurons is kept for backward in bfloat16, as its distance from
            threshold: half the memory. Spikes are the same. A distance is off by up to 2^-8 of itself, so the surrogate
            of SuperSpike by up to 2^-7 of itself, and gradients by less than one percent of the largest.
    """

    name: str
    device: Device
    compact: bool = False

    def unsupported(self, inputs: Tensors, dynamics: Dynamics, neurons: torch.Size | None = None) -> str | None:
        """See `Engine.unsupported`."""
        first, *others = (t.device for t in (*inputs, *dynamics.constants))
        if self.device == "gpu":
            if first.type != "cuda" and not interpreted():
                return f"it takes CUDA tensors, not one on {first}"
            if not has_triton():
                return "triton is not installed: pip install 'fluctua[gpu]'"
            if any(device != first for device in others):
                return f"a constant is not on the current's device {first}"
        elif elsewhere := [device for device in (first, *others) if device.type != "cpu"]:
            return f"it takes CPU tensors, not one on {elsewhere[0]}"
        return unsupported_numbers(inputs, dynamics, neurons)

    def run(self, inputs: Tensors, dynamics: Dynamics, state: Tensors) -> LoopResult:
        """See `Engine.run`."""
        return _run(inputs, dynamics, state, self.device, self.compact)


CPU, COMPACT_CPU, GPU = FusedEngine("cpu", "cpu"), FusedEngine("cpu-bfloat16", "cpu", True), FusedEngine("gpu", "gpu")

_found = cache(find_spec)


@constant_when_compiled
def has_triton() -> bool:
    """Whether Triton is installed; asked for once."""
    return _found("triton") is not None


def recurrent(x: Tensor, dynamics: Dynamics, state: Tensors, weight: Tensor, bias: Maybe) -> LoopResult:
    """Integrate recurrent neurons on the GPU, with spikes one step late; the engine must support the request.

    Args:
        x: current from outside `[T, B, N]`, not empty.
        dynamics: of spiking neurons; recurrent input and current go to their first input.
        state: before the first step.
        weight: `[N, N]`; row n has the weights into neuron n, from the second step on.
        bias: `[N]`, added from the second step on, or None.
    """
    inputs = x, *(torch.zeros_like(x) for _ in range(dynamics.inputs - 1))
    return _run(inputs, dynamics, state, "gpu", heard=(weight, bias))


def _run(
    inputs: Tensors,
    dynamics: Dynamics,
    state: Tensors,
    device: Device,
    compact: bool = False,
    heard: tuple[Maybe, ...] = (),
) -> LoopResult:
    tensors = *inputs, *state, *dynamics.constants, *heard
    trains = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    kind = Kind.of(device, dynamics, trains, compact, bool(heard))
    results: Sequence[Tensor]
    if torch.compiler.is_compiling():
        from fluctua.timeloop.operators import compiled  # defining operators takes a moment

        results = compiled(tensors, kind)  # type: ignore[arg-type]
    else:
        loop = Loop(kind, inputs[0].shape)
        results = apply(loop, tensors) if trains else loop.forth(tensors)
    output, *others = results
    potential = others.pop(0) if has_potential(*dynamics.form) else output
    return LoopResult(output, potential, tuple(others[: dynamics.states]))
