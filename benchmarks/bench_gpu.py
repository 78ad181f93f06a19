"""Forward and backward of the four workloads on the GPU at hand: the gpu engine against other ways to run a loop.

Compared are the reference, that is eager torch; the reference with its step through torch.compile; and the multi-step
neurons of SpikingJelly where it is installed (they have a delta synapse, so less to do). They take turns, so that drift
hits all alike. Of the population alone (W4) the share of the memory bandwidth is told: the loop has to move six arrays
of the current's size, and the yardstick is what a copy reaches on the same device.

    python benchmarks/bench_gpu.py
"""

import argparse
import json
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from contestants.own import BUSY, READOUT, network
from timing import Seconds, Step, interleaved, medians, table
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from workloads import DT, QUICK, TAU_MEM, TAU_SYN, THRESHOLD, WORKLOADS, Workload

import fluctua
from fluctua.layers import Recurrent
from fluctua.neurons import LI, LIF
from fluctua.timeloop import engine
from fluctua.timeloop.contract import Dynamics, Tensors, step_of

Advance = Callable[..., tuple[Tensor, Tensors]]

GPU, REFERENCE, COMPILED, SPIKINGJELLY = (
    "fluctua, gpu",
    "fluctua, reference",
    "reference, compiled step",
    "SpikingJelly",
)
ARRAYS = 6  # forward reads x and writes U and the spikes; backward reads their gradient and U and writes that of x
NO_GPU = "There is no GPU here, so nothing was measured."


@dataclass(frozen=True)
class Measurement:
    """Seconds of every contestant on a workload.

    Attributes:
        workload: what they did.
        seconds: by contestant, a list over the rounds.
        moved: bytes that the loop of a population alone has to move; 0 for a network.
        copied: bytes a second that a copy moves, reading and writing.
    """

    workload: Workload
    seconds: Seconds
    moved: int
    copied: float

    @property
    def share(self) -> float:
        """Of the copy's bandwidth, reached by the gpu engine."""
        return self.moved / medians(self.seconds)[GPU] / self.copied

    def __str__(self) -> str:
        share = f"\n{self.share:.0%} of the bandwidth of a copy" if self.moved else ""
        return f"{self.workload.name}: {self.workload.title}\n{table(self.seconds, GPU)}{share}\n"


def one_step(x: Tensor, dynamics: Dynamics, state: Tensors) -> tuple[Tensor, Tensors]:
    """The neuron's own step."""
    return step_of(dynamics.step)((x,), state, dynamics.constants)


class Stepped(nn.Module):
    """A population of fluctua, and its recurrent weight if there is one, one time step after the other.

    Args:
        neurons: the population.
        advance: a step of the loop, as `one_step`.
        weight: from its spikes to its current one step later.
    """

    def __init__(self, neurons: LIF | LI, advance: Advance, weight: nn.Module | None = None) -> None:
        super().__init__()
        self.neurons, self.advance, self.weight = neurons, advance, weight

    def forward(self, current: Tensor) -> Tensor:
        """Input current `[T, B, *N]` -> output of the same shape."""
        dynamics, state = self.neurons.dynamics(), self.neurons.parts_of(self.neurons.initial_state(current))
        outputs: list[Tensor] = []
        for x in current.unbind(0):
            drive = x + self.weight(outputs[-1]) if self.weight is not None and outputs else x
            output, state = self.advance(drive, dynamics, state)
            outputs.append(output)
        return torch.stack(outputs)


def measure(workload: Workload, device: torch.device, rounds: int, copied: float) -> Measurement:
    """All contestants that can do this work, in turns."""
    torch._dynamo.reset()
    torch._dynamo.config.recompile_limit = 64  # a step is compiled for each population, and for its state at rest
    population = workload.classes == 0
    steps = population_steps(workload, device) if population else network_steps(workload, device)
    moved = ARRAYS * 4 * workload.current.size if population else 0
    return Measurement(
        workload, interleaved({k: finished(step, device) for k, step in steps.items()}, rounds), moved, copied
    )


def population_steps(w: Workload, device: torch.device) -> dict[str, Step]:
    """Forward of a population alone, and backward of its spikes to the current."""
    current, upstream = (torch.from_numpy(a).to(device) for a in (w.current, w.upstream))
    current.requires_grad_()

    def step(model: nn.Module) -> None:
        current.grad = None
        model(current).backward(upstream)

    lif = LIF(TAU_MEM, TAU_SYN, DT, threshold=THRESHOLD).to(device)
    return {name: partial(on_engine, name, step, model) for name, model in variants(lif, THRESHOLD).items()}


