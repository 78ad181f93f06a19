"""How gradients fare through deep networks, against the sharpness of the surrogate: a table of docs/depth.md.

    python docs/scripts/surrogate.py

Ten measured and balanced layers of 128 neurons (Randman, a trial of 0.4 s), before training. *Gain*: the factor by
which the norm of the gradient grows from one layer's weights to those of the layer before, a geometric mean without the
first layer, whose weights hear the input, not spikes of neurons at the target; and what the theory makes of it: the
largest eigenvalue with the correlations of the surrogate derivative as they are in the run, with those of a Gaussian
potential that is never reset, and the white limit. *Share*: the participation share, in the run and of that potential.
"""

import numpy as np
import torch

import fluctua
from fluctua.lab.networks import FullyConnected
from fluctua.lab.studies.task import RandmanTask
from fluctua.lab.training import loss_by_name
from fluctua.neurons import SuperSpike
from fluctua.state.facts import PopulationState
from fluctua.theory import PspKernel, Target, crossing_rate
from fluctua.theory.surrogates import (
    SUPERSPIKE,
    gradient_gain,
    participation_share,
    slope_correlation,
    threshold_density,
    white_gain,
)

BETAS = (1.5, 2.5, 5.0, 10.0, 20.0)
SETTINGS = ((2e-3, 1.0), (2e-3, 0.5), (2e-3, 2.0), (4e-3, 1.0))
LAYERS, WIDTH, SAMPLES, HEARD, DURATION = 10, 128, 64, 0.2, 0.4


def states(beta: float, dt: float, xi: float) -> list[PopulationState]:
    """The hidden layers of a network, with gradients."""
    data = RandmanTask(dt=dt, duration=DURATION, heard=HEARD, samples_per_class=20).load(0, None)
    x, y = data.batch(SAMPLES)
    network = FullyConnected(width=WIDTH, depth=LAYERS, surrogate=SuperSpike(beta))
    model = network.build(data.shape, 10, dt=dt, duration=DURATION)
    fluctua.initialize(model, x, Target(xi=xi), seed=0)
    loss = loss_by_name("max_over_time")
    report = fluctua.inspect(model, x, loss=lambda output: loss(output, y))
    return [p for p in report if p.threshold is not None]


def gaussian_gain(beta: float, dt: float, xi: float) -> float:
    """Of the theory alone, at the rate that it predicts."""
    kernel = PspKernel.exponential(20e-3, 10e-3, dt)
    eps = kernel.response(round(DURATION / dt))
    covariance = np.correlate(eps, eps, "full")[len(eps) - 1 :]
    rho = covariance / covariance[0]
    correlation = slope_correlation(SUPERSPIKE.slope(beta), rho, 0.0, 1 / xi, 1.0)
    power = xi**-2 / (float(crossing_rate(xi, kernel)) * float(kernel.eps_hat))
    return gradient_gain(power, eps, correlation)


def row(beta: float, dt: float, xi: float) -> str:
    """One of the table."""
    kernel, hidden = PspKernel.exponential(20e-3, 10e-3, dt), states(beta, dt, xi)
    norms = [p.gradient_norm or 0.0 for p in hidden]
    true = (norms[1] / norms[-1]) ** (1 / (LAYERS - 2))
    measured = float(np.exp(np.mean([np.log(p.gradient_gain or 1.0) for p in hidden[2:]])))
    square = SUPERSPIKE.mean_square(beta, threshold_density(0.0, 1 / xi, 1.0))
    white = white_gain(1 / xi, float(crossing_rate(xi, kernel)), dt, square)
    share = float(np.mean([p.participation or 0.0 for p in hidden]))
    gaussian = participation_share(SUPERSPIKE.slope(beta), 0.0, 1 / xi, 1.0)
    return (
        f"| {1e3 * dt:g} ms, {xi:g} | {beta:g} | {share:.2f} | {gaussian:.2f} | {true:.2f} | {measured:.2f} | "
        f"{gaussian_gain(beta, dt, xi):.2f} | {white:.2f} |"
    )


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print("| dt, xi | beta | share | of a Gaussian | gain | eigenvalue, run | eigenvalue, Gaussian | white limit |")
    print("|---" * 8 + "|")
    for dt, xi in SETTINGS:
        for beta in BETAS:
            print(row(beta, dt, xi), flush=True)


if __name__ == "__main__":
    main()
