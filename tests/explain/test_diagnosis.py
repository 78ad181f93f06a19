"""Laws of the diagnosis: its first finding names the cause, its line cures it, and what is healthy has none.

The silent networks are small ones of the kinds that people asked about in public: snnTorch issues 33, 66, 126, 219 and
377, SpikingJelly 190, 216, 285 and 492, slayerPytorch 102, STBP 6, and a Rockpool thread on quantisation.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fluctua
from fluctua import Diagnosis, diagnose
from fluctua.explain.checks import LARGE
from fluctua.hardware import Grid, quantize
from fluctua.layers import DaleLayer, OverTime, Recurrent
from fluctua.neurons import LI, LIF, SuperSpike

snntorch = pytest.importorskip("snntorch")
pytest.importorskip("spikingjelly")

from snntorch import surrogate  # noqa: E402
from spikingjelly.activation_based import functional, layer, neuron  # noqa: E402


def uneven(t: int, b: int, *n: int, p: float = 0.05) -> Tensor:
    """Of rates that differ between channels, by half of their mean."""
    rates = p * torch.linspace(0.5, 1.5, n[-1])
    return noise(t, b, *n, p=rates)


def noise(t: int, b: int, *n: int, p: float | Tensor = 0.05) -> Tensor:
    return (torch.rand(t, b, *n, generator=torch.Generator().manual_seed(0)) < p).float()


def images(b: int, *n: int) -> Tensor:
    return torch.rand(b, *n, generator=torch.Generator().manual_seed(0))


@dataclass(frozen=True)
class Case:
    """A network, what `diagnose` is called with besides, and what it is to find first."""

    model: Callable[[], nn.Module]
    batch: Tensor
    kind: str
    where: str | None = None
    more: dict[str, Any] = field(default_factory=dict)


class SnnConv(nn.Module):
    """Four convolutional layers, the image shown again and again, spikes counted."""

    def __init__(self, threshold: float, beta: float = 0.95, *widths: int, **unlike: bool) -> None:
        super().__init__()
        widths, self.unlike = widths or (1, 12, 12, 16, 16), unlike
        self.kept: tuple[list[Any], Any] | None = None
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3) for a, b in pairwise(widths))
        self.lifs = nn.ModuleList(snntorch.Leaky(beta=beta, threshold=threshold) for _ in widths[1:])
        size = 14 - 2 * len(widths)
        self.fc, self.out = nn.Linear(widths[-1] * size**2, 4), snntorch.Leaky(beta=beta, threshold=1.0)

    def forward(self, x: Tensor) -> Tensor:
        mems: list[Any] = [lif.init_leaky() for lif in self.lifs]  # type: ignore[operator]
        last = self.out.init_leaky()
        if self.kept is not None and self.unlike.get("keeps"):
            mems, last = self.kept
        counts, potentials = [], []
        for _ in range(20):
            h = x
            for k, (conv, lif) in enumerate(zip(self.convs, self.lifs, strict=True)):
                h, mems[k] = lif(conv(h), mems[k].detach() if self.unlike.get("detaches") else mems[k])
            spike, last = self.out(self.fc(h.flatten(1)), last)
            counts.append(spike)
            potentials.append(last)
        self.kept = [m.detach() for m in mems], last.detach()
        if self.unlike.get("softmax"):
            return torch.stack(potentials).mean(0).softmax(-1)
        return torch.stack(potentials).sum(0) if self.unlike.get("sums") else torch.stack(counts)


def started(model: nn.Module, x: Tensor, **more: Any) -> nn.Module:
    """In its state, so that one thing alone is wrong."""
    fluctua.initialize(model, x, seed=0, **more)
    return model


def snn_conv(**unlike: bool) -> nn.Module:
    return started(
        SnnConv(1.0, 0.9, 1, 8, 8, **unlike), images(8, 1, 12, 12), time=None, readout=fluctua.Target(sigma=1.0)
    )


def snn_dense(*widths: int, beta: float = 0.9, threshold: float = 1.0, **options: Any) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b), snntorch.Leaky(beta=beta, threshold=threshold, init_hidden=True, **options)]
    return nn.Sequential(*layers)


def snn_synaptic() -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in ((95, 64), (64, 32), (32, 8)):
        layers += [nn.Linear(a, b), snntorch.Synaptic(alpha=0.7, beta=0.8, threshold=4.0, init_hidden=True)]
    return nn.Sequential(*layers)


def jelly(*widths: int, norm: bool = False) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b, bias=False)]
        layers += [layer.BatchNorm1d(b, step_mode="m")] if norm else []
        layers += [neuron.LIFNode(tau=2.0, step_mode="m", detach_reset=True)]
    return nn.Sequential(*layers)


def own(*widths: int, gain: float = 1.0, offset: float = 0.0, **options: Any) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        linear = nn.Linear(a, b)
        with torch.no_grad():
            linear.weight.mul_(gain)
            linear.bias.add_(offset)
        layers += [linear, LIF(**options)]
    return nn.Sequential(*layers[:-1], LI(0.1))


def eval_norm() -> nn.Module:
    """Trained nothing yet, and set to eval: the norm takes its input for normal already."""
    model = jelly(40, 32, 32, norm=True)
    with torch.no_grad():
        for m in model.modules():
            if isinstance(m, nn.Linear):
                m.weight.mul_(0.05)
    return model.eval()


def quantised() -> nn.Module:
    """Weights that suit the net with thresholds of 1, rounded to a grid whose one step is larger than most of them."""
    model = nn.Sequential(nn.Linear(12, 128), LIF(0.16, 0.065, dt=0.05), nn.Linear(128, 7), LIF(0.16, 0.065, dt=0.05))
    fluctua.initialize(model, x := uneven(40, 16, 12, p=0.3), seed=0)
    widest = float(model.get_parameter("0.weight").detach().abs().max())
    quantize(model, x, Grid(bits=8, scale=1.9 * widest))
    return model


BITS = uneven(50, 16, 40)


def looped(model: nn.Module, x: Tensor) -> Tensor:
    """All steps, and no word of a reset."""
    return torch.stack([model(step) for step in x])


def jelly_conv(v_threshold: float, batch: Tensor | None = None) -> nn.Module:
    """A convolution, a norm and a pool, twice, as in SpikingJelly's tutorial on images."""
    layers: list[nn.Module] = []
    for a, b in ((1, 8), (8, 8)):
        layers += [layer.Conv2d(a, b, 3, padding=1, bias=False), layer.BatchNorm2d(b)]
        layers += [neuron.LIFNode(v_threshold=v_threshold, detach_reset=True), layer.MaxPool2d(2)]
    last = [layer.Flatten(), layer.Linear(8 * 9, 4, bias=False), neuron.LIFNode(v_threshold=v_threshold)]
    model = nn.Sequential(*layers, *last)
    functional.set_step_mode(model, "m")
    return model if batch is None else started(model, batch)


