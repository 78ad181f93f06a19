"""What a user should know of a network's state, a sentence each."""

from collections.abc import Iterator

import numpy as np

from fluctua.network.facts import Population
from fluctua.state.facts import PopulationState

LOST = 1000.0  # factor between the gradients of two layers, from which on one does not learn beside the other


def warnings_of(states: tuple[PopulationState, ...]) -> list[str]:
    """What a user should know: numbers that are none, silence, late activity, missed targets; a sentence each."""
    trial = f"{states[0].plot_data.duration:g} {'steps' if states[0].in_steps else 's'}" if states else ""
    broken = [p.name for p in states if not np.isfinite([p.mu_u, p.sigma_u]).all()]
    culprits = [q.name for p in states for q in p.pathways if not np.isfinite(q.mean + q.std)]
    silent = [p.name for p in states if p.rate is not None and p.latency is None]
    late = [p.name for p in states if p.latency is not None and p.latency > 2 / 3 * p.plot_data.duration]
    missed = [p for p in states if p.target_sigma_u is not None and abs(p.sigma_u / p.target_sigma_u - 1) > 0.1]
    warnings = []
    if broken:
        warnings.append(
            f"the potential of {_listed(broken)} has NaN or infinite values: "
            + (f"so have the weights {_listed(culprits)}" if culprits else "look for them in the batch and in biases")
        )
    if silent:
        warnings.append(f"no spike within the trial of {trial}, in half of the samples or more: {_listed(silent)}")
    if late:
        warnings.append(
            f"first spike only in the last third of the trial of {trial}: {_listed(late)}; activity needs time in "
            "every layer, so use longer trials or fewer layers"
        )
    if missed:
        worst = max(missed, key=lambda p: abs(np.log(max(p.sigma_u, 1e-9) / (p.target_sigma_u or 1.0))))
        warnings.append(
            f"sigma_U misses its target by more than 10 %: {_listed([p.name for p in missed])} "
            f"(worst: {worst.sigma_u:.2f} for {worst.target_sigma_u:.2f} in {worst.name})"
        )
    return [*warnings, *_gradient_warnings(states)]


def _gradient_warnings(states: tuple[PopulationState, ...]) -> list[str]:
    """Whether the gradient gets lost, or out of hand, on its way back through layers that all spike.

    The first population is left out: its weights hear the input, whose size is not that of spikes.
    """
    spiking = [p for p in states if p.threshold is not None and p.gradient_norm is not None]
    norms = [p.gradient_norm or 0.0 for p in spiking]
    if len(norms) < 3 or any(p.latency is None for p in spiking) or not 0 < norms[-1] < np.inf:
        return []
    if 1 / LOST < norms[1] / norms[-1] < LOST or np.isnan(norms[1]):
        return []
    what, cure, size = ("fades", "blunter", "smaller") if norms[1] < norms[-1] else ("grows", "steeper", "larger")
    return [
        f"the gradient {what} from {norms[-1]:.1e} in {spiking[-1].name} to {norms[1]:.1e} in {spiking[1].name}: "
        f"give the neurons a {cure} surrogate, such as SuperSpike with a {size} beta"
    ]


def _listed(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 6 else f"{', '.join(names[:5])} and {len(names) - 5} more"


def short_batch_warnings(populations: tuple[Population, ...]) -> Iterator[str]:
    """A sentence for each spiking population whose potential has no time to settle within the batch."""
    for p in populations:
        if p.neuron.threshold is not None and _settled(p) < 0.95:
            length = f"{p.steps} steps" if p.neuron.in_steps else f"{(p.steps or 0) * p.neuron.kernel.dt:g} s"
            yield (
                f"the batch of {length} is short for the time constants of {p.name}: its potential settles only "
                "partly, and what is measured holds for trials of this length"
            )


def _settled(p: Population) -> float:
    """The part of the stationary variance that is reached at the end of a trial."""
    kernel = p.neuron.kernel
    return float(((kernel.response(p.steps or 1) ** 2).sum(0) * kernel.dt / kernel.eps_hat).min())
