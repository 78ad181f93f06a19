"""snnTorch: its neurons, networks as its tutorials write them, and how it runs both."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from fluctua.network.adapters.snntorch import FRAMEWORK
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
    needed,
)
from shared.spikes import spikes

snn = needed("snntorch")

STEPS, BATCH, INPUTS, WIDTH, CLASSES = 50, 24, 60, 48, 10
SIDE = 10  # of images
N = 3
BETAS = torch.tensor([0.5, 0.9, 0.99])

# -- neurons ------------------------------------------------------------------------------------------------------

Make = Callable[..., Any]


def bare(make: Make) -> Make:
    """With a threshold of 0.6; linear layers inside become identities (from outside) or nothing (from own spikes)."""

    def made() -> Any:
        neuron = make()
        with torch.no_grad():
            neuron.threshold.fill_(0.6)
            for name, layer in neuron.named_modules():
                if isinstance(layer, nn.Linear):
                    layer.weight.copy_(torch.eye(N) if name == "linear" else torch.zeros(N, N))
                    layer.bias.zero_()
        return neuron

    return made


MADE: dict[str, Make] = {
    "Leaky": lambda: snn.Leaky(beta=0.9),
    "Leaky, by neuron": lambda: snn.Leaky(beta=BETAS),
    "Leaky, learnt": lambda: snn.Leaky(beta=0.8, learn_beta=True, learn_threshold=True),
    "Leaky, decay above 1": lambda: snn.Leaky(beta=1.7),
    "Leaky, integrator": lambda: snn.Leaky(beta=1.0),
    "Leaky, reset to zero": lambda: snn.Leaky(beta=0.9, reset_mechanism="zero"),
    "Leaky, no reset": lambda: snn.Leaky(beta=0.9, reset_mechanism="none"),
    "Leaky, graded": lambda: snn.Leaky(beta=0.9, graded_spikes_factor=0.25),
    "Leaky, reset at once": lambda: snn.Leaky(beta=0.9, reset_delay=False),
    "Leaky, hidden state": lambda: snn.Leaky(beta=0.9, init_hidden=True, output=True),
    "Synaptic": lambda: snn.Synaptic(alpha=0.7, beta=0.9),
    "Synaptic, equal decays": lambda: snn.Synaptic(alpha=0.9, beta=0.9),
    "Synaptic, by neuron": lambda: snn.Synaptic(alpha=torch.tensor([0.0, 0.5, 0.9]), beta=BETAS),
    "Synaptic, integrator": lambda: snn.Synaptic(alpha=0.8, beta=1.0),
    "Alpha": lambda: snn.Alpha(alpha=0.9, beta=0.8),
    "Alpha, by neuron": lambda: snn.Alpha(alpha=torch.tensor([0.7, 0.95, 0.9]), beta=0.6),
    "Lapicque, beta": lambda: snn.Lapicque(beta=0.9),
    "Lapicque, R and C": lambda: snn.Lapicque(R=5.1, C=5e-3, time_step=1e-3),
    "Lapicque, beta and R": lambda: snn.Lapicque(beta=0.8, R=3.0),
    "Lapicque, beta and C": lambda: snn.Lapicque(beta=0.8, C=2.0, time_step=0.5),
    "RLeaky": lambda: snn.RLeaky(beta=0.9, linear_features=N),
    "RLeaky, one to one": lambda: snn.RLeaky(beta=0.9, all_to_all=False, V=0.5),
    "RSynaptic": lambda: snn.RSynaptic(alpha=0.7, beta=0.9, linear_features=N),
    "RSynaptic, one to one": lambda: snn.RSynaptic(alpha=0.7, beta=0.9, all_to_all=False, V=0.5),
    "StateLeaky": lambda: snn.StateLeaky(beta=0.9, channels=N),
    "StateLeaky, by neuron": lambda: snn.StateLeaky(beta=BETAS, channels=N),
    "StateLeaky, truncated": lambda: snn.StateLeaky(beta=BETAS, channels=N, kernel_truncation_steps=7),
    "StateLeaky, readout": lambda: snn.StateLeaky(beta=0.9, channels=N, output=False),
    "LinearLeaky": lambda: snn.LinearLeaky(beta=0.9, in_features=N, out_features=N),
    "DeltaLeaky": lambda: snn.DeltaLeaky(beta=0.9, init_hidden=True, delta_threshold=0.6),
}


NEURONS = {
    name: NeuronCase(
        bare(make),
        dtype=torch.float32 if name in ("RLeaky", "RSynaptic") else torch.float64,  # spikes are always float32 there
        either_sign=name == "DeltaLeaky",
    )
    for name, make in MADE.items()
}


def run(neuron: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    if isinstance(neuron, snn.StateLeaky):  # and LinearLeaky: called with the whole sequence
        out = neuron(x)
        return (out, out) if isinstance(out, Tensor) else out
    FRAMEWORK.reset(neuron)
    output, potential = [], []
    state: tuple[Any, ...] = ()
    for now in x:
        spk, *rest = neuron(now, *state)
        if not neuron.init_hidden:
            state = (spk, *rest) if isinstance(neuron, snn.RLeaky | snn.RSynaptic) else tuple(rest)
        output.append(spk)
        potential.append(rest[-1][0] - rest[-1][1] if isinstance(neuron, snn.DeltaLeaky) else rest[-1])
    return torch.stack(output), torch.stack(potential)


def free(neuron: Any, x: Tensor) -> Tensor:
    if isinstance(neuron, snn.DeltaLeaky):
        neuron.delta_threshold = FAR
    else:
        neuron.threshold.data.fill_(FAR)
    return run(neuron, x)[1]


def classes() -> set[type]:
    kinds = {kind for kind in vars(snn).values() if isinstance(kind, type)}
    return {kind for kind in kinds if kind.__module__.startswith("snntorch._neurons")} - {snn.LIF}  # has no forward


def normal(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(STEPS, *shape, generator=torch.Generator().manual_seed(0))


def leaky() -> Any:
    return snn.Leaky(beta=0.9)


def synaptic() -> Any:
    return snn.Synaptic(alpha=0.7, beta=0.9)


HIDDEN = {"init_hidden": True, "output": True}
RECURRENCES = {
    "RLeaky": Recurrence(lambda: (MADE["RLeaky"](), leaky()), normal(4, N)),
    "RLeaky, hidden state": Recurrence(
        lambda: (snn.RLeaky(beta=0.9, linear_features=N, **HIDDEN), leaky()), normal(4, N)
    ),
    "RLeaky, convolution": Recurrence(
        lambda: (snn.RLeaky(beta=0.9, conv2d_channels=2, kernel_size=3), leaky()), normal(2, 2, 4, 5)
    ),
    "RSynaptic": Recurrence(lambda: (MADE["RSynaptic"](), synaptic()), normal(4, N)),
    "RSynaptic, hidden state": Recurrence(
        lambda: (snn.RSynaptic(alpha=0.7, beta=0.9, linear_features=N, **HIDDEN), synaptic()), normal(4, N)
    ),
    "LinearLeaky": Recurrence(
        lambda: (MADE["LinearLeaky"](), snn.StateLeaky(beta=0.9, channels=N)), normal(4, N), ((None, 0),)
    ),
}
WAY_OUT = r"of snntorch cannot be initialised: .*(use|say|takes|describe) "
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "AssociativeLeaky": (lambda: snn.AssociativeLeaky(N, 2, 2, 4), WAY_OUT),
    "LeakyParallel": (lambda: snn.LeakyParallel(N, N, beta=0.9), WAY_OUT),
    "SConv2dLSTM": (lambda: snn.SConv2dLSTM(1, 1, 3), WAY_OUT),
    "SLSTM": (lambda: snn.SLSTM(N, N), WAY_OUT),
    "one of the user": (lambda: type("Mine", (snn.SpikingNeuron,), {})(), WAY_OUT),
    "a Lapicque that changes sign": (lambda: snn.Lapicque(beta=0.3), "changes sign from step to step.*neurons="),
}


def quantised() -> Any:
    from snntorch.functional import quant

    return snn.Leaky(beta=0.9, state_quant=quant.state_quant(4))


def live() -> tuple[Any, Callable[[], Any], list[float]]:
    neuron = snn.Leaky(beta=0.5, learn_beta=True)
    return neuron, lambda: neuron.beta.data.fill_(0.75), [1.0, 0.75]


# -- networks -----------------------------------------------------------------------------------------------------


def trains() -> Tensor:
    return spikes(STEPS, BATCH, INPUTS, seed=1)


def recordings() -> Tensor:
    return spikes(STEPS, BATCH, 2, SIDE, SIDE, seed=1)


def images() -> Tensor:
    return torch.rand(BATCH, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


class Deep(nn.Module):
    """Five layers, explicit state, the loop over time inside."""

    def __init__(self) -> None:
        super().__init__()
        widths = [INPUTS, *[WIDTH] * 4, CLASSES]
        self.fcs = nn.ModuleList(nn.Linear(n, m) for n, m in pairwise(widths))
        self.lifs = nn.ModuleList(snn.Synaptic(alpha=0.8, beta=0.9) for _ in widths[1:])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        states: list[Any] = [lif.reset_mem() for lif in self.lifs]  # type: ignore[operator]
        spk_rec, mem_rec = [], []
        for spk in x:
            for i, (fc, lif) in enumerate(zip(self.fcs, self.lifs, strict=True)):
                spk, syn, mem = lif(fc(spk), *states[i])
                states[i] = (syn, mem)
            spk_rec.append(spk)
            mem_rec.append(mem)
        return torch.stack(spk_rec), torch.stack(mem_rec)


def deep_hidden() -> nn.Module:
    """Five nested layers that keep their state; one call is one step, and the last returns its membrane too."""
    beta = torch.linspace(0.8, 0.95, WIDTH)
    blocks = [
        nn.Sequential(nn.Linear(INPUTS if i == 0 else WIDTH, WIDTH), snn.Leaky(beta=beta, init_hidden=True))
        for i in range(4)
    ]
    return nn.Sequential(
        nn.Flatten(), *blocks, nn.Linear(WIDTH, CLASSES), snn.Leaky(0.9, init_hidden=True, output=True)
    )


class Residual(nn.Module):
    """A weighted shortcut of currents and a plain one of spikes."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(INPUTS, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.skip, self.out = nn.Linear(INPUTS, WIDTH, bias=False), nn.Linear(WIDTH, CLASSES)
        self.lif1, self.lif2 = snn.Leaky(beta=0.9), snn.Leaky(beta=0.8)
        self.lif3, self.lif4 = snn.Alpha(alpha=0.9, beta=0.8), snn.Leaky(beta=0.95, reset_mechanism="none")

    def forward(self, x: Tensor) -> Tensor:
        mem1, mem2, mem4 = self.lif1.reset_mem(), self.lif2.reset_mem(), self.lif4.reset_mem()
        state3 = self.lif3.reset_mem()
        mem4_rec = []
        for x_t in x:
            spk1, mem1 = self.lif1(self.fc1(x_t), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1) + self.skip(x_t), mem2)
            spk3, *state3 = self.lif3(self.fc3(spk1 + spk2), *state3)
            _, mem4 = self.lif4(self.out(spk3), mem4)
            mem4_rec.append(mem4)
        return torch.stack(mem4_rec)