def jelly_recurrence() -> nn.Module:
    """A container of SpikingJelly, in which one weight hears input and spikes; the same net without it is in order."""
    first, last = layer.Linear(40, 64), layer.Linear(64, 4)
    loop = layer.LinearRecurrentContainer(neuron.LIFNode(), 64, 64, bias=False)
    model = nn.Sequential(first, neuron.LIFNode(), loop, last, neuron.LIFNode())
    started(model, uneven(50, 16, 40))
    with torch.no_grad():
        nn.init.normal_(loop.rc.weight, 0.0, 3.0)
    started(model, uneven(50, 16, 40), populations=["4"])
    return model


SILENT = {
    "snnTorch 219: four convolutions, output never fires": Case(
        lambda: SnnConv(1.0), images(8, 1, 12, 12), "silent", more={"time": None}
    ),
    "snnTorch 219: thresholds of zero": Case(
        lambda: SnnConv(0.0), images(8, 1, 12, 12), "saturated", "lifs.0", {"time": None}
    ),
    "snnTorch 377: deep": Case(lambda: snn_dense(40, 64, 64, 64, 64, 8), uneven(20, 8, 40), "silent"),
    "snnTorch 33: rate code": Case(snn_synaptic, uneven(25, 16, 95, p=0.02), "silent", "1"),
    "snnTorch 126: images": Case(
        lambda: snn_dense(192, 64, 10, beta=0.5), images(16, 192), "silent", more={"time": None, "steps": 25}
    ),
    "SpikingJelly 285: the rate falls to zero": Case(lambda: jelly(40, *[64] * 6, 10), 4 * uneven(20, 8, 40), "silent"),
    "SpikingJelly 216: loss of 1/C": Case(
        lambda: jelly(40, 32, 11), uneven(20, 22, 40), "silent", "1", {"labels": torch.arange(22) % 11}
    ),
    "SpikingJelly 492: norm in eval mode": Case(eval_norm, uneven(20, 8, 40), "norm", "1"),
    "slayerPytorch 102: a threshold of ten": Case(
        lambda: own(40, 32, 4, threshold=10.0), uneven(100, 8, 40), "silent", "1"
    ),
    "STBP 6: neurons that die early": Case(
        lambda: own(40, 32, 4, tau_mem=5e-3, tau_syn=None, threshold=0.75), uneven(100, 8, 40), "silent", "1"
    ),
    "biases that hold it down": Case(lambda: own(40, 64, 4, gain=5.0, offset=-0.6), uneven(100, 8, 40), "silent", "1"),
    "Rockpool: silent on the grid of the chip": Case(quantised, uneven(40, 16, 12, p=0.3), "grid", "1"),
}

