"""The initialisers of artificial neural networks. They know nothing of time constants, time steps or firing rates."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from fluctua.methods.components import SilentInputError
from fluctua.methods.method import Method, Reached, Targets
from fluctua.methods.weights import excites, normal, writable, write
from fluctua.network.adapters.registry import framework_of
from fluctua.network.facts import Population
from fluctua.network.network import Group, Network
from fluctua.network.preserve import gpus_of, seed_torch
from fluctua.network.replay import Replay
from fluctua.network.run import modules_of, parameters_of
from fluctua.network.trace_pass import computing, is_plain, weight_names
from fluctua.theory.psp import number


class Baseline(Method):
    """A method without a target, which sets one population after another, or the whole model at once."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not isinstance(value, bool) and not 0 < number(value) < math.inf:
                raise ValueError(f"{name} of {type(self).__name__} must be a positive number, got {value!r}")

    def solve(self, group: Group, targets: Targets, replay: Replay, generator: torch.Generator) -> Reached:
        for population in group:
            if population.name in targets:
                self.fill(population, replay, generator)
        return {}

    def fill(self, population: Population, replay: Replay, generator: torch.Generator) -> None:
        """Draw and write the weights into a population; by default `begin` has done everything."""


class _WholeModel(Baseline):
    """Draws the weights of all layers at once, whatever these feed."""

    measures: ClassVar[bool] = False


@dataclass(frozen=True)
class Kaiming(_WholeModel):
    """`N(0, gain^2 / fan_in)` for every trained weight of two or more dimensions, zero for every bias.

    He et al. 2015. Parameters of neurons stay as they are, and the batch is not used.

    Attributes:
        gain: 1 is the paper's comparison, `sqrt(2)` the choice for ReLUs.
        folded: give layers under Dale's law the absolute values of their draws. Their second moment is then Kaiming's,
            but excitation and inhibition are not balanced. By default such a layer raises a ValueError, since its
            weights must have one sign.

    Example:
        >>> import fluctua
        >>> from fluctua.neurons import LI, LIF
        >>> model = nn.Sequential(nn.Linear(30, 20), LIF(), nn.Linear(20, 2), LI())
        >>> x = (torch.rand(100, 16, 30, generator=torch.Generator().manual_seed(0)) < 0.1).float()
        >>> report = fluctua.initialize(model, x, method=Kaiming(), seed=0)
        >>> print(f"{model[0].weight.std():.2f}")
        0.19
    """

    gain: float = 1.0
    folded: bool = False

    def begin(self, network: Network, generator: torch.Generator) -> None:
        draw_kaiming(network, generator, self.gain, folded=self.folded)
        for module in modules_of(network.model) if self.folded else ():
            if hasattr(module, "sign"):
                for weight in module.parameters(recurse=False):
                    write(weight, weight.detach().abs())


@dataclass(frozen=True)
class Xavier(_WholeModel):
    """`N(0, 2 gain^2 / (fan_in + fan_out))`, else as `Kaiming`.

    Glorot & Bengio 2010, who specify this variance and drew from a uniform law; here the law is normal, as in the other
    methods.

    Example:
        >>> import fluctua
        >>> from fluctua.neurons import LI, LIF
        >>> model = nn.Sequential(nn.Linear(30, 20), LIF(), nn.Linear(20, 2), LI())
        >>> x = (torch.rand(100, 16, 30, generator=torch.Generator().manual_seed(0)) < 0.1).float()
        >>> report = fluctua.initialize(model, x, method=Xavier(), seed=0)
        >>> print(f"{model[0].weight.std():.2f}")
        0.20
    """

    gain: float = 1.0

    def begin(self, network: Network, generator: torch.Generator) -> None:
        _refuse_signs(network.model)
        for weight, rows in _weights(network).items():
            fans = weight.transpose(0, rows)[0].numel() + weight.transpose(0, rows)[:, 0].numel()
            write(weight, normal(weight, generator) * self.gain * math.sqrt(2 / fans))


