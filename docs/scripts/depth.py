"""How a fluctuation-driven network changes with depth: the numbers and the figure of docs/depth.md.

    python docs/scripts/depth.py                              # Poisson input
    python docs/scripts/depth.py --data fsdd_train.h5         # and recordings in the layout of SHD
    python docs/scripts/depth.py --draw                       # the figure alone, from what was written the last time

1. Layer 1 under the microscope: crossings of the free potential against spikes.
2. By how much a layer multiplies a small change of activity, for several xi.
3. A hundred layers, narrow and wide, and at a smaller xi. The whole takes some ten minutes.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import log
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

import fluctua
from fluctua.lab.data.module import SpikeDataModule
from fluctua.lab.durable import replacing
from fluctua.lab.networks import READOUT, feed_forward
from fluctua.lab.results.figures import save
from fluctua.methods import Measured
from fluctua.network.facts import free_potential
from fluctua.state.measure import first_event, window_mask
from fluctua.state.style import BLUE, RED, lay_out, new_figure, style
from fluctua.theory import PspKernel, Target, crossing_rate

DOCS = Path(__file__).parents[1]
LAYERS = DOCS / "results" / "depth-layers.csv"
DT = 2e-3
KERNEL = PspKernel.exponential(20e-3, 10e-3, DT)
N_IN, INPUT_RATE = 700, 15.0
ACTIVE = 0.3  # power, in units of the target, that tells activity from a lull; deep layers are far above or far below
SHOWN = (1, 2, 3, 6, 11, 21, 31, 51, 71, 100)


@dataclass(frozen=True)
class Layer:
    """What one layer does; all but the latency is taken in each sample from the arrival of activity on.

    The power is the mean square of the free potential in units of the target, `xi^2 U^2` for threshold 1 and mean 0.

    Attributes:
        rate: spikes per second and neuron.
        crossings: upward threshold crossings of the free potential per second and neuron.
        power: over neurons, samples and time.
        active: share of the time in which the power of the layer is above `ACTIVE`.
        active_power: the mean power in that time.
        latency: of the layer's first spike in seconds, median over samples.
    """

    rate: float
    crossings: float
    power: float
    active: float
    active_power: float
    latency: float


@dataclass(frozen=True)
class Setting:
    """A network of one width, brought to one xi."""

    width: int
    xi: float

    def __str__(self) -> str:
        return f"width {self.width}, xi = {self.xi:g}"

    def network(self, x: Tensor, depth: int) -> nn.Sequential:
        """Measured and balanced on an input, from the arrival of activity at each layer on."""
        model = feed_forward(x.shape[2], 10, width=self.width, depth=depth, dt=DT, duration=x.shape[0] * DT)
        fluctua.initialize(model, x, Target(xi=self.xi), method=Measured(window="arrival"), readout=READOUT, seed=1)
        return model

    def layers(self, model: nn.Sequential, x: Tensor) -> Iterator[Layer]:
        """Run the hidden layers one by one and look at each."""
        for k in range(0, len(model) - 2, 2):
            with torch.no_grad():
                current = model[k](x)
                x = model[k + 1](current)
            u, inside = free_potential(current, KERNEL), window_mask(current, "arrival") > 0
            power = u.square().mean(-1) * self.xi**2
            active = inside & (power > ACTIVE)
            ups = ((u[1:] > 1) & (u[:-1] <= 1)).float().mean(-1)
            yield Layer(
                rate=float(x.mean(-1)[inside].mean()) / DT,
                crossings=float(ups[inside[1:]].mean()) / DT,
                power=float(power[inside].mean()),
                active=float(active.sum() / inside.sum()),
                active_power=float(power[active].mean()),
                latency=float(first_event(x).median()) * DT,
            )


def poisson_input(steps: int, samples: int, rate: float = INPUT_RATE, seed: int = 0) -> Tensor:
    """Stationary spikes `[T, B, 700]` of a rate in Hz."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(steps, samples, N_IN, generator=generator) < rate * DT).float()


def first_layer() -> None:
    """Why the rate of layer 1 is above the prediction."""
    x, setting = poisson_input(1000, 16), Setting(256, 1.0)
    model = setting.network(x, 1)
    layer, predicted = next(setting.layers(model, x)), float(crossing_rate(setting.xi, KERNEL))
    print(f"\n1. Layer 1, {setting}, stationary Poisson input of {INPUT_RATE:g} Hz")
    print(f"   predicted rate                          {predicted:5.2f} Hz")
    print(f"   upward crossings of the free potential  {layer.crossings:5.2f} Hz")
    print(f"   spikes                                  {layer.rate:5.2f} Hz")
    print(f"   spikes per crossing                     {layer.rate / layer.crossings:5.2f}")
    poisson = 1 - torch.exp(torch.tensor(-layer.rate * 20e-3))
    print(f"   intervals of 20 ms or less              {_short_intervals(model, x, 20e-3):5.0%}", end="")
    print(f" (Poisson spikes of the same rate: {poisson:.0%})")


def _short_intervals(model: nn.Sequential, x: Tensor, seconds: float) -> float:
    """Share of the intervals between spikes of a neuron of layer 1 that are not longer."""
    with torch.no_grad():
        spikes = model[1](model[0](x)).permute(1, 2, 0).flatten(0, 1)
    neuron, time = spikes.nonzero(as_tuple=True)
    intervals = time.diff()[neuron.diff() == 0]
    return float((intervals * DT <= seconds).float().mean())