LABELS = torch.arange(8) % 4
FRAMES = images(8, 1, 12, 12).unsqueeze(0).repeat(6, 1, 1, 1, 1)

RECREATED = {
    "snnTorch: a decay of 0.1 in front of images": Case(
        lambda: SnnConv(1.0, 0.1, 1, 8, 8), images(8, 1, 12, 12), "silent", "lifs.0", {"time": None, "labels": LABELS}
    ),
    "snnTorch: images that were divided by 255 twice": Case(
        lambda: SnnConv(1.0, 0.9, 1, 8, 8), images(8, 1, 12, 12) / 255, "silent", None, {"time": None}
    ),
    "snnTorch: images of bytes": Case(
        lambda: SnnConv(1.0, 0.9, 1, 8, 8), (255 * images(8, 1, 12, 12)).to(torch.uint8), "input", "", {"time": None}
    ),
    "snnTorch: a membrane that is detached at every step": Case(
        lambda: snn_conv(detaches=True), images(8, 1, 12, 12), "detached", "lifs.0", {"time": None}
    ),
    "snnTorch: a state that the module keeps": Case(
        lambda: snn_conv(keeps=True), images(8, 1, 12, 12), "state", "", {"time": None}
    ),
    "snnTorch: a potential summed over time": Case(
        lambda: snn_conv(sums=True), images(8, 1, 12, 12), "readout", "out", {"time": None, "labels": LABELS}
    ),
    "snnTorch: a softmax before the cross entropy": Case(
        lambda: snn_conv(softmax=True), images(8, 1, 12, 12), "readout", "out", {"time": None, "labels": LABELS}
    ),
    "snnTorch 427: a sigmoid that overflows far below threshold": Case(
        lambda: started(snn_dense(40, 64, 4, spike_grad=surrogate.sigmoid(slope=40)), uneven(50, 16, 40)),
        uneven(50, 16, 40),
        "gradient",
        "1",
    ),
    "SpikingJelly: a threshold of three behind norms": Case(
        lambda: jelly_conv(3.0), FRAMES, "silent", "2", {"labels": LABELS}
    ),
    "SpikingJelly: norms in eval mode": Case(lambda: jelly_conv(1.0, FRAMES).eval(), FRAMES, "norm", "1"),
    "SpikingJelly: reset_net is missing": Case(
        lambda: started(
            nn.Sequential(nn.Linear(40, 64), neuron.LIFNode(), nn.Linear(64, 4), neuron.LIFNode()),
            BITS,
            target=fluctua.Target(),  # an output that spikes
        ),
        BITS,
        "state",
        more={"forward": looped},
    ),
    "SpikingJelly: a recurrence that explodes": Case(jelly_recurrence, uneven(50, 16, 40), "exploding", "2.sub_module"),
    "samples first, as labels tell": Case(
        lambda: started(own(40, 32, 4), uneven(100, 8, 40)),
        uneven(100, 8, 40).transpose(0, 1),
        "axes",
        more={"labels": LABELS},
    ),
    "one rate in all channels": Case(
        lambda: started(own(40, 32, 4), noise(100, 8, 40)), noise(100, 8, 40), "input", "", {"labels": LABELS}
    ),
    "a trial that is short against tau": Case(
        lambda: own(40, 32, 4, tau_mem=20.0, tau_syn=10.0), uneven(100, 8, 40), "time", "1"
    ),
    "a time step that is long against tau": Case(lambda: own(40, 32, 4, dt=1.0), uneven(100, 8, 40), "time", "1"),
    "an input that is taken away": Case(
        lambda: nn.Sequential(nn.Linear(40, 32), nn.Threshold(99, 0), LIF()), uneven(100, 8, 40), "silent", "2"
    ),
    "one sample, and norms in training": Case(
        lambda: nn.Sequential(nn.Linear(40, 32), nn.BatchNorm1d(32), snntorch.Leaky(beta=0.9, init_hidden=True)),
        uneven(50, 1, 40),
        "norm",
    ),
}
NOT_SERIOUS = {
    "snnTorch: a membrane that is detached at every step",
    "one rate in all channels",
    "weights thirty times too large",
}