def convolutional() -> nn.Module:
    """One call is one step of an event recording, as in the tutorial on neuromorphic data; batch norm and pooling."""
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.MaxPool2d(2),
        snn.Leaky(beta=0.9, init_hidden=True),
        nn.Conv2d(8, 16, 3),
        nn.AvgPool2d(2),
        snn.Leaky(beta=0.9, init_hidden=True),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(16, CLASSES),
        snn.Leaky(beta=0.9, init_hidden=True, output=True),
    )


class Static(nn.Module):
    """An image that is shown at every step, `num_steps` times, as in the tutorial on convolutional networks."""

    def __init__(self, num_steps: int = STEPS) -> None:
        super().__init__()
        self.num_steps = num_steps
        self.conv, self.pool, self.lif1 = nn.Conv2d(1, 6, 3), nn.MaxPool2d(2), snn.Leaky(beta=0.5)
        self.fc, self.lif2 = nn.Linear(6 * 4 * 4, CLASSES), snn.Leaky(beta=0.5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        spk2_rec, mem2_rec = [], []
        for _ in range(self.num_steps):
            spk1, mem1 = self.lif1(self.pool(self.conv(x)), mem1)
            spk2, mem2 = self.lif2(self.fc(spk1.flatten(1)), mem2)
            spk2_rec.append(spk2)
            mem2_rec.append(mem2)
        return torch.stack(spk2_rec), torch.stack(mem2_rec)


def static_hidden() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 3),
        nn.MaxPool2d(2),
        snn.Leaky(beta=0.5, init_hidden=True),
        nn.Flatten(),
        nn.Linear(6 * 4 * 4, CLASSES),
        snn.Leaky(beta=0.5, init_hidden=True, output=True),
    )