@dataclass(frozen=True)
class TorchDefault(_WholeModel):
    """PyTorch's default weights and biases: `reset_parameters()` of all modules that have it.

    For `nn.Linear` and convolutions this is uniform with variance `1 / (3 fan_in)`, for weights and biases alike.
    Torch's own generators draw, and are restored afterwards. The batch is not used.

    Example:
        >>> import fluctua
        >>> from fluctua.neurons import LI, LIF
        >>> model = nn.Sequential(nn.Linear(30, 20), LIF(), nn.Linear(20, 2), LI())
        >>> x = (torch.rand(100, 16, 30, generator=torch.Generator().manual_seed(0)) < 0.1).float()
        >>> report = fluctua.initialize(model, x, method=TorchDefault(), seed=0)
        >>> print(f"{model[0].weight.std():.2f}")
        0.11
    """

    def begin(self, network: Network, generator: torch.Generator) -> None:
        frozen = [(p, p.detach().clone()) for p in parameters_of(network.model) if not p.requires_grad]
        with torch.random.fork_rng(gpus := gpus_of(network.model)):
            seed_torch(generator.initial_seed(), gpus)
            for module in modules_of(network.model):
                reset = getattr(module, "reset_parameters", None)
                if callable(reset):
                    reset()
        for parameter, value in frozen:
            write(parameter, value)


def draw_kaiming(network: Network, generator: torch.Generator, gain: float = 1.0, *, folded: bool = False) -> None:
    """Kaiming weights for all layers of a model; those under Dale's law are refused, unless they are `folded` later."""
    if not folded:
        _refuse_signs(network.model)
    for weight, rows in _weights(network).items():
        write(weight, normal(weight, generator) * gain / math.sqrt(weight.transpose(0, rows)[0].numel()))