ILL = {
    "integers": Case(lambda: own(40, 32, 4), (255 * uneven(100, 8, 40, p=0.5)).to(torch.uint8), "input", more={}),
    "one value in all channels": Case(lambda: own(40, 32, 4, gain=3.0), torch.ones(100, 8, 40), "input"),
    "nothing": Case(lambda: own(40, 32, 4), torch.zeros(100, 8, 40), "input"),
    "NaN": Case(lambda: own(40, 32, 4, gain=6.0), torch.where(uneven(100, 8, 40) > 0, torch.nan, 1.0), "input"),
    "samples taken for time": Case(
        lambda: own(40, 32, 4, gain=4.0),
        uneven(8, 1, 40).expand(8, 1, 40).repeat(1, 1, 1) + 0 * uneven(8, 1, 40),
        "axes",
    ),
    "snnTorch 66: it fires at every step": Case(
        lambda: own(40, 32, 4, gain=1.0, offset=3.0), uneven(100, 8, 40), "saturated", "1"
    ),
    "recurrence that drives itself": Case(lambda: strong_recurrence(), uneven(100, 8, 40), "exploding", "1"),
    "activity that grows with depth": Case(lambda: growing(), uneven(100, 16, 40), "exploding", "7"),
    "weights thirty times too large": Case(
        lambda: changed(lambda w: w.mul_(30)), uneven(100, 16, 40), "exploding", "3"
    ),
    "a weight that is not a number": Case(
        lambda: changed(lambda w: w[0, 0].fill_(torch.nan)), uneven(100, 16, 40), "values", "2.weight"
    ),
    "a weight of which no entry is a number": Case(
        lambda: changed(lambda w: w.fill_(torch.nan)), uneven(100, 16, 40), "values", "2.weight"
    ),
    "a norm that has learned from values that are no numbers": Case(lambda: diverged(), FRAMES, "values", "0.weight"),
    "a decay that is not a number": Case(
        lambda: snn_dense(40, 64, 4, beta=torch.nan, learn_beta=True), BITS, "values", "1.beta"
    ),
    "neurons of two frameworks below rest": Case(
        lambda: nn.Sequential(
            nn.Linear(40, 64),
            snntorch.Leaky(beta=0.9, threshold=-0.1, init_hidden=True),
            nn.Linear(64, 4),
            neuron.LIFNode(v_threshold=-0.1),
        ),
        BITS,
        "saturated",
        "",
    ),
    "one neuron module below rest": Case(
        lambda: below_rest(started(snn_dense(40, 64, 4), uneven(50, 16, 40)), "1"), uneven(50, 16, 40), "saturated", "1"
    ),
    "all neurons below rest": Case(lambda: snn_dense(40, 64, 4, threshold=-0.1), uneven(50, 16, 40), "saturated", ""),
    "spikes multiplied by spikes, and no weight before the next": Case(lambda: Products(), BITS, "silent", "c"),
    "no gradient required": Case(lambda: healthy_dense().requires_grad_(False), uneven(100, 16, 40), "frozen"),
    "SpikingJelly 190: a surrogate that is zero": Case(
        lambda: sharp(), uneven(20, 16, 40), "gradient", "1", {"labels": torch.arange(16) % 4}
    ),
    "a surrogate too sharp": Case(
        lambda: sharp_deep(), uneven(100, 16, 40), "gradient", "3", {"labels": torch.arange(16) % 4}
    ),
    "a trial that ends before activity has come through": Case(lambda: deep(), uneven(30, 16, 40), "late", more={}),
    "a state that is not reset": Case(
        lambda: healthy_snn()[0],
        uneven(40, 32, 40),
        "state",
        more={"forward": looped},
    ),
    "a graph that is cut": Case(lambda: Cut(), uneven(100, 16, 40), "detached", "a"),
    "a readout that says the same of all": Case(
        lambda: mute(), uneven(100, 16, 40), "readout", "5", {"labels": torch.arange(16) % 4}
    ),
    "a readout that is sure": Case(
        lambda: loud(), uneven(100, 16, 40), "readout", "5", {"labels": torch.arange(16) % 4}
    ),
}


