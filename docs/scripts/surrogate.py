"""How gradients fare through deep networks, against the steepness of the surrogate: the table of docs/depth.md.

    python docs/scripts/surrogate.py

The factor by which the norm of the gradient grows from one layer's weights to those of the layer before, a geometric
mean over a network of ten measured and balanced layers (Randman, a trial of 0.4 s), before training. The weights of the
first layer are left out: they hear the input, not spikes of neurons at the target.
"""

import torch

import fluctua
from fluctua.lab.networks import FullyConnected
from fluctua.lab.studies.task import RandmanTask
from fluctua.lab.training import loss_by_name
from fluctua.neurons import SuperSpike
from fluctua.theory import Target

BETAS = (2.0, 3.0, 5.0, 10.0, 20.0)
SETTINGS = ((2e-3, 1.0), (2e-3, 0.5), (4e-3, 1.0), (4e-3, 0.5))
LAYERS, WIDTH, SAMPLES, HEARD, DURATION = 10, 128, 64, 0.2, 0.4


def growth(beta: float, dt: float, xi: float) -> float:
    """The factor per layer."""
    data = RandmanTask(dt=dt, duration=DURATION, heard=HEARD, samples_per_class=20).load(0, None)
    x, y = data.batch(SAMPLES)
    network = FullyConnected(width=WIDTH, depth=LAYERS, surrogate=SuperSpike(beta))
    model = network.build(data.shape, 10, dt=dt, duration=DURATION)
    fluctua.initialize(model, x, Target(xi=xi), seed=0)
    loss = loss_by_name("max_over_time")
    report = fluctua.inspect(model, x, loss=lambda output: loss(output, y))
    norms = [p.gradient_norm or 0.0 for p in report if p.threshold is not None]
    return float((norms[1] / norms[-1]) ** (1 / (LAYERS - 2)))


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print("| beta |" + "".join(f" {1e3 * dt:g} ms, xi = {xi:g} |" for dt, xi in SETTINGS))
    print("|---" * (len(SETTINGS) + 1) + "|")
    for beta in BETAS:
        print(f"| {beta:g} |" + "".join(f" {growth(beta, dt, xi):.2f} |" for dt, xi in SETTINGS), flush=True)


if __name__ == "__main__":
    main()