class Recurrent(nn.Module):
    """Layers of neurons that own their recurrent weights."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(INPUTS, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, CLASSES)
        self.lif1 = snn.RLeaky(beta=0.9, linear_features=WIDTH)
        self.lif2 = snn.RSynaptic(alpha=0.7, beta=0.9, linear_features=WIDTH)
        self.lif3 = snn.Leaky(beta=0.9)

    def forward(self, x: Tensor) -> Tensor:
        spk1, mem1 = self.lif1.init_rleaky()
        spk2, syn2, mem2 = self.lif2.init_rsynaptic()
        mem3 = self.lif3.init_leaky()
        spk3_rec = []
        for x_t in x:
            spk1, mem1 = self.lif1(self.fc1(x_t), spk1, mem1)
            spk2, syn2, mem2 = self.lif2(self.fc2(spk1), spk2, syn2, mem2)
            spk3, mem3 = self.lif3(self.fc3(spk2), mem3)
            spk3_rec.append(spk3)
        return torch.stack(spk3_rec)


class ByHand(nn.Module):
    """Recurrence written in the loop."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.rec1 = nn.Linear(INPUTS, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.fc2 = nn.Linear(WIDTH, CLASSES)
        self.lif1, self.lif2 = snn.Leaky(beta=0.9), snn.Leaky(beta=0.9)

    def forward(self, x: Tensor) -> Tensor:
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        spk1, spk2_rec = torch.zeros(x.shape[1], WIDTH), []
        for x_t in x:
            spk1, mem1 = self.lif1(self.fc1(x_t) + self.rec1(spk1), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            spk2_rec.append(spk2)
        return torch.stack(spk2_rec)


def others() -> nn.Module:
    """Euler steps of an RC circuit, neurons that hear themselves alone, and a perfect integrator."""
    return nn.Sequential(
        nn.Linear(INPUTS, WIDTH),
        snn.Lapicque(R=5.1, C=5e-3, time_step=1e-3, init_hidden=True),
        nn.Linear(WIDTH, WIDTH),
        snn.RSynaptic(alpha=0.7, beta=0.9, all_to_all=False, V=0.3, init_hidden=True),
        nn.Linear(WIDTH, CLASSES),
        snn.Leaky(beta=1.0, learn_beta=True, init_hidden=True, output=True),
    )


class Parallel(nn.Module):
    """Filters over whole sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.lif1 = snn.LinearLeaky(beta=0.9, in_features=INPUTS, out_features=WIDTH)
        self.fc2, self.lif2 = nn.Linear(WIDTH, WIDTH), snn.StateLeaky(beta=0.8, channels=WIDTH)
        self.lif3 = snn.LinearLeaky(beta=0.9, in_features=WIDTH, out_features=CLASSES, output=False)

    def forward(self, x: Tensor) -> Tensor:
        spk1, _ = self.lif1(x)
        spk2, _ = self.lif2(self.fc2(spk1))
        mem3: Tensor = self.lif3(spk2)
        return mem3


def called(model: Any, x: Tensor) -> Any:
    return model(x)


def reset(model: Any) -> None:
    for neuron in model.modules():
        if isinstance(neuron, snn.SpikingNeuron):
            neuron.reset_mem()


def stepped(model: Any, x: Tensor) -> Any:
    """The loop of a user whose model runs one step a call."""
    reset(model)
    return [model(now) for now in x]


def shown(model: Any, x: Tensor) -> Tensor:
    """`forward_pass` of the tutorials: a net that keeps its state sees the same image at every step."""
    reset(model)
    return torch.stack([model(x)[0] for _ in range(STEPS)])


def free_potential(neuron: Any, currents: Calls, outputs: Calls) -> Tensor:
    threshold = neuron.threshold.clone()
    neuron.threshold.data.fill_(FAR)
    if isinstance(neuron, snn.StateLeaky):
        out = neuron(currents[0])
        potential = out if isinstance(out, Tensor) else out[1]
    else:
        neuron.reset_mem()
        hidden, neuron.init_hidden = neuron.init_hidden, True  # it keeps its state itself
        after = []
        for t, current in enumerate(currents):
            if t > 0 and getattr(neuron, "all_to_all", False):  # else its spikes are its own affair
                neuron.spk = outputs[t - 1]
            neuron(current)
            after.append(neuron.mem)
        neuron.init_hidden, potential = hidden, torch.stack(after)
    neuron.threshold.data.copy_(threshold)
    free: Tensor = potential / threshold
    return free


NETWORKS = {
    "deep": NetworkCase(Deep, trains, called, chain(*(k for i in range(5) for k in (f"fcs.{i}", f"lifs.{i}")))),
    "deep, hidden state": NetworkCase(
        deep_hidden, trains, stepped, chain(*(k for i in range(1, 5) for k in (f"{i}.0", f"{i}.1")), "5", "6")
    ),
    "residual": NetworkCase(
        Residual,
        trains,
        called,
        {
            "lif1": {"fc1.weight": INPUT},
            "lif2": {"fc2.weight": ("lif1",), "skip.weight": INPUT},
            "lif3": {"fc3.weight": ("lif1", "lif2")},
            "lif4": {"out.weight": ("lif3",)},
        },
    ),
    "others": NetworkCase(others, trains, stepped, chain(*"012345")),
    "convolutional": NetworkCase(convolutional, recordings, stepped, chain("0", "3", "4", "6", "9", "10")),
    "image": NetworkCase(Static, images, called, chain("conv", "lif1", "fc", "lif2")),
    "image, hidden state": NetworkCase(static_hidden, images, shown, chain("0", "2", "4", "5"), {"forward": shown}),
    "recurrent": NetworkCase(
        Recurrent,
        trains,
        called,
        {
            "lif1": {"fc1.weight": INPUT, "lif1.recurrent.weight": ("lif1",)},
            "lif2": {"fc2.weight": ("lif1",), "lif2.recurrent.weight": ("lif2",)},
            "lif3": {"fc3.weight": ("lif2",)},
        },
        slack=0.1,
    ),
    "recurrent by hand": NetworkCase(
        ByHand,
        trains,
        called,
        {"lif1": {"fc1.weight": INPUT, "rec1.weight": ("lif1",)}, "lif2": {"fc2.weight": ("lif1",)}},
        slack=0.1,
    ),
    "parallel": NetworkCase(
        Parallel, trains, called, chain("lif1.linear", "lif1", "fc2", "lif2", "lif3.linear", "lif3")
    ),
}

CASES = FrameworkCases(
    FRAMEWORK,
    NEURONS,
    run,
    free,
    classes,
    NETWORKS,
    by_hooks(free_potential),
    kept="deep, hidden state",
    rated=("image", 15.0, 2e-3),
    refused=REFUSED,
    recurrences=RECURRENCES,
    noted={
        "none": (leaky, None),
        "rounded potential": (quantised, ".*state_quant"),
        "one fires at most": (lambda: snn.Leaky(beta=0.9, inhibition=True), ".*inhibition"),
    },
    live={"beta": live},
    width=N,
)
