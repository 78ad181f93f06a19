"""The fused time loop on the CPU: one pass over the data forward, one backward, threads over neurons and samples."""

from fluctua.timeloop import fused
from fluctua.timeloop.contract import Dynamics, Run
from fluctua.timeloop.limits import unsupported_numbers
from fluctua.timeloop.steps import Tensors


class CpuEngine:
    """Serves float32 and float64 on the CPU, of every neuron that can be traced; see `unsupported`."""

    name = "cpu"
    compact = False

    def unsupported(self, inputs: Tensors, dynamics: Dynamics) -> str | None:
        """See `Engine.unsupported`."""
        elsewhere = [t.device for t in (*inputs, *dynamics.constants) if t.device.type != "cpu"]
        if elsewhere:
            return f"it takes CPU tensors, not one on {elsewhere[0]}"
        return unsupported_numbers(inputs, dynamics)

    def run(self, inputs: Tensors, dynamics: Dynamics, state: Tensors) -> Run:
        """See `Engine.run`."""
        return fused.run(inputs, dynamics, state, "cpu", self.compact)


class CompactCpuEngine(CpuEngine):
    """Keeps the potential of spiking neurons for backward in bfloat16, as its distance from threshold: half the memory.

    Spikes are the same. A distance is off by up to 2^-8 of itself, so the surrogate of SuperSpike by up to 2^-7 of
    itself, and gradients by less than one percent of the largest.
    """

    name = "cpu-bfloat16"
    compact = True
