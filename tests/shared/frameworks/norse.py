"""Norse: its neurons, networks as its tutorials write them, and how it runs both."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fluctua.network.adapters.norse import FRAMEWORK
from shared.frameworks.cases import (
    FAR,
    INPUT,
    Calls,
    FrameworkCases,
    NetworkCase,
    NeuronCase,
    Recurrence,
    by_hooks,
    chain,
    named_classes,
    needed,
)
from shared.spikes import spikes

norse = needed("norse.torch")

STEPS, BATCH, INPUTS, WIDTH, CLASSES = 60, 32, 64, 64, 10
N = 4
EACH = torch.linspace(40.0, 160.0, N)  # a rate for each neuron, 1/s

# -- neurons ------------------------------------------------------------------------------------------------------

Build = Callable[..., Any]


def plain(name: str, parameters: str, **constants: Any) -> Build:
    """A class that takes its parameters only."""

    def build(**more: Any) -> nn.Module:
        p = getattr(norse, parameters)(**constants | more)
        module: nn.Module = getattr(norse, name)(p=p)
        return module.double()

    return build


def own_weights(name: str, parameters: str, **constants: Any) -> Build:
    """A class with weights: the identity for its input, none for its spikes."""

    def build(**more: Any) -> nn.Module:
        p = getattr(norse, parameters)(**constants | more)
        module: Any = getattr(norse, name)(N, N, p=p)
        with torch.no_grad():
            module.input_weights.copy_(torch.eye(N))
            if hasattr(module, "recurrent_weights"):
                module.recurrent_weights.zero_()
        return module.double()  # type: ignore[no-any-return]

    return build


def refractory(build: Callable[..., Build], name: str, parameters: str, inner: str, field: str) -> Build:
    """A class whose parameters hold those of the neuron without a refractory period."""

    def built(**constants: Any) -> Any:
        return build(name, parameters, **{field: getattr(norse, inner)(**constants)})()

    return built


LINEAR: dict[str, Build] = {
    "LIF": plain("LIF", "LIFParameters"),
    "LIF, constants of each neuron": plain("LIF", "LIFParameters", tau_mem_inv=EACH, tau_syn_inv=2 * EACH),
    "LIF, equal time constants": plain("LIF", "LIFParameters", tau_mem_inv=torch.tensor(200.0)),
    "LIF, leak potential": plain("LIF", "LIFParameters", v_leak=torch.tensor(-0.5)),
    "LIFCell": plain("LIFCell", "LIFParameters"),
    "LIFCell, leak potential": plain("LIFCell", "LIFParameters", v_leak=torch.tensor(0.3)),
    "LIFRecurrent": own_weights("LIFRecurrent", "LIFParameters"),
    "LIFRecurrentCell": own_weights("LIFRecurrentCell", "LIFParameters", tau_syn_inv=torch.tensor(300.0)),
    "LIFRefracCell": refractory(plain, "LIFRefracCell", "LIFRefracParameters", "LIFParameters", "lif"),
    "LIFRefracRecurrent": refractory(own_weights, "LIFRefracRecurrent", "LIFRefracParameters", "LIFParameters", "lif"),
    "LIFRefracRecurrentCell": refractory(
        own_weights, "LIFRefracRecurrentCell", "LIFRefracParameters", "LIFParameters", "lif"
    ),
    "LIFBoxCell": plain("LIFBoxCell", "LIFBoxParameters", tau_mem_inv=torch.tensor(50.0)),
    "IAF": plain("IAF", "IAFParameters"),
    "IAFCell": plain("IAFCell", "IAFParameters", v_reset=torch.tensor(-0.2)),
    "LSNN": plain("LSNN", "LSNNParameters"),
    "LSNNCell": plain("LSNNCell", "LSNNParameters", tau_mem_inv=torch.tensor(50.0)),
    "LSNNRecurrent": own_weights("LSNNRecurrent", "LSNNParameters"),
    "LSNNRecurrentCell": own_weights("LSNNRecurrentCell", "LSNNParameters"),
    "LI": plain("LI", "LIParameters", v_leak=torch.tensor(0.1)),
    "LICell": plain("LICell", "LIParameters"),
    "LILinearCell": own_weights("LILinearCell", "LIParameters"),
    "LIBoxCell": plain("LIBoxCell", "LIBoxParameters"),
}
SPIKING = [name for name in LINEAR if not name.startswith("LI") or name.startswith("LIF")]
NONLINEAR: dict[str, Build] = {
    "LIFEx": plain("LIFEx", "LIFExParameters"),
    "LIFExCell": plain("LIFExCell", "LIFExParameters", delta_T=torch.tensor([0.1, 0.3, 0.5, 0.6])),
    "LIFExRecurrent": own_weights("LIFExRecurrent", "LIFExParameters"),
    "LIFExRecurrentCell": own_weights("LIFExRecurrentCell", "LIFExParameters"),
    "LIFAdEx": plain("LIFAdEx", "LIFAdExParameters"),
    "LIFAdExCell": plain("LIFAdExCell", "LIFAdExParameters", tau_ada_inv=EACH),
    "LIFAdExRecurrent": own_weights("LIFAdExRecurrent", "LIFAdExParameters"),
    "LIFAdExRecurrentCell": own_weights("LIFAdExRecurrentCell", "LIFAdExParameters"),
    "LIFAdExRefracCell": refractory(
        plain, "LIFAdExRefracCell", "LIFAdExRefracParameters", "LIFAdExParameters", "lif_adex"
    ),
    "LIFAdExRefracRecurrent": refractory(
        own_weights, "LIFAdExRefracRecurrent", "LIFAdExRefracParameters", "LIFAdExParameters", "lif_adex"
    ),
    "LIFAdExRefracRecurrentCell": refractory(
        own_weights, "LIFAdExRefracRecurrentCell", "LIFAdExRefracParameters", "LIFAdExParameters", "lif_adex"
    ),
}
ALL = {**LINEAR, **NONLINEAR}
RECURRENT = {  # with the class that does the same to a current from outside
    "LIFRecurrent": "LIF",
    "LIFRecurrentCell": "LIFCell",
    "LIFRefracRecurrent": "LIFRefracCell",
    "LIFRefracRecurrentCell": "LIFRefracCell",
    "LSNNRecurrent": "LSNN",
    "LSNNRecurrentCell": "LSNNCell",
    "LIFExRecurrent": "LIFEx",
    "LIFExRecurrentCell": "LIFExCell",
    "LIFAdExRecurrent": "LIFAdEx",
    "LIFAdExRecurrentCell": "LIFAdExCell",
    "LIFAdExRefracRecurrent": "LIFAdExRefracCell",
    "LIFAdExRefracRecurrentCell": "LIFAdExRefracCell",
}


def run(module: Any, x: Tensor, state: Any = None) -> tuple[Tensor, Tensor]:
    sequence = not FRAMEWORK.layout(module).stepwise
    output, potential = [], []
    for now in x:  # a sequence module gets sequences of one step
        out, state = module(now[None] if sequence else now, state)
        output.append(out[0] if sequence else out)
        potential.append((state.v if hasattr(state, "v") else state[0].v).expand(x.shape[1:]))
    return torch.stack(output), torch.stack(potential)


def out_of_reach(p: Any) -> Any:
    """The constants with such a threshold, of neurons that have one."""
    if hasattr(p, "v_th"):
        return p._replace(v_th=torch.tensor(FAR))
    inner = {name: out_of_reach(part) for name, part in p._asdict().items() if isinstance(part, tuple)}
    return p._replace(**inner)


def free(module: Any, x: Tensor) -> Tensor:
    module.p = out_of_reach(module.p)
    return run(module, x)[1]


NEURONS = {name: NeuronCase(build) for name, build in LINEAR.items()}


def recurrence(name: str, plain: str) -> Recurrence:
    def made() -> tuple[Any, Any]:
        generator = torch.Generator().manual_seed(0)
        module, twin = ALL[name](), ALL[plain]()
        twin.p = module.p
        with torch.no_grad():
            for weight in (module.input_weights, module.recurrent_weights):
                weight.copy_(8 * torch.randn(N, N, generator=generator))
            module.recurrent_weights.fill_diagonal_(0)
        return module, twin

    inner = (("input_weights", 0), ("recurrent_weights", ""))
    return Recurrence(made, lambda: spikes(80, 3, N, p=0.2, dtype=torch.float64), inner)


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "conductances": (lambda: norse.CobaLIFCell(3, 4), r"CobaLIFCell .* conductances.* use LIFCell"),
    "a time constant shorter than the step": (
        lambda: norse.LIFCell(dt=0.01),
        "changes sign from step to step.*neurons=",
    ),
    "an exponential neuron that fires without input": (
        lambda: norse.LIFEx(p=norse.LIFExParameters(delta_T=torch.tensor(1.5))),
        "fires without input: give it",
    ),
}


# -- networks -----------------------------------------------------------------------------------------------------


def trains() -> Tensor:
    return spikes(STEPS, BATCH, INPUTS, p=0.05, seed=1)


def frames() -> Tensor:
    return spikes(STEPS, BATCH, 2, 8, 8, p=0.05, seed=1)


class MemoryNet(nn.Module):
    """A recurrent cell and a readout in a loop over time."""

    def __init__(self) -> None:
        super().__init__()
        self.l1 = norse.LIFRecurrentCell(INPUTS, WIDTH)
        self.fc_out = nn.Linear(WIDTH, CLASSES, bias=False)
        self.out = norse.LICell()

    def forward(self, x: Tensor) -> Tensor:
        s1 = so = None
        voltages = []
        for ts in range(x.shape[0]):
            z, s1 = self.l1(x[ts], s1)
            vo, so = self.out(self.fc_out(z), so)
            voltages.append(vo)
        return torch.stack(voltages)


class LoopedByHand(nn.Module):
    """Recurrence that the user writes into the loop."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(INPUTS, WIDTH, bias=False)
        self.back = nn.Linear(WIDTH, WIDTH, bias=False)
        self.lif = norse.LIFCell()

    def forward(self, x: Tensor) -> Tensor:
        state, outputs = None, []
        z = x.new_zeros(x.shape[1], WIDTH)
        for now in x:
            z, state = self.lif(self.fc(now) + self.back(z), state)
            outputs.append(z)
        return torch.stack(outputs)