def _refuse_signs(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if hasattr(module, "sign"):
            raise ValueError(
                f"{name} is a layer under Dale's law, whose weights have one sign, but this method draws both signs: "
                "use 'torch', 'kaiming-folded' or 'ei-init'"
            )


def _weights(network: Network) -> dict[nn.Parameter, int]:
    """All trained weights, with the axis that counts output units; also sets the biases to zero."""
    found: dict[nn.Parameter, int] = {}
    pathways = {(q.synapse, q.parameter): q for p in network.populations for q in p.pathways}
    own = {q.synapse for q in pathways.values() if not is_plain(q.synapse)}  # of these only the weights that connect
    biases = {(q.synapse, q.bias_name) for q in pathways.values()}
    computed = computing(network.model)
    for module in modules_of(network.model):
        for name, parameter in (
            () if module in computed or framework_of(module) else module.named_parameters(recurse=False)
        ):
            q = pathways.get((module, name))
            if not parameter.requires_grad:
                continue
            if (module, name) in biases or (parameter.ndim < 2 and name == "bias"):
                write(parameter, torch.zeros_like(parameter))
            elif name in weight_names(module) and (module not in own or (q is not None and q.skipped_because is None)):
                found[parameter] = q.rows if q is not None and module in own else 0
    return found


@dataclass(frozen=True)
class LSUV(Baseline):
    """Layer-sequential unit variance, Mishkin & Matas 2016 (arXiv 1511.06422).

    Orthonormal weights (Saxe et al. 2014), then layer by layer, from the first to the last, `w <- w / sd` until the
    measured variance of the layer's output on a batch is within `tolerance` of 1, readouts included.

    Certain: algorithm, default tolerance and number of iterations. Reconstructed, since no version for spiking networks
    exists: the output of a layer is the current into its neurons (the method knows nothing of synapses and membranes).
    Its variance is taken over time, samples and neurons. Pathways that add up, recurrent ones included, are one layer.
    A current whose size a normalisation layer sets is left alone.

    Attributes:
        tolerance: largest distance of the variance from 1.
        iterations: maximal number of times that a layer is measured and scaled.

    Raises:
        SilentInputError: a population that no current reaches.

    Example:
        >>> import fluctua
        >>> from fluctua.neurons import LI, LIF
        >>> model = nn.Sequential(nn.Linear(30, 20), LIF(), nn.Linear(20, 2), LI())
        >>> x = (torch.rand(100, 16, 30, generator=torch.Generator().manual_seed(0)) < 0.1).float()
        >>> report = fluctua.initialize(model, x, method=LSUV(), seed=0)
        >>> print(f"{model[0].weight.std():.2f}")
        0.59
    """

    tolerance: float = 0.1
    iterations: int = 10

    def begin(self, network: Network, generator: torch.Generator) -> None:
        """Kaiming weights for layers that feed another layer; `fill` draws all others again."""
        draw_kaiming(network, generator)

    def fill(self, population: Population, replay: Replay, generator: torch.Generator) -> None:
        for q in writable(population):
            write(q.weight, orthonormal(q.weight, generator))
        scaled = [q.weight for q in writable(population) if not q.norms]
        for _ in range(self.iterations if scaled else 0):
            variance = _variance(population, replay)
            if abs(variance - 1) < self.tolerance:
                break
            for weight in scaled:
                write(weight, weight / math.sqrt(variance))


def orthonormal(like: Tensor, generator: torch.Generator) -> Tensor:
    """A weight with orthonormal rows, or columns if it has more rows than columns, drawn on the CPU."""
    return nn.init.orthogonal_(torch.empty(like.shape), generator=generator).to(like)


def _variance(population: Population, replay: Replay) -> float:
    if any(q.recurrent for q in population.pathways):
        replay.assume(replay.simulate([population]))
    variance = float(replay.current(population).double().var())
    if not variance > 0:
        raise SilentInputError(
            f"no current reaches {population.name} on this batch, so lsuv cannot scale it: the layer before may be "
            "silent; take a batch with more activity"
        )
    return variance


@dataclass(frozen=True)
class EIInit(Baseline):
    """Apply `ei_init_` to the layers of a network under Dale's law, one after the other, on their measured input.

    Reconstructed, beyond the authors' circuit: excitation within a layer is sized by the statistics of the layer's
    input from outside, inhibitory weights are `1 / n_I`, and weights of either sign are Kaiming's with gain 1. Biases
    are zero.

    Raises:
        SilentInputError: a layer that no activity reaches.
        ValueError: a network without any layer under Dale's law.

    Example:
        >>> import fluctua
        >>> from fluctua.layers import DaleLayer
        >>> model = DaleLayer(30, n_exc=20, n_inh=5)
        >>> x = (torch.rand(100, 16, 30, generator=torch.Generator().manual_seed(0)) < 0.1).float()
        >>> report = fluctua.initialize(model, x, method=EIInit(), seed=0)
        >>> all(bool((w >= 0).all()) for w in model.parameters())
        True
    """

    def begin(self, network: Network, generator: torch.Generator) -> None:
        """Refuse a network without a layer under Dale's law."""
        synapses = (q.synapse for p in network.populations for q in p.pathways)
        if not any(hasattr(synapse, "sign") for synapse in synapses):  # a weight law alone does not keep signs
            raise ValueError(
                "ei-init is for networks with layers under Dale's law, and this one has none: choose another method"
            )

    def fill(self, population: Population, replay: Replay, generator: torch.Generator) -> None:
        heard = replay.heard(population)
        if not heard:
            raise ValueError(
                f"ei-init needs a weight in front of {population.name}, whose input it measures: choose another method"
            )
        first = next(iter(heard.values()))
        for q in writable(population):
            if excites(q, population) > 0:
                ei_init_(q.weight, heard.get(q.name, first), generator=generator)
            elif excites(q, population) < 0:
                write(q.weight, torch.full_like(q.weight, q.sign / q.fan_in))
            else:
                write(q.weight, normal(q.weight, generator) / math.sqrt(q.fan_in))
            if q.bias is not None and q.bias.requires_grad:
                write(q.bias, torch.zeros_like(q.bias))


def ei_init_(weight: Tensor, x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Fill non-negative weights `[out, in, ...]` in place from the statistics of their first batch of input.

    Liu, Ding & Yu 2026 (DeepEISNN, arXiv 2509.23253, eq. 53): for fan-in d ::

        w ~ Exponential with mean sqrt(Var x / (d (E[x^2] + Var x)))

    so that the variance of the excitatory current, over weights and samples, is that of one input, `Var x`.

    Certain: formula and statistics (the authors' code): `E[x^2]` over everything, `Var x` over samples, then averaged
    over features. Weights to excitatory and to inhibitory neurons are drawn alike. Left out, as parts of the authors'
    circuit of divisive inhibition: inhibitory weights of `1 / n_I`, and the inhibitory gain.

    Args:
        weight: overwritten.
        x: the input of the weights, `[T, B, in, ...]`; every time step of every trial is a sample.
        generator: for the draws, which are made on the CPU; default: torch's own.

    Returns:
        The weight.

    Raises:
        ValueError: a weight or an input with too few axes.
        SilentInputError: an input without variance.
    """
    if weight.ndim < 2:
        raise ValueError(f"ei_init_ needs a weight [out, in, ...], got the shape {tuple(weight.shape)}")
    if x.ndim < 3:
        raise ValueError(f"ei_init_ needs an input [T, B, in, ...], got the shape {tuple(x.shape)}")
    samples = x.detach().flatten(0, 1).double()
    variance, square = float(samples.var(0).mean()), float(samples.square().mean())
    if not variance > 0:
        raise SilentInputError("the input of ei_init_ is the same in all samples: take a batch with activity")
    mean = math.sqrt(variance / (weight[0].numel() * (square + variance)))
    write(weight, mean * torch.empty(weight.shape).exponential_(generator=generator).to(weight))
    return weight
