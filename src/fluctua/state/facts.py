"""The state of a population and of its pathways, as facts."""

from dataclasses import dataclass

from fluctua.theory.psp import Array


@dataclass(frozen=True)
class PathwayState:
    """One pathway into a population.

    Attributes:
        name: of its weight.
        sources: presynaptic populations.
        fan_in: afferents of a neuron.
        mean: of the weights.
        std: of the weights.
        skipped_because: why `initialize` did not write them, None if it did.
        share: the variance of U that it brings alone, over the sum of what each pathway brings alone. None if the
            population has no other pathway or they cannot be separated. If several pathways come from outside,
            `initialize` gives None and `inspect` the share.
    """

    name: str
    sources: tuple[str, ...]
    fan_in: int
    mean: float
    std: float
    skipped_because: str | None = None
    share: float | None = None


@dataclass(frozen=True, eq=False)
class PlotData:
    """The data that `Report.plot` draws of a population.

    Attributes:
        edges: `[K + 1]`, and `density` `[K]`: histogram of the free potential over neurons, samples and window.
        rates: `[N]`, firing rate of every neuron in Hz.
        raster: `[M, 2]`, spikes of some neurons in the first sample: time in seconds, and the index of the neuron among
            those shown, which are spread evenly over the population.
        shown: number of neurons in the raster.
        duration: of the trial, in seconds.
    """

    edges: Array
    density: Array
    rates: Array
    raster: Array
    shown: int
    duration: float


@dataclass(frozen=True, eq=False)
class PopulationState:
    """The state of one population; potentials are those of the *free* membrane, which never spikes.

    Attributes:
        name: as in `model.named_modules()`.
        n: number of neurons.
        threshold: `theta`, None for a readout.
        mu_u: mean potential over neurons, samples and time.
        sigma_u: standard deviation over neurons, samples and time; its square is the sum of the next two squared.
        sigma_temporal: the part in time and over samples, which makes a neuron fire.
        sigma_across: the part between neurons ("quenched"), which makes some silent and others saturated.
        xi: `(theta - mu_u) / sigma_temporal`.
        rate: measured firing rate in Hz.
        rate_predicted: by the level-crossing formula, from the mean and the temporal deviation of each neuron.
        latency: time of the population's first spike in seconds, median over samples; None if at least half have
            none.
        silent: share of neurons without a spike in the whole batch.
        saturated: share of neurons whose mean potential is above threshold: driven by their mean, not by fluctuations.
        target_mu_u: the target; None without one.
        target_sigma_u: the target; None without one.
        gradient_norm: of the loss with respect to the population's weights, where a loss was given.
        pathways: the weights that feed it.
        plot_data: for `Report.plot`.
        in_steps: whether time is counted in steps, as some frameworks do without `dt`: rates are then spikes per step,
            and times numbers of steps.
        silent_maps: share of feature maps without a spike; None if there are no maps.
        participation: share of neurons and steps that carry the gradient, `<phi'>^2 / <phi'^2>` of their surrogate
            derivative; like the next two, None if it was not measured.
        sharpness: the parameter of its surrogate, as its framework defines it.
        gradient_gain: factor by which its neurons and weights let the gradient grow, by theory; None if its only input
            is the data.
    """

    name: str
    n: int
    threshold: float | None
    mu_u: float
    sigma_u: float
    sigma_temporal: float
    sigma_across: float
    xi: float | None
    rate: float | None
    rate_predicted: float | None
    latency: float | None
    silent: float | None
    saturated: float | None
    target_mu_u: float | None
    target_sigma_u: float | None
    gradient_norm: float | None
    pathways: tuple[PathwayState, ...]
    plot_data: PlotData
    in_steps: bool = False
    silent_maps: float | None = None
    participation: float | None = None
    sharpness: float | None = None
    gradient_gain: float | None = None

    @property
    def silent_units(self) -> float | None:
        """Share of silent maps if there are maps (in still places neurons rightly rest), else of silent neurons."""
        return self.silent if self.silent_maps is None else self.silent_maps

    def rate_in_words(self, rate: float) -> str:
        """A rate with its unit."""
        return f"{rate:.3f} / step" if self.in_steps else f"{rate:.1f} Hz"

    def time_in_words(self, time: float | None) -> str:
        """A time with its unit."""
        if time is None:
            return "-"
        return f"{time:.0f} step{'s' * (round(time) != 1)}" if self.in_steps else f"{1e3 * time:.0f} ms"


def wanted(p: PopulationState) -> tuple[float, float]:
    """Mean and standard deviation of U as the target has them, or else as they are."""
    mu = p.mu_u if p.target_mu_u is None else p.target_mu_u
    return mu, p.sigma_u if p.target_sigma_u is None else p.target_sigma_u