class ConvNet(nn.Module):
    """Convolutions, batch norm and pooling in a loop over time, and a readout with weights of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 12, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(12)
        self.conv2 = nn.Conv2d(12, 16, 3, padding=1)
        self.fc1 = nn.Linear(16 * 4, WIDTH)
        self.lif0 = norse.LIFCell()
        self.lif1 = norse.LIFCell()
        self.lif2 = norse.LIFCell()
        self.out = norse.LILinearCell(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        s0 = s1 = s2 = so = None
        voltages = []
        for ts in range(x.shape[0]):
            z, s0 = self.lif0(self.norm1(self.conv1(x[ts])), s0)
            z = nn.functional.max_pool2d(z, 2, 2)
            z, s1 = self.lif1(10 * self.conv2(z), s1)
            z = nn.functional.max_pool2d(z, 2, 2)
            z, s2 = self.lif2(self.fc1(z.flatten(1)), s2)
            v, so = self.out(z, so)
            voltages.append(v)
        return torch.stack(voltages)


class ResidualBlock(nn.Module):
    """Sequence modules around skips: one over spikes, one by a weight into the current."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.lif1 = nn.Linear(WIDTH, WIDTH), norse.LIF()
        self.fc2, self.lif2 = nn.Linear(WIDTH, WIDTH), norse.LIF()
        self.skip = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        z, _ = self.lif1(self.fc1(x))
        spikes: Tensor = self.lif2(self.fc2(z) + self.skip(x))[0]
        return x + spikes


class ResidualNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.lif = norse.Lift(nn.Linear(INPUTS, WIDTH)), norse.LIF()
        self.block1, self.block2 = ResidualBlock(), ResidualBlock()
        self.fc, self.readout = nn.Linear(WIDTH, CLASSES), norse.LI()

    def forward(self, x: Tensor) -> Tensor:
        z, _ = self.lif(self.stem(x))
        v: Tensor = self.readout(self.fc(self.block2(self.block1(z))))[0]
        return v


def deep() -> nn.Module:
    layers: list[nn.Module] = []
    for i in range(4):
        layers += [nn.Linear(INPUTS if i == 0 else WIDTH, WIDTH), norse.LIFCell()]
    return norse.SequentialState(*layers, nn.Linear(WIDTH, CLASSES), norse.LICell())  # type: ignore[no-any-return]


def sequences() -> nn.Module:
    """Whole sequences through lifted layers, and a recurrent module."""
    return norse.SequentialState(  # type: ignore[no-any-return]
        norse.Lift(nn.Linear(INPUTS, WIDTH)),
        norse.LIF(),
        norse.LIFRecurrent(WIDTH, WIDTH),
        norse.Lift(nn.Linear(WIDTH, WIDTH)),
        norse.LSNN(),
        norse.Lift(nn.Linear(WIDTH, CLASSES)),
        norse.LI(),
    )


def lifted() -> nn.Module:
    """A stack of cells, lifted over time as a whole."""
    cells = nn.Linear(INPUTS, WIDTH), norse.LIFRefracCell(), nn.Linear(WIDTH, WIDTH), norse.LIFBoxCell()
    return norse.Lift(norse.SequentialState(*cells))  # type: ignore[no-any-return]


