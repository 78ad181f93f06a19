"""The fused time loop on the GPU, in Triton."""

from importlib.util import find_spec

from fluctua.timeloop import fused
from fluctua.timeloop.contract import Dynamics, Run
from fluctua.timeloop.gpu_source import interpreted
from fluctua.timeloop.limits import unsupported_numbers
from fluctua.timeloop.steps import Tensors


class GpuEngine:
    """Serves float32 and float64 on CUDA devices, of every neuron that can be traced; see `unsupported`.

    Under Triton's interpreter (the variable TRITON_INTERPRET=1 in the environment) it serves CPU tensors too, slowly:
    that is how it is tested.
    """

    name = "gpu"

    def unsupported(self, inputs: Tensors, dynamics: Dynamics) -> str | None:
        """See `Engine.unsupported`."""
        device = inputs[0].device
        if find_spec("triton") is None:
            return "triton is not installed: pip install 'fluctua[gpu]'"
        if device.type != "cuda" and not interpreted():
            return f"it takes CUDA tensors, not one on {device}"
        if any(t.device != device for t in (*inputs, *dynamics.constants)):
            return f"a constant is not on the current's device {device}"
        return unsupported_numbers(inputs, dynamics)

    def run(self, inputs: Tensors, dynamics: Dynamics, state: Tensors) -> Run:
        """See `Engine.run`."""
        return fused.run(inputs, dynamics, state, "gpu")
