"""SpikingJelly: its neurons, networks as its tutorials write them, and how it runs both."""

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fluctua.network.adapters.spikingjelly import FRAMEWORK
from shared.frameworks.cases import (
    FAR,
    INPUT,
    Calls,
    FrameworkCases,
    NetworkCase,
    NeuronCase,
    Wiring,
    by_hooks,
    chain,
    named_classes,
    needed,
)
from shared.spikes import spikes

encoding: Any = needed("spikingjelly.activation_based.encoding")
functional: Any = needed("spikingjelly.activation_based.functional")
layer: Any = needed("spikingjelly.activation_based.layer")
neuron: Any = needed("spikingjelly.activation_based.neuron")
surrogate: Any = needed("spikingjelly.activation_based.surrogate")

# -- neurons ------------------------------------------------------------------------------------------------------

SPIKING: dict[str, Callable[[], Any]] = {
    "IF": neuron.IFNode,
    "IF, soft reset": lambda: neuron.IFNode(v_threshold=0.7, v_reset=None),
    "IF, reset below 0": lambda: neuron.IFNode(v_reset=-0.3),
    "simple IF": neuron.SimpleIFNode,
    "half threshold": lambda: neuron.HalfThresholdIFNode(0.8),
    "activation aware": lambda: neuron.ActivationAwareIFNode(0.8, v_offset=0.3),
    "LIF": neuron.LIFNode,
    "LIF, soft reset": lambda: neuron.LIFNode(tau=5.0, v_reset=None),
    "LIF, reset below 0": lambda: neuron.LIFNode(tau=3.0, v_reset=-0.4),
    "LIF, raw input": lambda: neuron.LIFNode(tau=4.0, decay_input=False, v_reset=-0.2),
    "simple LIF": lambda: neuron.SimpleLIFNode(tau=3.0, decay_input=True, v_reset=-0.1),
    "simple LIF, raw input": lambda: neuron.SimpleLIFNode(tau=3.0, decay_input=False),
    "parametric LIF": lambda: neuron.ParametricLIFNode(init_tau=6.0),
    "parametric LIF, raw input": lambda: neuron.ParametricLIFNode(init_tau=2.5, decay_input=False, v_reset=None),
    "integer spikes": lambda: neuron.ILIFNode(tau=4.0, v_threshold=0.9),
    "complementary LIF": lambda: neuron.ComplementaryLIFNode(tau=4.0),
    "current based": neuron.CUBALIFNode,
    "current based, slow": lambda: neuron.CUBALIFNode(c_decay=0.9, v_decay=0.9, v_threshold=2.0, v_reset=None),
    "analog": lambda: neuron.LIAFNode(lambda x: (x >= 0).to(x), threshold_related=True, tau=3.0),
    "online": lambda: neuron.SLTTLIFNode(tau=3.0),
    "quadratic": neuron.QIFNode,
    "quadratic, rest above 0": lambda: neuron.QIFNode(tau=4.0, v_c=0.9, a0=1.5, v_rest=0.1, v_reset=None),
    "resonant": neuron.RAFNode,
    "resonant, slow": lambda: neuron.RAFNode(b=-0.1, omega=0.2, dt=2.0, v_threshold=0.5),
}
READOUTS: dict[str, Callable[[], Any]] = {
    "potential of an IF": neuron.NonSpikingIFNode,
    "potential of a LIF": lambda: neuron.NonSpikingLIFNode(tau=7.0),
}


def in_mode(make: Callable[[], Any], mode: str) -> Callable[[], Any]:
    def made() -> Any:
        node = make()
        node.step_mode = mode
        return node

    return made


NEURONS = {
    f"{name}, {'all steps' if mode == 'm' else 'step by step'}": NeuronCase(
        in_mode(make, mode),
        impulse=1e-6 if "quadratic" in name else 1.0,  # linear near its rest only
        settle=120,
    )
    for name, make in (SPIKING | READOUTS).items()
    for mode in "sm"
    if mode == "m" or name not in READOUTS
}


