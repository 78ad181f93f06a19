"""What the paper's formula, measuring and balancing each do to a deep network: the table of docs/theory.md.

    python docs/scripts/methods.py                       # synthetic input
    python docs/scripts/methods.py --data fsdd_train.h5  # recordings in the layout of SHD

The synthetic input is made to be as unlike Poisson spikes of one rate as real recordings are: the rates of the 700
channels differ (log-normal), and all of them rise and fall together ten times a second.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

import fluctua
from fluctua.lab.data.module import SpikeDataModule
from fluctua.lab.networks import feed_forward
from fluctua.state.facts import PopulationState
from fluctua.theory import Target

DT, STEPS, SAMPLES = 2e-3, 350, 64
METHODS = {
    "paper": {"method": "poisson"},
    "measured": {"balance": False},
    "measured + balanced": {},
}


def uneven_input(seed: int = 0) -> Tensor:
    """Spikes `[T, B, 700]` of 15.8 Hz on average."""
    generator = torch.Generator().manual_seed(seed)
    channels = torch.randn(700, generator=generator).exp()
    phase = torch.rand(SAMPLES, generator=generator)
    time = torch.arange(STEPS)[:, None] * DT
    course = 1 + torch.sin(2 * torch.pi * (10 * time + phase))
    rate = 15.8 * course[:, :, None] * channels / channels.mean()
    return (torch.rand(rate.shape, generator=generator) < rate * DT).float()


def states(x: Tensor, method: str, xi: float, depth: int) -> list[PopulationState]:
    """The hidden layers of a network of width 128."""
    model = feed_forward(x.shape[2], 10, width=128, depth=depth, dt=DT, duration=STEPS * DT)
    # "arrival" would be fairer to the last layers, but the paper knows no such thing
    report = fluctua.initialize(model, x, Target(xi=xi), seed=0, **METHODS[method])  # type: ignore[arg-type]
    return [p for p in report if p.rate is not None]


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a file in the layout of SHD, such as fsdd_train.h5")
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 2, 4, 8])
    options = parser.parse_args(arguments)

    if options.data:
        x, _ = SpikeDataModule.from_shd_files(options.data, dt=DT, duration=STEPS * DT).batch(SAMPLES)
    else:
        x = uneven_input()
    print(
        f"{options.data or 'synthetic input'}, {x.mean() / DT:.1f} Hz; in each cell sigma_U / share of silent neurons"
    )
    print(f"{'':>28}" + "".join(f"{f'layer {k}':>14}" for k in options.layers))
    for xi in (1.0, 2.0):
        for method in METHODS:
            layers = states(x, method, xi, max(options.layers))
            cells = (f"{layers[k - 1].sigma_u:.2f} / {layers[k - 1].silent:.0%}" for k in options.layers)
            print(f"{f'{method}, sigma_U = {1 / xi:g}':>28}" + "".join(f"{cell:>14}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