def changed(change: Callable[[Tensor], object]) -> nn.Module:
    """A healthy network, but for the weight of its second layer."""
    model = healthy_dense()
    change(model.get_parameter("2.weight").data)
    return model


def diverged() -> nn.Module:
    model = jelly_conv(1.0, FRAMES)
    model(torch.full_like(FRAMES, torch.nan))
    model.get_parameter("0.weight").data.fill_(torch.nan)
    functional.reset_net(model)
    return model


def below_rest(model: nn.Module, name: str) -> nn.Module:
    model.get_submodule(name).threshold.fill_(-0.1)  # type: ignore[operator, union-attr]
    return model


class Products(nn.Module):
    """What attention of spikes does: two populations are multiplied, and a third hears the small product."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.a = nn.Linear(40, 64), LIF()
        self.k, self.b = nn.Linear(40, 64), LIF()
        self.c, self.fc, self.out = LIF(), nn.Linear(64, 4), LI(0.1)
        fluctua.initialize(self, BITS, seed=0)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.out(self.fc(self.c(0.125 * self.a(self.q(x)) * self.b(self.k(x)))))
        return output


def strong_recurrence() -> nn.Module:
    model = nn.Sequential(nn.Linear(40, 64), Recurrent(LIF(), nn.Linear(64, 64, bias=False)), nn.Linear(64, 4), LI(0.1))
    with torch.no_grad():
        model.get_parameter("0.weight").mul_(5)
        nn.init.normal_(model.get_parameter("1.weight.weight"), 0.0, 3.0)
    return model


class Cut(nn.Module):
    """Spikes that are taken out of the graph between two populations."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.a, self.second, self.b = nn.Linear(40, 64), LIF(), nn.Linear(64, 4), LIF()
        fluctua.initialize(self, uneven(100, 16, 40), seed=0)

    def forward(self, x: Tensor) -> Tensor:
        spikes_: Tensor = self.b(self.second(self.a(self.first(x)).detach()))
        return spikes_


def deep() -> nn.Module:
    """Initialised on a long trial."""
    model = own(40, *[64] * 6, 4)
    fluctua.initialize(model, uneven(200, 16, 40), seed=0)
    return model


def mute() -> nn.Module:
    model = healthy_dense()
    with torch.no_grad():
        for name in ("4.weight", "4.bias"):
            model.get_parameter(name).zero_()
    return model


def sharp_deep() -> nn.Module:
    model = own(40, *[64] * 5, 4, surrogate=SuperSpike(beta=1e4))
    fluctua.initialize(model, uneven(100, 16, 40), seed=0)
    return model


def healthy_dense() -> nn.Sequential:
    model = own(40, 64, 64, 4)
    fluctua.initialize(model, uneven(100, 16, 40), seed=0)
    return model


def growing() -> nn.Module:
    model = own(40, *[64] * 4, 4)
    fluctua.initialize(model, uneven(100, 16, 40), seed=0)
    with torch.no_grad():
        for name, factor in (("2.weight", 2.0), ("4.weight", 3.0), ("6.weight", 4.0)):
            model.get_parameter(name).mul_(factor)
    return model


def sharp() -> nn.Module:
    model = snn_dense(40, 64, 4, spike_grad=surrogate.sigmoid(slope=200))
    fluctua.initialize(model, uneven(20, 16, 40), fluctua.Target(xi=1.0), seed=0)
    return model


def loud() -> nn.Module:
    model = healthy_dense()
    with torch.no_grad():
        model.get_parameter("4.weight").mul_(1e3)
    return model


def cure(case: Case, model: nn.Module, found: Diagnosis) -> Diagnosis:
    """The diagnosis after the first finding's line has been run."""
    names: dict[str, Any] = {
        "fluctua": fluctua,
        "torch": torch,
        "nn": nn,
        "model": model,
        "batch": case.batch.clone(),
        **case.more,
    }
    assert "\n" not in found[0].remedy
    exec(found[0].remedy, names)
    given = {key: names[key] for key in {"time": None, "steps": None, "loss": None, **case.more} if key in names}
    return diagnose(names["model"], names["batch"], **given)


