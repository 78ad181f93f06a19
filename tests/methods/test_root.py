"""Laws of the root finder: near enough, honest about the rest, and never a call too many."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from fluctua.methods.root import find_crossing, find_root

Array = NDArray[np.float64]
Function = Callable[[Array], Array]


class Counted:
    """A function that keeps what it was asked and what it gave."""

    def __init__(self, function: Function) -> None:
        self.function = function
        self.asked: list[Array] = []
        self.given: list[Array] = []

    def __call__(self, x: Array) -> Array:
        self.asked.append(x.copy())
        self.given.append(self.function(x))
        return self.given[-1]

    def best(self) -> tuple[Array, float]:
        sizes = [np.abs(r).max() if np.isfinite(r).all() else np.inf for r in self.given]
        k = int(np.argmin(sizes))
        return self.asked[k], float(sizes[k])


def curved(x: Array) -> Array:
    return np.array([np.expm1(x[0]) + 0.5 * x[1], np.tanh(x[1]) - 0.3 * x[0] + 0.1])


FUNCTIONS: dict[str, tuple[Function, Array]] = {
    "linear": (lambda x: np.array([2 * x[0] - x[1] + 0.3, x[0] + x[1] - 0.2]), np.zeros(2)),
    "curved": (curved, np.array([0.4, 0.4])),
    "curved, from the other side": (curved, np.array([-0.7, -0.7])),
    "of one unknown": (lambda x: np.exp(x) - 2, np.zeros(1)),
    "flat far away": (lambda x: np.tanh(4 * (x - 0.6)), np.zeros(1)),
    "falling": (lambda x: 0.4 - 3 * x, np.zeros(1)),
    "of three unknowns": (lambda x: x + 0.3 * np.roll(x, 1) ** 2 - np.array([0.1, -0.2, 0.3]), np.zeros(3)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_root_is_found(name: str) -> None:
    function, start = FUNCTIONS[name]
    counted = Counted(function)
    x, size = find_root(counted, start, enough=1e-3, calls=60)
    assert size <= 1e-3
    assert np.abs(function(x)).max() == size
    assert len(counted.asked) <= 30


def test_a_linear_function_takes_no_more_than_its_differences_and_one_step() -> None:
    function, start = FUNCTIONS["linear"]
    counted = Counted(function)
    _, size = find_root(counted, start, enough=1e-9, calls=20)
    assert size <= 1e-9
    assert len(counted.asked) == 4


def test_the_differences_are_those_from_the_start_even_if_one_of_them_is_nearer() -> None:
    """Or the second column of the derivative would be wrong, and the step with it."""
    counted = Counted(lambda x: np.array([x[0] - 0.12, x[1] - 0.05]))
    _, size = find_root(counted, np.zeros(2), enough=1e-9, calls=20)
    assert size <= 1e-9
    assert len(counted.asked) == 4


@pytest.mark.parametrize("noise", [0.005, 0.02])
def test_noise_keeps_it_from_no_more_than_itself(noise: float) -> None:
    found = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        counted = Counted(lambda x, rng=rng: curved(x) + noise * rng.standard_normal(2))  # type: ignore[misc]
        x, size = find_root(counted, np.array([0.3, -0.3]), enough=2 * noise, calls=15)
        found.append(np.abs(curved(x)).max())
        assert (size <= 2 * noise) or len(counted.asked) == 15
    # What is found is off by what was tolerated and the noise of two residuals, 3 sigma at most.
    assert np.median(found) <= 2 * noise
    assert max(found) <= 2 * noise + 3 * noise


@pytest.mark.parametrize("calls", range(1, 12))
@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_limit_of_calls_is_kept_and_the_best_point_is_the_best_that_was_met(name: str, calls: int) -> None:
    function, start = FUNCTIONS[name]
    counted = Counted(function)
    x, size = find_root(counted, start, enough=0.0, calls=calls)
    assert len(counted.asked) <= calls
    best, smallest = counted.best()
    assert size == smallest
    np.testing.assert_array_equal(x, best)


def test_what_is_near_enough_is_left_at_once() -> None:
    counted = Counted(lambda x: x + 0.01)
    x, size = find_root(counted, np.zeros(2), enough=0.02, calls=9)
    np.testing.assert_array_equal(x, np.zeros(2))
    assert size == 0.01
    assert len(counted.asked) == 1


def test_where_there_is_no_root_the_nearest_point_is_named() -> None:
    x, size = find_root(lambda x: 1 + x**2, np.array([0.5]), enough=1e-3, calls=25)
    assert size == float(1 + x[0] ** 2)
    assert size < 1.05


def test_steps_are_bounded() -> None:
    counted = Counted(lambda x: 100 - x)
    find_root(counted, np.zeros(1), enough=1e-3, calls=10)
    assert np.abs(np.diff(np.concatenate(counted.asked))).max() <= 0.25 + 1e-12


def test_a_direction_that_hardly_counts_is_not_followed() -> None:
    """Strong feedback makes two unknowns do nearly the same: what differences say of the rest is noise."""
    counted = Counted(lambda x: np.array([5 * (x[0] - x[1]) + 0.3, x[1] - x[0] + 0.02 * (x[0] + x[1]) + 0.1]))
    _, size = find_root(counted, np.zeros(2), enough=1e-3, calls=25)
    assert size < 0.15, "what can be had by the difference alone"
    assert max(abs(x.sum()) for x in counted.asked) < 0.5, "the root is at a sum of -8"


def nowhere(x: Array) -> Array:
    return np.full(2, np.nan)


def beyond(x: Array) -> Array:
    """Cannot be evaluated past 0.2, short of the root of its first residual."""
    return np.array([x[0] - 0.3, x[1]]) if x[0] < 0.2 else np.full(2, np.inf)


def but_at_the_start(x: Array) -> Array:
    return np.array([x[0] - 0.4, x[1] + 0.1]) if x.any() else np.full(2, np.nan)


@pytest.mark.parametrize(
    ("function", "reached"),
    [(nowhere, np.inf), (beyond, 0.15), (but_at_the_start, 1e-3)],
    ids=lambda v: getattr(v, "__name__", str(v)),
)
def test_points_that_cannot_be_evaluated_are_stepped_around(function: Function, reached: float) -> None:
    counted = Counted(function)
    x, size = find_root(counted, np.zeros(2), enough=1e-3, calls=25)
    assert size <= reached
    assert len(counted.asked) <= 25
    assert np.isfinite(x).all()
    assert all(np.isfinite(asked).all() for asked in counted.asked)


@pytest.mark.parametrize("calls", [5, 9])
def test_where_nothing_converges_every_call_that_is_allowed_is_made(calls: int) -> None:
    function = Counted(lambda x: 1 + x**2)  # nowhere zero
    _, residual = find_root(function, np.array([0.3]), enough=1e-3, calls=calls)
    assert len(function.asked) == calls
    assert residual == function.best()[1]


@pytest.mark.parametrize("power", [0.5, 1.0, 3.0])
def test_a_crossing_is_found_whatever_the_slope(power: float) -> None:
    counted = Counted(lambda x: power * (x - 1.7))
    x, left, flat = find_crossing(lambda x: float(counted(np.array(x))), 0.0, -0.1, enough=1e-3, calls=12)
    assert abs(left) < 1e-3
    assert left == power * (x - 1.7)
    assert len(counted.asked) <= 4
    assert not flat


def test_where_a_function_is_flat_beside_a_step_the_search_ends() -> None:
    """As of weights behind a sigmoid: from two equal values no secant leads on, and the same point would come again."""
    counted = Counted(lambda x: np.where(x > -0.05, 1.0, 0.5))
    _, left, flat = find_crossing(lambda x: float(counted(np.array(x))), 0.0, -0.1, enough=1e-3, calls=12)
    assert len(counted.asked) <= 12
    assert left == 0.5
    assert not flat