def network_steps(w: Workload, device: torch.device) -> dict[str, Step]:
    """Forward and backward of a network, from the spikes to the gradients of its weights."""
    x, y = torch.from_numpy(w.spikes), torch.from_numpy(w.labels).to(device)
    net = network(w)
    fluctua.initialize(net, x, BUSY, readout=READOUT, seed=0)
    x = x.to(device)

    def step(model: nn.Module) -> None:
        model.zero_grad()
        cross_entropy(model(x).amax(0), y).backward()  # type: ignore[no-untyped-call]

    return {name: partial(on_engine, name, step, model) for name, model in variants(net.to(device)).items()}


def on_engine(name: str, step: Callable[[nn.Module], None], model: nn.Module) -> None:
    """A step of the model; the gpu engine is asked for by name, so that no other takes part unseen."""
    with engine("gpu" if name == GPU else "reference"):
        step(model)


def variants(model: nn.Module, threshold: float = 1.0) -> dict[str, nn.Module]:
    """The model with its populations run by each of the contestants."""
    compiled = torch.compile(one_step)
    models = {GPU: model, REFERENCE: model, COMPILED: replaced(model, lambda m, weight: Stepped(m, compiled, weight))}
    recurrent = any(isinstance(m, Recurrent) for m in model.modules())
    if find_spec("spikingjelly") is not None and not recurrent:
        models[SPIKINGJELLY] = replaced(model, lambda m, _: spikingjelly(threshold) if isinstance(m, LIF) else m)
    return models


def replaced(model: nn.Module, maker: Callable[[Any, nn.Module | None], nn.Module]) -> nn.Module:
    """A copy of the model, each of its populations, with its recurrent weight, as the maker has it."""
    if isinstance(model, Recurrent):
        return maker(deepcopy(model.cell), deepcopy(model.weight))
    if isinstance(model, LIF | LI):
        return maker(deepcopy(model), None)
    if isinstance(model, nn.Sequential):
        return nn.Sequential(*(replaced(child, maker) for child in model))
    return deepcopy(model)


def spikingjelly(threshold: float) -> nn.Module:
    """Its neuron of all steps at once; it finds its fastest kernels by itself."""
    library: Any = import_module("spikingjelly.activation_based.neuron")
    options = {"tau": TAU_MEM / DT, "decay_input": False, "v_threshold": threshold, "detach_reset": True}
    return Forgetful(library.LIFNode(**options, step_mode="m"))


class Forgetful(nn.Module):
    """A neuron of SpikingJelly that starts every sequence at rest."""

    def __init__(self, neuron: nn.Module) -> None:
        super().__init__()
        self.neuron = neuron

    def forward(self, current: Tensor) -> Tensor:
        """Input current `[T, B, *N]` -> spikes."""
        self.neuron.reset()  # type: ignore[operator]
        spikes: Tensor = self.neuron(current)
        return spikes


def finished(step: Step, device: torch.device) -> Step:
    """The step, waiting until the device has done it."""

    def waiting() -> None:
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return waiting


def copy_bandwidth(device: torch.device, megabytes: int = 512) -> float:
    """Bytes a second, read and written, of a copy."""
    source = torch.zeros(megabytes << 18, device=device)
    target = torch.empty_like(source)
    seconds = interleaved({"copy": finished(lambda: target.copy_(source), device)}, 10)
    return 2 * source.nbytes / medians(seconds)["copy"]


def main(arguments: Sequence[str] | None = None) -> None:
    names = ("W1", "W2", "W3", "W4")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", nargs="+", choices=names, default=list(names))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="so small that the numbers mean nothing; to try it out")
    parser.add_argument("--json", action="store_true", help="print one JSON line, times in seconds")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print(NO_GPU)
        return
    device = torch.device("cuda")
    copied = copy_bandwidth(device)
    sizes = QUICK if options.quick else WORKLOADS
    results = [measure(sizes[name], device, options.rounds, copied) for name in options.workloads]
    if options.json:
        facts = {"device": torch.cuda.get_device_name(device), "torch": torch.__version__, "copied": copied}
        print(json.dumps({**facts, "seconds": {r.workload.name: r.seconds for r in results}}))
        return
    print(f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}, a copy moves {copied / 1e9:.0f} GB/s\n")
    print("\n".join(map(str, results)))


if __name__ == "__main__":
    main()