def gains(xis: Sequence[float]) -> None:
    """What becomes of a change of the power by 1 % from layer to layer, in %."""
    print("\n2. Change in per cent for 1 % more, width 512, layers 2 and 3, from input rates of 14.25 and 15.75 Hz")
    print(f"{'xi':>6}{'rate for power':>18}{'by crossings':>14}{'next power for rate':>22}{'next power for power':>23}")
    for xi in xis:
        setting = Setting(512, xi)
        model = setting.network(poisson_input(800, 32), 3)
        low, high = (
            list(setting.layers(model, poisson_input(800, 32, factor * INPUT_RATE, seed=5))) for factor in (0.95, 1.05)
        )
        power, following = (log(high[k].power / low[k].power) for k in (1, 2))
        rate = log(high[1].rate / low[1].rate)
        print(f"{xi:6.2f}{rate / power:18.2f}{xi**2 / 2:14.2f}{following / rate:22.2f}{following / power:23.2f}")


def many_layers(name: str, x: Tensor, settings: Sequence[Setting], depth: int) -> dict[Setting, list[Layer]]:
    """A table of the layers of several networks."""
    found = {s: list(s.layers(s.network(x, depth), x)) for s in settings}
    print(f"\n3. {name}: {x.shape[1]} samples of {x.shape[0] * DT:g} s")
    print("active: share of the time; power: in that time, in units of the target")
    print(" " * 6 + "".join(f"{s!s:>44}" for s in found))
    head = f"{'sigma_U xi':>14}{'active':>8}{'power':>7}{'Hz':>6}{'1st ms':>9}"
    print(f"{'layer':>6}" + head * len(found))
    for k in [k for k in SHOWN if k <= depth]:
        cells = (
            f"{s.power**0.5:14.2f}{s.active:8.2f}{s.active_power:7.2f}{s.rate:6.1f}{s.latency * 1e3:9.0f}"
            for s in (states[k - 1] for states in found.values())
        )
        print(f"{k:>6}" + "".join(cells))
    return found


def write(found: Mapping[str, Mapping[Setting, Sequence[Layer]]]) -> None:
    """Every layer of every network, a row each, into `LAYERS`."""
    with replacing(LAYERS) as file:
        rows = [
            {"input": name, "setting": str(setting), "layer": k} | {f: f"{v:.5g}" for f, v in asdict(layer).items()}
            for name, networks in found.items()
            for setting, layers in networks.items()
            for k, layer in enumerate(layers, 1)
        ]
        file.write(pd.DataFrame(rows).to_csv(index=False).encode())
    print(f"\nwritten: {LAYERS}")


def draw(path: Path) -> None:
    """Rate, active share and sigma_U against the layer, one column for each input, from `LAYERS`."""
    table = pd.read_csv(LAYERS)
    inputs, settings = table["input"].unique(), table["setting"].unique()
    rows = (
        ("rate", "rate (Hz)", None),
        ("active", "active share of the time", 1.05),
        ("power", "$\\sigma_U$ / target", 1.3),
    )
    blue = ({"ls": ":"}, {"ls": "-"}, {"ls": "--"})  # all are measured + balanced, whose colour is blue
    with style():
        figure = new_figure(3.7 * len(inputs), 6.6)
        axes = figure.subplots(len(rows), len(inputs), squeeze=False, sharex="col", sharey="row")
        for column, name in zip(axes.T, inputs, strict=True):
            for setting, look in zip(settings, blue, strict=True):
                here = table[(table["input"] == name) & (table["setting"] == setting)]
                for axis, (measure, *_) in zip(column, rows, strict=True):
                    values = here[measure] ** (0.5 if measure == "power" else 1.0)
                    axis.plot(here["layer"], values, color=BLUE, label=setting, **look)
            crossings = float(crossing_rate(1.0, KERNEL))
            column[0].axhline(crossings, color=RED, lw=1, label="threshold crossings at xi = 1")
            column[0].set_title(name)
            column[-1].set_xlabel("layer")
        for row, (_, label, top) in zip(axes, rows, strict=True):
            row[0].set_ylim(0, top)
            row[0].set_ylabel(label)
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
        lay_out(figure)
        save(figure, path)
    print(f"written: {path}")


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a file in the layout of SHD, such as fsdd_train.h5")
    parser.add_argument("--depth", type=int, default=100, help="of the networks with Poisson input")
    parser.add_argument("--data-depth", type=int, default=30, help="of those with data")
    parser.add_argument("--draw", action="store_true", help="the figure alone, from docs/results/depth-layers.csv")
    parser.add_argument("--out", type=Path, default=DOCS / "img" / "depth.png")
    options = parser.parse_args()

    if not options.draw:
        first_layer()
        gains((0.5, 0.7, 0.85, 1.0, 2**0.5, 2.0))
        settings = Setting(64, 1.0), Setting(256, 1.0), Setting(256, 0.5)
        found = {"Poisson input": many_layers("Poisson input", poisson_input(1000, 16), settings, options.depth)}
        if options.data:
            x, _ = SpikeDataModule.from_shd_files(options.data, dt=DT, duration=1.0).batch(32)
            found["spoken digits"] = many_layers("spoken digits", x, settings, options.data_depth)
        write(found)
    draw(options.out)


if __name__ == "__main__":
    main()