@pytest.mark.parametrize("name", [*SILENT, *RECREATED, *ILL])
def test_the_first_finding_names_the_cause_and_its_line_cures_it(name: str) -> None:
    torch.manual_seed(0)
    case = (SILENT | RECREATED | ILL)[name]
    model = case.model()
    before = copy.deepcopy(model.state_dict())
    found = diagnose(model, case.batch, **case.more)
    assert all(torch.equal(value.nan_to_num(7), before[key].nan_to_num(7)) for key, value in model.state_dict().items())
    assert found, "nothing found"
    assert (found[0].kind, found[0].serious) == (case.kind, name not in NOT_SERIOUS), str(found)
    assert case.where in (None, found[0].where)
    after = cure(case, model, found) if not found[0].remedy.startswith("#") else Diagnosis(())
    assert case.kind not in [f.kind for f in (after.serious if found[0].serious else after)], (
        f"{found}\n\nafter:\n{after}\n{after.report}"
    )
    if name in SILENT and after.serious:  # behind a threshold or a norm the weights too
        after = cure(case, model, after)
    assert after.serious == () or name not in SILENT, str(after)


# --- what is healthy ---


def healthy_conv() -> tuple[nn.Module, Tensor]:
    model = nn.Sequential(OverTime(nn.Conv1d(1, 8, 5)), LIF(), nn.Flatten(2), nn.Linear(8 * 36, 4), LI(0.1))
    fluctua.initialize(model, x := uneven(100, 16, 1, 40), seed=0)
    return model, x


def healthy_recurrent() -> tuple[nn.Module, Tensor]:
    model = nn.Sequential(nn.Linear(40, 64), Recurrent(LIF(), nn.Linear(64, 64, bias=False)), nn.Linear(64, 4), LI(0.1))
    fluctua.initialize(model, x := uneven(150, 32, 40), seed=0)
    return model, x


def healthy_snn() -> tuple[nn.Module, Tensor]:
    model = snn_dense(40, 64, 64, 4)
    fluctua.initialize(model, x := uneven(40, 32, 40), seed=0)
    return model, x


def healthy_jelly() -> tuple[nn.Module, Tensor]:
    return jelly(40, 64, 64, 10, norm=True), 2 * uneven(20, 32, 40)


def still_places() -> tuple[nn.Module, Tensor]:
    """Two thirds of what a convolution sees never moves."""
    model = nn.Sequential(OverTime(nn.Conv1d(1, 8, 5)), LIF(), nn.Flatten(2), nn.Linear(8 * 116, 4), LI(0.1))
    x = torch.cat([uneven(100, 16, 1, 40), torch.zeros(100, 16, 1, 80)], 3)
    fluctua.initialize(model, x, seed=0)
    return model, x


def dale() -> tuple[nn.Module, Tensor]:
    model, x = nn.Sequential(DaleLayer(40, 40, 10), nn.Linear(40, 3), LI(0.1)), uneven(250, 16, 40)
    fluctua.initialize(model, x, seed=0)
    return model, x


HEALTHY: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "dense": lambda: (healthy_dense(), uneven(100, 16, 40)),
    "convolutional": healthy_conv,
    "convolutional, and most of it still": still_places,
    "convolutional, of snnTorch": lambda: (snn_conv(), images(8, 1, 12, 12)),
    "convolutional, of SpikingJelly": lambda: (jelly_conv(1.0, FRAMES), FRAMES),
    "recurrent": healthy_recurrent,
    "snnTorch": healthy_snn,
    "Dale's law": dale,
    "SpikingJelly with norms": healthy_jelly,
    "xi of two": lambda: xi_two(),
}


def xi_two() -> tuple[nn.Module, Tensor]:
    model, x = own(40, 64, 64, 4), uneven(250, 32, 40)
    fluctua.initialize(model, x, fluctua.Target(xi=2.0), seed=0)
    return model, x


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_network_has_no_finding(name: str) -> None:
    torch.manual_seed(0)
    model, x = HEALTHY[name]()
    time: Any = None if name == "convolutional, of snnTorch" else 0
    for labels in (None, torch.arange(x.shape[0 if time is None else 1]) % 3):
        assert list(diagnose(model, x, labels=labels, time=time)) == []


