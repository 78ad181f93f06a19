"""The time loop in plain torch: slow, short, on any device. The other engines are tested against it."""

import torch

from fluctua.timeloop.contract import Dynamics, LoopResult, Tensors, step_of


class ReferenceEngine:
    """Serves every request, by calling the neuron's step itself."""

    name = "reference"

    def unsupported(self, inputs: Tensors, dynamics: Dynamics, neurons: torch.Size | None = None) -> str | None:
        """None: the reference serves everything."""
        return None

    def run(self, inputs: Tensors, dynamics: Dynamics, state: Tensors) -> LoopResult:
        """See `Engine.run`."""
        step, outputs, potentials, same = step_of(dynamics.step), [], [], True
        for x in zip(*(current.unbind(0) for current in inputs), strict=True):
            potentials.append(state[0])
            output, state = step(x, state, dynamics.constants)
            outputs.append(output)
            same &= output is potentials[-1]
        output = torch.stack(outputs)
        return LoopResult(output, output if same else torch.stack(potentials).detach(), state)


REFERENCE = ReferenceEngine()
