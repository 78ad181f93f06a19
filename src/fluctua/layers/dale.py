"""Networks under Dale's law: excitatory and inhibitory populations, whose weights keep their sign."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from fluctua.layers import fusion
from fluctua.layers.circuit import Circuit, Synapse
from fluctua.neurons import ExcInhLIF
from fluctua.spikes.batch import MAX_DENSITY, SpikeBatch
from fluctua.theory.laws import Exponential, OneSided

if TYPE_CHECKING:  # numba is imported only when a network runs
    from fluctua.timeloop.events_layers import Layer


class DaleError(ValueError):
    """A weight has the wrong sign; the message says where and what to do."""


class SignedLinear(nn.Linear):
    """`nn.Linear` without bias, with weights of zero or more; the neuron decides whether they excite or inhibit.

    Optimisers ignore the sign: call `constrain_(model)` after each of their steps, or `keep_signs` once.

    Args:
        in_features: afferents.
        out_features: neurons.
        family: one-sided weight law that an initialiser draws from.

    Example:
        >>> bool((SignedLinear(20, 10).weight >= 0).all())
        True
    """

    sign = 1

    def __init__(self, in_features: int, out_features: int, family: OneSided | None = None) -> None:
        super().__init__(in_features, out_features, bias=False)
        self.family = family if family is not None else Exponential()
        if not isinstance(self.family, OneSided):
            raise ValueError(f"a signed weight needs a one-sided law such as Exponential(), got {self.family}")

    def reset_parameters(self) -> None:
        """Uniform in `[0, 2 / in_features]`."""
        nn.init.uniform_(self.weight, 0.0, 2 / self.in_features)

    @torch.no_grad()
    def constrain_(self) -> None:
        """Set weights of the wrong sign to zero."""
        self.weight.clamp_(min=0.0)

    def check(self) -> None:
        """Refuse weights below zero, and NaN.

        Raises:
            DaleError: there is one.
        """
        if bool((self.weight >= 0).all()):
            return
        if bool(self.weight.isnan().any()):
            raise DaleError("a weight is NaN, so it has no sign: training has diverged, try a smaller learning rate")
        raise DaleError(
            f"a weight of {float(self.weight.detach().min()):.3g} breaks Dale's law: weights here are zero or more; "
            "call fluctua.layers.keep_signs(optimizer, model) once, or constrain_ of `dale.py` after every step"
        )

    def extra_repr(self) -> str:
        """For `print(model)`."""
        return f"in_features={self.in_features}, out_features={self.out_features}, {self.family}"


def constrain_(model: nn.Module) -> None:
    """Clip weights to their sign in every module that has `constrain_`, such as `SignedLinear`."""
    for module in model.modules():
        if callable(constrain := getattr(module, "constrain_", None)):
            constrain()


def keep_signs(optimizer: torch.optim.Optimizer, model: nn.Module) -> RemovableHandle:
    """Call `constrain_` on the model after every step of the optimiser; `fluctua.lab.training` does this itself.

    Example:
        >>> layer = SignedLinear(20, 10)
        >>> optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
        >>> handle = keep_signs(optimizer, layer)
        >>> layer(torch.ones(1, 20)).sum().backward()
        >>> optimizer.step()  # would make all weights negative
        >>> bool((layer.weight >= 0).all())
        True
    """

    return optimizer.register_step_post_hook(lambda *_: constrain_(model))


class DaleCircuit(Circuit):
    """The recurrent part of a `DaleLayer`: called with the excitatory currents from outside into E and into I.

    Attributes:
        exc: the excitatory population; its spikes are the output.
        inh: the inhibitory population.
        exc_exc: weights E -> E; likewise `exc_inh` (E -> I), `inh_exc` (I -> E), `inh_inh` (I -> I).
    """

    def __init__(
        self,
        n_exc: int,
        n_inh: int,
        cells: tuple[ExcInhLIF, ExcInhLIF],
        family: OneSided | None,
        recurrent_excitation: bool,
    ) -> None:
        super().__init__()
        self.exc, self.inh = cells
        self.exc_exc = SignedLinear(n_exc, n_exc, family) if recurrent_excitation else None
        self.exc_inh = SignedLinear(n_exc, n_inh, family) if recurrent_excitation else None
        self.inh_exc = SignedLinear(n_inh, n_exc, family)
        self.inh_inh = SignedLinear(n_inh, n_inh, family)
        self.tap()

    @property
    def cells(self) -> Mapping[str, nn.Module]:
        """E and I."""
        return {"exc": self.exc, "inh": self.inh}

    @property
    def synapses(self) -> Sequence[Synapse]:
        """E -> E, E -> I, I -> E, I -> I; inhibition arrives at the second port."""
        inhibition = [Synapse(self.inh_exc, "inh", "exc", 1), Synapse(self.inh_inh, "inh", "inh", 1)]
        if self.exc_exc is None or self.exc_inh is None:
            return inhibition
        return [Synapse(self.exc_exc, "exc", "exc"), Synapse(self.exc_inh, "exc", "inh"), *inhibition]

    def simulate(self, *currents: Tensor) -> dict[str, Tensor]:
        """See `Circuit.simulate`; as one operation, unless a hook needs the steps in between."""
        fused = fusion.plan("DaleCircuit", lambda: self._fused(*currents))
        return super().simulate(*currents) if fused is None else fused

    def _fused(self, *currents: Tensor) -> dict[str, Tensor]:
        fusion.demand(len(currents) == 2, "it takes two currents")
        fusion.demand_sequence(*currents)
        both, (exc, inh) = self.fused_layer(currents[0]), currents
        fits = exc.dtype == inh.dtype and exc.shape[:2] == inh.shape[:2]
        fits = fits and (exc.shape[2], inh.shape[2]) == both.sections
        fusion.demand(fits, "the currents do not fit the populations")
        return _by_name(fusion.run_heard(torch.cat(currents, -1), both))

    def fused_layer(self, like: Tensor) -> "Layer":
        """Both populations as arguments of a fused operation, without the weights in front.

        Hooks on the taps do not matter, since they see the spikes of a whole sequence in either case; nor do hooks on
        the neurons, since the loop takes steps of them and never calls them.

        Args:
            like: a tensor of the input's type.

        Raises:
            Unfused: they must run step by step.
        """
        exc = () if self.exc_exc is None or self.exc_inh is None else (self.exc_exc, self.exc_inh)
        inh = self.inh_exc, self.inh_inh
        own = [type(module) for module in (self, self.exc, self.inh)]
        fusion.demand(own == [DaleCircuit, ExcInhLIF, ExcInhLIF], "circuit or neurons are of a kind of their own")
        fusion.demand_eager(like, ("cpu", "cuda"))
        _demand_signed_linear(*exc, *inh)
        n_exc, n_inh = sizes = inh[0].weight.shape
        from_exc, from_inh = [m.weight for m in exc], [m.weight for m in inh]
        for weights, columns in ((from_exc, n_exc), (from_inh, n_inh)):
            fusion.demand_ordinary(like, *weights)
            fits = all(w.shape == (n, columns) for w, n in zip(weights, sizes, strict=False))
            fusion.demand(fits, f"weights {[tuple(w.shape) for w in weights]} do not fit their populations")
        mine = [cell.dynamics().to(like) for cell in (self.exc, self.inh)]
        fusion.demand(mine[0].step == mine[1].step, "the neurons are of two kinds")
        for dynamics, n in zip(mine, sizes, strict=True):
            fusion.demand_cpu(dynamics, n, like, or_gpu=True)
        constants = [
            torch.cat([c.reshape(-1).expand(n) for c, n in zip(pair, sizes, strict=True)])
            for pair in zip(mine[0].constants, mine[1].constants, strict=True)
        ]
        heard = [torch.cat(weights) for weights in (from_exc, from_inh) if weights]

        from fluctua.timeloop.events_layers import Layer

        both = replace(mine[0], constants=tuple(constants))
        return Layer(tuple(sizes), both, recurrent=torch.cat(heard, 1))


def _by_name(spikes: Sequence[Tensor]) -> dict[str, Tensor]:
    return dict(zip(("exc", "inh"), spikes, strict=True))


def _demand_signed_linear(*modules: nn.Module) -> None:
    """Refuse modules that do more than a product with their weight."""
    for module in modules:
        fusion.demand_unmodified(module, SignedLinear)
        fusion.demand(module.bias is None, "a signed weight has a bias")


class DaleLayer(nn.Module):
    """A recurrent layer under Dale's law (paper, section on biologically constrained networks).

    Spikes `[T, B, n_in]` of excitatory afferents reach an excitatory population E and an inhibitory population I, which
    inhibits both; the output is the spikes of E, `[T, B, n_exc]`. All weights are zero or more and stay so in training;
    a forward pass refuses weights of the wrong sign.

    On the CPU the whole layer runs as one operation, like modules of a `FusedSequential`; on a GPU the circuit does.
    With a hook on a weight within the circuit, or neurons of two kinds, it runs step by step, with the same result.

    Args:
        n_in: afferents.
        n_exc: neurons of E.
        n_inh: neurons of I (default: a quarter of `n_exc`, the paper's ratio).
        recurrent_excitation: whether E also excites itself and I.
        family: weight law, one-sided (default: exponential, the paper's).
        tau_mem: membrane time constant in seconds, as in `ExcInhLIF`, which also takes all further options.
        tau_exc: time constant of the excitatory current in seconds.
        tau_inh: time constant of the inhibitory current in seconds.
        dt: time step in seconds.

    Example:
        >>> layer = DaleLayer(n_in=700, n_exc=100)
        >>> layer((torch.rand(50, 8, 700) < 0.02).float()).shape
        torch.Size([50, 8, 100])
    """

    def __init__(
        self,
        n_in: int,
        n_exc: int,
        n_inh: int | None = None,
        *,
        recurrent_excitation: bool = True,
        family: OneSided | None = None,
        tau_mem: float = 20e-3,
        tau_exc: float = 10e-3,
        tau_inh: float = 20e-3,
        dt: float = 2e-3,
        **options: Any,
    ) -> None:
        super().__init__()
        n_inh = math.ceil(n_exc / 4) if n_inh is None else n_inh
        if min(n_in, n_exc, n_inh) < 1:
            raise ValueError(f"every population needs a neuron, got n_in={n_in}, n_exc={n_exc}, n_inh={n_inh}")
        self.input_exc = SignedLinear(n_in, n_exc, family)
        self.input_inh = SignedLinear(n_in, n_inh, family)
        exc, inh = (ExcInhLIF(tau_mem, tau_exc, tau_inh, dt, **options) for _ in range(2))
        self.circuit = DaleCircuit(n_exc, n_inh, (exc, inh), family, recurrent_excitation)

    def forward(self, spikes: Tensor | SpikeBatch) -> Tensor:
        """Spikes `[T, B, n_in]`, also as events -> spikes of the excitatory population `[T, B, n_exc]`."""
        for module in self.modules():
            if isinstance(module, SignedLinear):
                module.check()
        fused = fusion.plan("DaleLayer", lambda: self._fused(spikes))
        if fused is not None:
            return self.circuit.emit(fused)
        x = spikes.dense(self.input_exc.weight.dtype) if isinstance(spikes, SpikeBatch) else spikes
        output: Tensor = self.circuit(self.input_exc(x), self.input_inh(x))
        return output

    def _fused(self, spikes: Tensor | SpikeBatch) -> dict[str, Tensor]:
        """Spikes of both populations, with the weights in front as part of one operation."""
        inputs = self.input_exc, self.input_inh
        x = spikes.placeholder(self.input_exc.weight.dtype) if isinstance(spikes, SpikeBatch) else spikes
        fusion.demand_unmodified(self.circuit, DaleCircuit)
        _demand_signed_linear(*inputs)
        fusion.demand_sequence(x)
        both = self.circuit.fused_layer(x)
        fits = [m.weight.shape == (n, x.shape[2]) for m, n in zip(inputs, both.sections, strict=True)]
        fusion.demand(all(fits), "the weights in front do not fit the input or the populations")
        fusion.demand_ordinary(x, *(m.weight for m in inputs))
        weight = torch.cat([m.weight for m in inputs])
        fusion.demand_cpu(both.dynamics, len(weight), x)  # on the GPU the circuit alone is one operation
        events = spikes if isinstance(spikes, SpikeBatch) else SpikeBatch.from_dense(spikes, MAX_DENSITY)
        if events is None:
            return _by_name(fusion.run_heard(nn.functional.linear(x, weight), both))
        from fluctua.timeloop.events_layers import run_layers

        return _by_name(run_layers(x, [replace(both, weight=weight)], events))
