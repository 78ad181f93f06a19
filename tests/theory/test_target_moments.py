"""The membrane theory against simulations of the free process, and the budget of Poisson pathways.

Every check against a simulation compares replicas that start from rest and share nothing but the weights, so that the
standard error of what they have in common is their scatter over the root of their number, whatever the correlations
within one of them.
"""

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from fluctua.theory import Afferent, Drive, PspKernel, Target, crossing_rate, membrane_moments, solve
from fluctua.theory.laws import WeightLaw
from fluctua.theory.target import Moments

Array = NDArray[np.float64]

REPLICAS, NEURONS = 80, 24


@dataclass(frozen=True)
class Point:
    """One set of constants: afferents and their rate (Hz), time constants and time step (s), target."""

    n: int
    nu: float
    tau_mem: float
    tau_syn: float | None
    dt: float
    mu_u: float
    xi: float

    @property
    def kernel(self) -> PspKernel:
        if self.tau_syn is None:
            return PspKernel.delta(self.tau_mem, self.dt)
        return PspKernel.exponential(self.tau_mem, self.tau_syn, self.dt)

    @property
    def law(self) -> WeightLaw:
        drive = Drive.poisson(self.n, self.nu, self.kernel)
        (law,) = solve(Target(mean=self.mu_u, xi=self.xi), 1.0, self.kernel, [Afferent(drive)])
        return law

    def weights(self, neurons: int, rng: np.random.Generator) -> Array:
        return rng.normal(self.law.mean, self.law.std, (self.n, neurons))

    def free_potential(self, weights: Array, replicas: int, rng: np.random.Generator) -> Array:
        """`U` `[T, replicas, neurons]` of a potential that never spikes, once it has forgotten its start."""
        slowest = max(self.tau_mem, self.tau_syn or 0.0)
        warm_up, steps = int(12 * slowest / self.dt), int(24 * slowest / self.dt)
        a = np.exp(-self.dt / self.tau_mem)
        b = 0.0 if self.tau_syn is None else np.exp(-self.dt / self.tau_syn)
        u = i = np.zeros((replicas, weights.shape[1]))
        seen = []
        for _ in range(warm_up + steps):
            seen.append(u)
            x = rng.poisson(self.nu * self.dt, (replicas, self.n)).astype(float) @ weights
            u = a * u + (x if self.tau_syn is None else (1 - a) * i)
            i = b * i + x
        return np.stack(seen[warm_up:])


# fmt: off
POINTS = [
    #     n     nu    tau_mem tau_syn  dt      mu_U  xi
    Point(700,  15.8, 20e-3, 10e-3,   2e-3,    0.0, 1.0),  # SHD, as in the paper
    Point(700,  15.8, 20e-3, 10e-3,   2e-3,    0.6, 1.0),
    Point(300,  15.8, 20e-3, 10e-3,   2e-3,   -0.5, 2.0),
    Point(128,  60.0, 20e-3, 10e-3,   2e-3,    0.0, 2.0),
    Point(128,  60.0, 20e-3, 10e-3,   1e-3,    0.3, 1.5),
    Point(100, 200.0, 20e-3, 10e-3,   5e-3,    0.0, 1.0),  # several spikes of one afferent in a step
    Point(200,  40.0, 20e-3, 20e-3,   2e-3,    0.0, 1.0),  # equal time constants
    Point(200,  40.0,  5e-3, 20e-3,   2e-3,    0.2, 1.0),  # synapse slower than membrane
    Point(200,  40.0, 50e-3,  2e-3,   2e-3,    0.0, 1.0),
    Point(200,  40.0, 10e-3,  5e-3,  10e-3,    0.0, 1.5),  # time constants down to half a step
    Point(700,  15.8, 20e-3, None,    2e-3,    0.0, 1.0),
    Point(128,  60.0, 20e-3, None,    1e-3,    0.4, 1.5),
    Point(128,  60.0, 10e-3, None,    5e-3,   -0.3, 1.0),
    Point(300,  40.0, 50e-3, None,    2e-3,    0.0, 2.0),
]
# fmt: on


def assert_mean_is(expected: float, samples: Array, *, resolution: float) -> None:
    """The mean of independent samples, within five standard errors; these must resolve a relative `resolution`."""
    error = samples.std(ddof=1) / np.sqrt(len(samples))
    assert error < resolution * abs(expected)
    assert abs(samples.mean() - expected) < 5 * error


@pytest.mark.parametrize("point", POINTS, ids=str)
def test_the_free_potential_is_as_predicted(point: Point) -> None:
    """Mean, standard deviation and up-crossings of the threshold, given the weights as they were drawn.

    The moments are exact; the rate takes U for Gaussian, which here (shot noise of some ten spikes a step) costs 1 %.
    """
    rng = np.random.default_rng(POINTS.index(point))
    weights, kernel = point.weights(NEURONS, rng), point.kernel
    per_afferent = Drive.poisson(1, point.nu, kernel)
    expected = membrane_moments([per_afferent], [weights.sum(0)], [(weights**2).sum(0)])
    u = point.free_potential(weights, REPLICAS, rng)

    z = (u - expected.mu_u) / expected.sigma_u
    per_replica = z.mean(0)
    error = per_replica.std(0, ddof=1) / np.sqrt(REPLICAS)
    assert np.all(error < 0.06)
    assert np.all(abs(per_replica.mean(0)) < 5 * error)
    assert_mean_is(1.0, (z**2).mean((0, 2)), resolution=0.015)
    for neuron in range(NEURONS):
        assert_mean_is(1.0, (z[..., neuron] ** 2).mean(0), resolution=0.08)

    crossings = (u[:-1] < 1) & (u[1:] >= 1)
    rate = float(crossing_rate(expected.xi(1.0), kernel).mean())
    assert_mean_is(rate, crossings.mean((0, 2)) / point.dt, resolution=0.025)