def called(model: nn.Module, batch: Tensor) -> Any:
    """A model that loops itself, or takes sequences."""
    return model(batch)


def stepped(model: nn.Module, batch: Tensor) -> Any:
    """A model of cells, the state passed on from step to step."""
    state, outputs = None, []
    for x in batch:
        output, state = model(x, state)
        outputs.append(output)
    return torch.stack(outputs)


CELL = {
    "LIFParameters": norse.LIFCell,
    "LIFBoxParameters": norse.LIFBoxCell,
    "LSNNParameters": norse.LSNNCell,
    "LIParameters": norse.LICell,
}


def free_potential(module: Any, currents: Calls, outputs: Calls) -> Tensor:
    x, fired = (parts[0] if len(parts) == 1 else torch.stack(parts) for parts in (currents, outputs))
    if hasattr(module, "input_weights"):
        x = x @ module.input_weights.T
    if hasattr(module, "recurrent_weights"):
        x[1:] += fired[:-1] @ module.recurrent_weights.T
    p = out_of_reach(getattr(module.p, "lif", module.p))
    cell, state, potential = CELL[type(p).__name__](p=p, dt=module.dt), None, []
    for now in x:
        _, state = cell(now, state)
        potential.append(state.v)
    return torch.stack(potential)


def cells() -> Any:
    return norse.SequentialState(nn.Linear(INPUTS, WIDTH), norse.LIFCell(), nn.Linear(WIDTH, CLASSES), norse.LICell())


def over_sequences() -> Any:
    lifted = norse.Lift(nn.Linear(INPUTS, WIDTH)), norse.LIF(), norse.Lift(nn.Linear(WIDTH, CLASSES)), norse.LI()
    return norse.SequentialState(*lifted)


NETWORKS = {
    "cells": NetworkCase(cells, trains, stepped, chain(*"0123")),
    "cells over sequences": NetworkCase(
        over_sequences, trains, called, chain("0.lifted_module", "1", "2.lifted_module", "3")
    ),
    "deep": NetworkCase(deep, trains, stepped, chain(*(str(k) for k in range(10)))),
    "residual": NetworkCase(
        ResidualNet,
        trains,
        called,
        {
            "lif": {"stem.lifted_module.weight": INPUT},
            "block1.lif1": {"block1.fc1.weight": ("lif",)},
            "block1.lif2": {"block1.fc2.weight": ("block1.lif1",), "block1.skip.weight": ("lif",)},
            "block2.lif1": {"block2.fc1.weight": ("block1.lif2", "lif")},
            "block2.lif2": {"block2.fc2.weight": ("block2.lif1",), "block2.skip.weight": ("block1.lif2", "lif")},
            "readout": {"fc.weight": ("block1.lif2", "block2.lif2", "lif")},
        },
    ),
    "convolution": NetworkCase(
        ConvNet, frames, called, chain("conv1", "lif0", "conv2", "lif1", "fc1", "lif2", "out.input_weights", "out")
    ),
    "recurrent": NetworkCase(
        MemoryNet,
        trains,
        called,
        {"l1": {"l1.input_weights": INPUT, "l1.recurrent_weights": ("l1",)}, "out": {"fc_out.weight": ("l1",)}},
        slack=0.1,
    ),
    "by hand": NetworkCase(
        LoopedByHand, trains, called, {"lif": {"fc.weight": INPUT, "back.weight": ("lif",)}}, slack=0.1
    ),
    "sequences": NetworkCase(
        sequences,
        trains,
        called,
        {
            "1": {"0.lifted_module.weight": INPUT},
            "2": {"2.input_weights": ("1",), "2.recurrent_weights": ("2",)},
            "4": {"3.lifted_module.weight": ("2",)},
            "6": {"5.lifted_module.weight": ("4",)},
        },
        slack=0.1,
    ),
    "lifted": NetworkCase(
        lifted,
        trains,
        called,
        chain("lifted_module.0", "lifted_module.1", "lifted_module.2", "lifted_module.3"),
    ),
}

CASES = FrameworkCases(
    FRAMEWORK,
    NEURONS,
    run,
    free,
    partial(named_classes, FRAMEWORK),  # Norse exports its neurons beside much else
    NETWORKS,
    by_hooks(free_potential),
    kept="recurrent",
    rated=("lifted", 20.0, None),
    refused=REFUSED,
    width=N,
    recurrences={name: recurrence(name, plain) for name, plain in RECURRENT.items()},
    alike={"cells and sequences": ("cells", "cells over sequences")},
    elsewhere=NONLINEAR.values(),
)