def run(node: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    FRAMEWORK.reset(node)
    if hasattr(node, "decode"):  # a readout
        after = torch.stack(node(x))
        return after, after
    output, potential = list[Tensor](), list[Tensor]()
    for now in x if node.step_mode == "s" else x.unsqueeze(1):
        output.append(node(now))
        potential.append(node.v)
    return (torch.stack if node.step_mode == "s" else torch.cat)(output), torch.stack(potential)


def free(node: Any, x: Tensor) -> Tensor:
    if not hasattr(node, "decode"):
        node.v_threshold = torch.as_tensor(FAR) if isinstance(node.v_threshold, Tensor) else FAR
    return run(node, x)[1]


def classes() -> set[type]:
    kinds = {kind for kind in vars(neuron).values() if inspect.isclass(kind) and issubclass(kind, nn.Module)}
    return kinds - {neuron.BaseNode, neuron.NonSpikingBaseNode, neuron.SimpleBaseNode} | named_classes(FRAMEWORK)


def live() -> tuple[Any, Callable[[], Any], list[float]]:
    node = neuron.ParametricLIFNode(init_tau=2.0)
    return node, lambda: node.w.data.fill_(-math.log(9.0)), [0.1, 0.09, 0.081]  # 1 / (1 + 9)


def refused(make: Callable[[], Any], reason: str) -> tuple[Callable[[], Any], str]:
    return make, f"of spikingjelly cannot be initialised: .*{reason}.*; use "


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "EIF": refused(neuron.EIFNode, "no rest"),
    "KLIF": refused(neuron.KLIFNode, "rectifies"),
    "Izhikevich": refused(neuron.IzhikevichNode, "not linear"),
    "PSN": refused(lambda: neuron.PSN(T=8), "learnt matrix"),
    "gated": refused(lambda: neuron.GatedLIFNode(T=8), "drifts"),
    "batch norm": refused(lambda: neuron.MPBNLIFNode(out_features=4), "batch norm"),
    "ternary": refused(neuron.TernaryLIFNode, "either sign"),
    "inner connections": refused(lambda: neuron.ILCLIFNode(2, 3), "in place"),
    "noisy": refused(lambda: neuron.NoisyCUBALIFNode(4), "noise"),
}
NOTED: dict[str, tuple[Callable[[], Any], str | None]] = {
    **{name: (SPIKING[name], ".") for name in ("IF", "quadratic")},
    "graded": (lambda: neuron.LIAFNode(torch.relu, threshold_related=True, tau=3.0), "it emits numbers of any size"),
    "analog": (lambda: neuron.LIAFNode(torch.sigmoid, False, tau=3.0), "it emits numbers of any size"),
    "LIF": (neuron.LIFNode, None),
}

# -- networks -----------------------------------------------------------------------------------------------------


def lif(tau: float = 5.0, **options: Any) -> Any:
    return neuron.LIFNode(tau=tau, surrogate_function=surrogate.ATan(), **options)


def if_node() -> Any:
    return neuron.IFNode(surrogate_function=surrogate.ATan())


def made(make: Callable[[], nn.Module], mode: str) -> Callable[[], nn.Module]:
    """In one step mode."""

    def model() -> nn.Module:
        net = make()
        functional.set_step_mode(net, mode)
        return net

    return model


def stepped(model: nn.Module, x: Tensor) -> Any:
    """In step mode "s": the loop that the user writes."""
    functional.reset_net(model)
    return torch.stack([model(x[t]) for t in range(len(x))])


def at_once(model: nn.Module, x: Tensor) -> Any:
    """In step mode "m", or where the model loops itself."""
    functional.reset_net(model)
    return model(x)


def deep() -> nn.Module:
    return nn.Sequential(*(m for _ in range(5) for m in (layer.Linear(48, 48, bias=False), lif())))