@pytest.mark.parametrize("point", POINTS, ids=str)
def test_drawn_weights_have_the_moments_aimed_at(point: Point) -> None:
    """Over many neurons: their mean potentials scatter around the target as `sqrt(n) nu eps_bar std(w)`."""
    weights = point.weights(1000, np.random.default_rng(POINTS.index(point)))
    drive = Drive.poisson(1, point.nu, point.kernel)
    drawn = membrane_moments([drive], [weights.sum(0)], [(weights**2).sum(0)])
    sigma = (1 - point.mu_u) / point.xi
    scatter = np.sqrt(point.n) * float(drive.mean * point.law.std)
    assert abs(drawn.mu_u.mean() - point.mu_u) < 5 * scatter / np.sqrt(1000)
    assert drawn.mu_u.std() == pytest.approx(scatter, rel=5 / np.sqrt(2000))
    assert_mean_is(sigma**2, drawn.sigma_u**2, resolution=0.01)


def test_the_paper_quotes_the_scatter_of_means_between_neurons() -> None:
    """Frozen weights: as large as the temporal variance on SHD (paper.md A.10)."""
    kernel = PspKernel.exponential(20e-3, 10e-3, 2e-3)
    for nu, ratio in ((5.0, 0.30), (9.2, 0.55), (15.8, 0.94)):
        assert nu * kernel.eps_bar**2 / kernel.eps_hat == pytest.approx(ratio, abs=0.006)


def test_pathways_add_up() -> None:
    kernel = PspKernel.exponential(20e-3, 10e-3, 2e-3)
    one, two = Drive.poisson(100, 5.0, kernel), Drive.poisson(30, 20.0, kernel)
    both = membrane_moments([one, two], [0.01, -0.02], [4e-4, 9e-4])
    parts = [membrane_moments([one], [0.01], [4e-4]), membrane_moments([two], [-0.02], [9e-4])]
    assert both.mu_u == pytest.approx(sum(p.mu_u for p in parts))
    assert both.sigma_u**2 == pytest.approx(sum(p.sigma_u**2 for p in parts))


def test_an_afferent_more_or_a_faster_one_is_the_same_to_poisson_input() -> None:
    kernel = PspKernel.delta(20e-3, 1e-3)
    one, two = Drive.poisson(30, 5.0, kernel), Drive.poisson(10, 15.0, kernel)
    assert one.mean == pytest.approx(float(two.mean))
    assert one.power == pytest.approx(float(two.power))


def test_one_value_per_neuron() -> None:
    kernel = PspKernel.delta([10e-3, 20e-3, 40e-3], 1e-3)
    drive = Drive.poisson(10, [5.0, 10.0, 20.0], kernel)
    moments = membrane_moments([drive], [0.1], [0.02])
    for i, (tau, nu) in enumerate(((10e-3, 5.0), (20e-3, 10.0), (40e-3, 20.0))):
        single = membrane_moments([Drive.poisson(10, nu, PspKernel.delta(tau, 1e-3))], [0.1], [0.02])
        assert moments.mu_u[i] == pytest.approx(float(single.mu_u))
        assert moments.sigma_u[i] == pytest.approx(float(single.sigma_u))
        assert moments.xi(1.0)[i] == pytest.approx(float((1 - single.mu_u) / single.sigma_u))


def test_no_pathway_leaves_the_potential_at_rest() -> None:
    moments = membrane_moments([], [], [])
    assert moments.mu_u == moments.sigma_u == 0


def test_xi_counts_standard_deviations() -> None:
    moments = Moments(np.asarray(0.2), np.asarray(0.4))
    assert moments.xi(1.0) == pytest.approx(2.0)
    assert moments.xi(0.0) == pytest.approx(-0.5)


@pytest.mark.parametrize(
    ("n", "nu"),
    [(0, 5.0), (-1, 5.0), (10, 0.0), (10, -5.0), (10, float("nan")), (10, float("inf")), (float("nan"), 5.0)],
)
def test_a_pathway_without_spikes_is_refused(n: float, nu: float) -> None:
    with pytest.raises(ValueError, match="a fan-in and a rate above zero"):
        Drive.poisson(n, nu, PspKernel.delta(20e-3, 1e-3))


def test_moments_take_one_number_per_pathway() -> None:
    drive = Drive.poisson(10, 5.0, PspKernel.delta(20e-3, 1e-3))
    with pytest.raises(ValueError, match="zip"):
        membrane_moments([drive], [0.1, 0.2], [0.1])
    with pytest.raises(ValueError, match="zip"):
        membrane_moments([drive], [0.1], [0.1, 0.2])


def test_small_integers_are_rates_like_others() -> None:
    kernel = PspKernel.delta(20e-3, 1e-3)
    assert Drive.poisson(100, np.int8(5), kernel).power == Drive.poisson(100, 5.0, kernel).power