def test_what_masks_by_minus_infinity_and_integrates_for_long_is_healthy() -> None:
    class Masked(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(*snn_dense(40, 64, 4))
            self.register_buffer("mask", torch.full((3, 3), -torch.inf).triu(1))

    assert "values" not in {f.kind for f in diagnose(started(Masked(), BITS), BITS)}
    layers = [nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), neuron.IFNode()]
    model = nn.Sequential(*layers, nn.Flatten(1), nn.Linear(8 * 64, 10), neuron.IFNode())
    found = diagnose(model, images(16, 1, 8, 8), time=None, steps=32)
    assert "exploding" not in {f.kind for f in found}, str(found)


def test_a_fused_model_is_diagnosed_as_its_model() -> None:
    model = snn_dense(40, 64, 4)
    fast = fluctua.fuse(model, BITS)
    labels = torch.arange(16) % 4
    assert str(diagnose(fast, BITS, labels=labels)) == str(diagnose(model, BITS, labels=labels))
    forward = lambda model, x: model(2 * x)  # noqa: E731
    fast = fluctua.fuse(model, BITS, forward=lambda model, x: torch.stack([model(step) for step in 2 * x]))
    assert str(diagnose(fast, BITS, forward=forward)) != "nothing found"


def test_what_is_random_in_a_model_is_no_state() -> None:
    model = nn.Sequential(nn.Dropout(0.3), *own(40, 64, 4))
    found = diagnose(started(model, uneven(100, 16, 40)), uneven(100, 16, 40), labels=torch.arange(16) % 4)
    assert list(found) == []
    assert found.report is not None
    assert "is a pair" not in str(found.report)


def test_a_code_by_times_alone_is_no_noise() -> None:
    """Each channel fires once in each sample, whatever it says."""
    first = torch.randint(100, (16, 40), generator=torch.Generator().manual_seed(0))
    batch = torch.zeros(100, 16, 40).scatter_(0, first[None], 1.0)
    model = started(own(40, 64, 4), batch)
    assert list(diagnose(model, batch, labels=torch.arange(16) % 4)) == []


def test_surrogates_too_sharp_for_a_deep_network_are_told_and_the_line_cures_them() -> None:
    model, batch = own(40, *[64] * 6, 4), uneven(150, 16, 40)
    fluctua.initialize(model, batch, seed=0)
    (found,) = diagnose(model, batch)
    assert (found.kind, found.where, found.serious) == ("gradient", "1", False)
    assert found.message.startswith("few neurons carry the gradient through 1, 3, 5, 7, 9, 11: the participation share")
    exec(found.remedy, {"fluctua": fluctua, "model": model})
    assert list(diagnose(model, batch)) == []
    fluctua.initialize(model, batch, surrogate="share", seed=0)
    assert list(diagnose(model, batch)) == []


def test_a_gradient_that_grows_by_blunt_surrogates_does_not_keep_from_learning() -> None:
    model, batch = own(40, *[64] * 10, 4), uneven(250, 8, 40)
    fluctua.initialize(model, batch, surrogate=1.5, seed=0)
    (found,) = diagnose(model, batch, labels=torch.arange(8) % 4)
    assert found.message.startswith("the gradient grows from ")
    assert found.remedy.startswith("# clip the gradient")
    assert not found.serious


def test_how_far_large_values_drive_the_potential_is_told_by_the_mean_where_that_is_more() -> None:
    model, batch = own(40, 32, 4), 200 + torch.rand(60, 8, 40, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        next(model.parameters()).abs_()
    first = fluctua.inspect(model, batch)[0]
    assert first.mu_u > 2 * first.sigma_u
    (found,) = [f for f in fluctua.diagnose(model, batch) if f.kind == "input"]
    assert (
        f"drive the potential of {first.name} to {first.mu_u / (first.threshold or 1.0):.3g} times its threshold"
        in found.message
    )


def test_neurons_that_differ_are_no_fluctuation() -> None:
    torch.manual_seed(0)
    model: Any = own(40, 32, 4)
    x = (torch.rand(200, 8, 40) < 0.1).float()
    fluctua.initialize(model, x, seed=0)
    with torch.no_grad():
        model[0].bias.copy_(torch.linspace(-4, 0, 32))
    first = fluctua.inspect(model, x)[0]
    assert first.sigma_u > LARGE > first.sigma_temporal
    assert not [f for f in diagnose(model, x) if f.kind == "exploding"]