def conv_norm(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> nn.Sequential:
    conv = layer.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
    return nn.Sequential(conv, layer.BatchNorm2d(outputs))


class Block(nn.Module):
    """Spikes added to spikes, as in SEW-ResNet."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.sn1 = conv_norm(inputs, outputs, stride=stride), lif(tau=3.0)
        self.conv2, self.sn2 = conv_norm(outputs, outputs), lif(tau=3.0)
        self.shortcut = nn.Sequential()
        if stride > 1:
            self.shortcut = nn.Sequential(conv_norm(inputs, outputs, 1, stride), lif(tau=3.0))

    def forward(self, x: Tensor) -> Any:
        return self.sn2(self.conv2(self.sn1(self.conv1(x)))) + self.shortcut(x)


class Residual(nn.Module):
    """Two blocks between an encoder and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.sn = conv_norm(2, 8), lif()
        self.plain, self.down = Block(8, 8), Block(8, 12, stride=2)
        self.pool, self.flat = layer.AdaptiveAvgPool2d((1, 1)), layer.Flatten()
        self.fc, self.out = layer.Linear(12, 10), lif()

    def forward(self, x: Tensor) -> Any:
        x = self.down(self.plain(self.sn(self.conv(x))))
        return self.out(self.fc(self.flat(self.pool(x))))


class ConvNet(nn.Module):
    """Direct coding: the same image at every step."""

    def __init__(self, steps: int = 20) -> None:
        super().__init__()
        self.steps = steps
        self.conv_fc = nn.Sequential(
            layer.Conv2d(1, 8, 3, padding=1, bias=False),
            layer.BatchNorm2d(8),
            if_node(),
            layer.MaxPool2d(2, 2),
            layer.Conv2d(8, 8, 3, padding=1, bias=False),
            layer.BatchNorm2d(8),
            if_node(),
            layer.MaxPool2d(2, 2),
            layer.Flatten(),
            layer.Dropout(0.25),
            layer.Linear(8 * 9, 32, bias=False),
            if_node(),
        )

    def forward(self, x: Tensor) -> Any:
        return self.conv_fc(x.unsqueeze(0).repeat(self.steps, 1, 1, 1, 1)).mean(0)


def events() -> nn.Module:
    return nn.Sequential(
        layer.Conv2d(2, 8, 3, padding=1, bias=False),
        layer.BatchNorm2d(8),
        lif(),
        layer.AvgPool2d(2),
        layer.Conv2d(8, 8, 3, padding=1),
        lif(tau=3.0, decay_input=False),
        layer.MaxPool2d(2),
        layer.Flatten(),
        layer.Linear(8 * 9, 10),
        lif(),
    )


def feedback() -> nn.Module:
    cell = neuron.LIFNode(tau=5.0, surrogate_function=surrogate.ATan(), detach_reset=True)
    return nn.Sequential(
        layer.LinearRecurrentContainer(cell, in_features=48, out_features=48, bias=True),
        layer.Linear(48, 10),
        neuron.CUBALIFNode(0.5, 0.9),
    )


class Loop(nn.Module):
    """Recurrence by hand, and a readout that never spikes because nothing reaches its threshold."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.rec, self.n1 = nn.Linear(48, 64), nn.Linear(64, 64, bias=False), neuron.ParametricLIFNode(5.0)
        self.fc2, self.n2 = nn.Linear(64, 10), lif()

    def forward(self, x: Tensor) -> Any:
        rates, spk = torch.zeros(x.shape[1], 10), torch.zeros(x.shape[1], 64)
        for t in range(len(x)):
            spk = self.n1(self.fc1(x[t]) + self.rec(spk))
            rates = rates + self.n2(self.fc2(spk))
        return rates / len(x)


def synapses() -> nn.Module:
    return nn.Sequential(
        layer.Linear(48, 48), lif(), layer.SynapseFilter(tau=3.0, learnable=True), layer.Linear(48, 10), lif()
    )


def elementwise() -> nn.Module:
    cell = layer.ElementWiseRecurrentContainer(lif(), element_wise_function=lambda x, y: x + y)
    return nn.Sequential(layer.Linear(48, 48), cell, layer.Linear(48, 10), lif())


def readout() -> nn.Module:
    return nn.Sequential(layer.Linear(48, 48), lif(), layer.Linear(48, 10), neuron.NonSpikingLIFNode(tau=8.0))


def mixture() -> nn.Module:
    nodes = (
        neuron.RAFNode(b=-0.2, omega=0.5),
        neuron.ComplementaryLIFNode(tau=4.0),
        neuron.HalfThresholdIFNode(0.8),
        neuron.LIAFNode(torch.relu, True, tau=4.0),
    )
    return nn.Sequential(*(m for node in nodes for m in (layer.Linear(48, 48), node)))


def classifier() -> nn.Module:
    return nn.Sequential(layer.Flatten(), layer.Linear(144, 10, bias=False), lif(tau=2.0))


def encoded(model: nn.Module, image: Tensor) -> Any:
    """The loop of the first tutorial: an image, drawn anew at each step."""
    functional.reset_net(model)
    encoder = encoding.PoissonEncoder()
    return sum((model(encoder(image)) for _ in range(60)), start=torch.zeros(len(image), 10)) / 60


def image(samples: int = 16) -> Tensor:
    return torch.rand(samples, 1, 12, 12, generator=torch.Generator().manual_seed(2))


DEEP = chain(*(str(k) for k in range(10)))
RESIDUAL: Wiring = {
    "sn": {"conv.0.weight": INPUT},
    "plain.sn1": {"plain.conv1.0.weight": ("sn",)},
    "plain.sn2": {"plain.conv2.0.weight": ("plain.sn1",)},
    "down.sn1": {"down.conv1.0.weight": ("plain.sn2", "sn")},
    "down.sn2": {"down.conv2.0.weight": ("down.sn1",)},
    "down.shortcut.1": {"down.shortcut.0.0.weight": ("plain.sn2", "sn")},
    "out": {"fc.weight": ("down.shortcut.1", "down.sn2")},
}
CONV = chain("conv_fc.0", "conv_fc.2", "conv_fc.4", "conv_fc.6", "conv_fc.10", "conv_fc.11")
EVENTS = chain("0", "2", "4", "5", "8", "9")
FEEDBACK: Wiring = {"0.sub_module": {"0.rc.weight": ("0.sub_module",)}, "2": {"1.weight": ("0.sub_module",)}}
LOOP: Wiring = {"n1": {"fc1.weight": INPUT, "rec.weight": ("n1",)}, "n2": {"fc2.weight": ("n1",)}}
ELEMENTWISE: Wiring = {"1.sub_module": {"0.weight": INPUT}, "3": {"2.weight": ("1.sub_module",)}}


def flat() -> Tensor:
    return spikes(60, 32, 48, seed=1)


def frames() -> Tensor:
    return spikes(30, 8, 2, 12, 12, seed=1)


def free_potential(node: Any, currents: Calls, outputs: Calls) -> Tensor:
    if hasattr(node, "decode"):
        return torch.stack(node(currents[0]))
    threshold, node.v_threshold = node.v_threshold, FAR
    node.reset()
    after = []
    for x in currents if node.step_mode == "s" else currents[0].unsqueeze(1):
        node(x)
        after.append(node.v)
    node.v_threshold = threshold
    free: Tensor = torch.stack(after) / threshold
    return free


def memory(model: nn.Module) -> Any:
    """Neither buffers nor in the state_dict."""
    return {name: dict(module._memories) for name, module in model.named_modules() if hasattr(module, "_memories")}


NETWORKS = {
    "deep, step by step": NetworkCase(made(deep, "s"), flat, stepped, DEEP),
    "deep, all steps": NetworkCase(made(deep, "m"), flat, at_once, DEEP),
    "residual, step by step": NetworkCase(made(Residual, "s"), frames, stepped, RESIDUAL),
    "residual, all steps": NetworkCase(made(Residual, "m"), frames, at_once, RESIDUAL),
    "convolutions on an image": NetworkCase(made(ConvNet, "m"), image, at_once, CONV),
    "convolutions on events, step by step": NetworkCase(made(events, "s"), frames, stepped, EVENTS),
    "convolutions on events, all steps": NetworkCase(made(events, "m"), frames, at_once, EVENTS),
    "feedback, step by step": NetworkCase(made(feedback, "s"), flat, stepped, FEEDBACK, slack=0.1),
    "feedback, all steps": NetworkCase(made(feedback, "m"), flat, at_once, FEEDBACK, slack=0.1),
    "recurrence by hand": NetworkCase(made(Loop, "s"), flat, at_once, LOOP, slack=0.1),
    "spikes added to the current": NetworkCase(made(elementwise, "s"), flat, stepped, ELEMENTWISE, slack=0.1),
    "filtered spikes": NetworkCase(made(synapses, "m"), flat, at_once, chain("0", "1", "3", "4")),
    "nodes of many kinds": NetworkCase(made(mixture, "m"), flat, at_once, chain(*(str(k) for k in range(8)))),
    "readout": NetworkCase(made(readout, "m"), flat, at_once, chain("0", "1", "2", "3")),
    "encoded image": NetworkCase(made(classifier, "s"), image, encoded, chain("1", "2"), {"forward": encoded}),
}

PAIRED = ("deep", "feedback")  # batch norm tells a step from a sequence
CASES = FrameworkCases(
    FRAMEWORK,
    NEURONS,
    run,
    free,
    classes,
    NETWORKS,
    by_hooks(free_potential),
    memory=memory,
    kept="feedback, step by step",
    rated=("readout", 20.0, 2e-3),
    refused=REFUSED,
    noted=NOTED,
    live={"tau": live},
    lacking=frozenset(name for name in (*FRAMEWORK.facts, *FRAMEWORK.refused) if name.count(".") == 3),  # of older ones
    alike={name: (f"{name}, step by step", f"{name}, all steps") for name in PAIRED},
)
