"""Populations with recurrent connections, explicit and one step late."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from fluctua.layers import fusion

if TYPE_CHECKING:
    from fluctua.timeloop.events_layers import Layer


@dataclass(frozen=True, eq=False)
class Synapse:
    """A connection from one population of a circuit to another.

    Attributes:
        module: takes spikes `[B, *N]` of one step to the current `[B, *M]` that they cause, such as `nn.Linear`.
        source: name of the presynaptic population.
        target: name of the postsynaptic population.
        port: which of the target's input currents it adds to (0, or 1 for the inhibition of an `ExcInhLIF`).

    Example:
        >>> inhibition = Synapse(nn.Linear(32, 128, bias=False), source="inh", target="exc", port=1)
        >>> inhibition.current(torch.zeros(50, 8, 32)).shape
        torch.Size([50, 8, 128])
    """

    module: nn.Module
    source: str
    target: str
    port: int = 0

    def step(self, spikes: Tensor, like: Tensor) -> Tensor:
        """The current that spikes `[B, *N]` of one step cause in the next, of the shape of `like`.

        Raises:
            ValueError: the module cannot take such spikes, or returns a different shape.
        """
        try:
            current: Tensor = self.module(spikes)
        except RuntimeError as error:
            raise ValueError(
                f"the weight from {self.source} to {self.target} cannot take spikes of shape "
                f"{tuple(spikes.shape[1:])}: {error}"
            ) from error
        if current.shape != like.shape:
            raise ValueError(
                f"the weight from {self.source} to {self.target} gives a current of shape {tuple(current.shape[1:])} "
                f"to neurons of shape {tuple(like.shape[1:])}: give it as many outputs as there are neurons"
            )
        return current

    def current(self, spikes: Tensor) -> Tensor:
        """The current `[T, B, *M]` that spikes `[T, B, *N]` cause over a whole sequence, one step late."""
        current: Tensor = self.module(spikes.flatten(0, 1)).unflatten(0, spikes.shape[:2])
        return torch.cat([torch.zeros_like(current[:1]), current[:-1]])


class CircuitState(NamedTuple):
    """State of a circuit between two steps.

    Attributes:
        cells: the state of each population, by name.
        spikes: `[B, *N]` of each population in the last step, which arrive in the next; none before the first step.
    """

    cells: Mapping[str, Any]
    spikes: Mapping[str, Tensor]


class SpikeProbe(nn.Identity):
    """A tap that the spikes of one population of a circuit pass through, for hooks."""


class Circuit(nn.Module, ABC):
    """Populations of neurons with synapses between them; called with the currents from outside.

    A subclass lists its populations in `cells` and its connections in `synapses`, and owns their modules. Spikes of one
    step reach their targets in the next. Every population's spikes pass through `spikes[<name>]`.

    Example:
        >>> from fluctua.neurons import LIF
        >>> class Pair(Circuit):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.a, self.b, self.weight = LIF(), LIF(), nn.Linear(4, 2)
        ...         self.tap()
        ...
        ...     cells = property(lambda self: {"a": self.a, "b": self.b})
        ...     synapses = property(lambda self: [Synapse(self.weight, "a", "b")])
        ...
        >>> {name: tuple(s.shape) for name, s in Pair().simulate(torch.ones(9, 1, 4), torch.ones(9, 1, 2)).items()}
        {'a': (9, 1, 4), 'b': (9, 1, 2)}
    """

    spikes: nn.ModuleDict

    @property
    @abstractmethod
    def cells(self) -> Mapping[str, nn.Module]:
        """The populations by name: neurons of `fluctua.neurons`."""

    @property
    @abstractmethod
    def synapses(self) -> Sequence[Synapse]:
        """The connections between them."""

    @property
    def inputs(self) -> Sequence[tuple[str, int]]:
        """Population and port that each argument of the circuit feeds; by default the first port of each."""
        return [(name, 0) for name in self.cells]

    @property
    def output(self) -> str:
        """The population whose spikes the circuit returns; by default the first."""
        return next(iter(self.cells))

    def tap(self) -> None:
        """Make the taps; call it in a subclass once its cells exist."""
        self.spikes = nn.ModuleDict({name: SpikeProbe() for name in self.cells})

    def simulate(self, *currents: Tensor) -> dict[str, Tensor]:
        """Currents `[T, B, *N]` from outside, one for each of `inputs` -> spikes `[T, B, *N]` of every population.

        Raises:
            ValueError: a wrong number of currents, different lengths, or synapses that do not fit their populations.
        """
        return self.proceed(*currents)[0]

    def proceed(self, *currents: Tensor, state: CircuitState | None = None) -> tuple[dict[str, Tensor], CircuitState]:
        """As `simulate`, step by step from a state (default: at rest); also returns the state after the last step."""
        cells, synapses = self.cells, self.synapses
        steppers = {name: cell.stepper() for name, cell in cells.items()}  # type: ignore[operator]
        # A stepper takes one current for each port, and the state.
        ports = {name: len(signature(stepper).parameters) - 1 for name, stepper in steppers.items()}
        self._check(currents, ports)
        if state is None:
            first = {name: current for (name, port), current in zip(self.inputs, currents, strict=True) if port == 0}
            state = CircuitState({name: cell.initial_state(first[name]) for name, cell in cells.items()}, {})  # type: ignore[operator]
        states, last = dict(state.cells), dict(state.spikes)
        record: dict[str, list[Tensor]] = {name: [] for name in cells}
        for now in zip(*(current.unbind(0) for current in currents), strict=True):
            drive: dict[tuple[str, int], Tensor] = dict(zip(self.inputs, now, strict=True))
            for synapse in synapses if last else ():
                end = synapse.target, synapse.port
                current = synapse.step(last[synapse.source], like=drive[synapse.target, 0])
                drive[end] = drive[end] + current if end in drive else current
            for name, stepper in steppers.items():
                arriving = [drive.get((name, port)) for port in range(ports[name])]
                last[name], states[name] = stepper(*arriving, states[name])
                record[name].append(last[name])
        return {name: torch.stack(spikes) for name, spikes in record.items()}, CircuitState(states, last)

    def emit(self, spikes: Mapping[str, Tensor]) -> Tensor:
        """Pass the spikes `[T, B, *N]` of every population through its tap, and return the output's."""
        passed: dict[str, Tensor] = {name: self.spikes[name](s) for name, s in spikes.items()}
        return passed[self.output]

    def forward(self, *currents: Tensor) -> Tensor:
        """Currents `[T, B, *N]` from outside, one for each of `inputs` -> spikes `[T, B, *N]` of the output."""
        return self.emit(self.simulate(*currents))

    def _check(self, currents: tuple[Tensor, ...], ports: Mapping[str, int]) -> None:
        inputs = list(self.inputs)
        if len(currents) != len(inputs):
            raise ValueError(f"the circuit takes {len(inputs)} currents, for {inputs}, got {len(currents)}")
        shapes = [tuple(current.shape) for current in currents]
        if any(len(shape) < 3 or shape[:2] != shapes[0][:2] or shape[0] == 0 for shape in shapes):
            raise ValueError(f"a circuit takes currents [T, B, ...] of one length, got the shapes {shapes}")
        if missing := [name for name in ports if (name, 0) not in inputs]:
            raise ValueError(f"{missing[0]} receives no current from outside: name its first port among the inputs")
        for s in self.synapses:
            if s.source not in ports or s.port not in range(ports.get(s.target, 0)):
                there = ", ".join(f"{name} with {n} port(s)" for name, n in ports.items())
                raise ValueError(
                    f"no synapse can lead from {s.source} to port {s.port} of {s.target}: there is {there}"
                )


class Recurrent(Circuit):
    """Explicit recurrence around a population: its spikes pass `weight` and reach it again one step later.

    Called with the current `[T, B, *N]` from outside, it returns spikes of the same shape.

    Args:
        cell: the neurons, such as `LIF`, `AdaptiveLIF` or what `from_step` makes.
        weight: takes spikes `[B, *N]` to a current of the same shape: `nn.Linear(n, n, bias=False)`, or for a feature
            map `nn.Conv1d(c, c, 5, padding=2, bias=False)`, the paper's. Both have fused loops, see `simulate`.

    Example:
        >>> from fluctua.neurons import LIF
        >>> layer = Recurrent(LIF(20e-3, 10e-3, 2e-3), nn.Linear(128, 128, bias=False))
        >>> layer(torch.randn(50, 8, 128)).shape
        torch.Size([50, 8, 128])
    """

    def __init__(self, cell: nn.Module, weight: nn.Module) -> None:
        super().__init__()
        if not callable(getattr(cell, "stepper", None)) or not getattr(cell, "spiking", False):
            raise ValueError(f"Recurrent needs a spiking neuron of fluctua.neurons, got {type(cell).__name__}")
        self.cell, self.weight = cell, weight
        self.tap()

    @property
    def cells(self) -> Mapping[str, nn.Module]:
        """The one population."""
        return {"cell": self.cell}

    @property
    def synapses(self) -> Sequence[Synapse]:
        """From the population to itself."""
        return (Synapse(self.weight, "cell", "cell"),)

    def simulate(self, *currents: Tensor) -> dict[str, Tensor]:
        """See `Circuit.simulate`; one operation for known kinds, unless a hook needs the steps in between."""
        fused = fusion.plan(f"Recurrent({type(self.cell).__name__})", lambda: self._fused(*currents))
        return super().simulate(*currents) if fused is None else {"cell": fused}

    def fused_layer(self, size: int, like: Tensor, linear: nn.Linear | None = None) -> "Layer":
        """The arguments of a fused operation, with the weight in front.

        Hooks on the neurons do not matter, since the loop takes steps of them and never calls them.

        Args:
            size: number of neurons.
            like: a tensor of the input's type.
            linear: the weight in front, if it should be part of the operation.

        Raises:
            Unfused: it must run step by step.
        """
        weight = self._checked_weight()
        fusion.demand(isinstance(weight, nn.Linear), "the recurrent weight is not an nn.Linear")
        return fusion.fused_layer(self.cell, size, like, linear=linear, back=weight)  # type: ignore[arg-type]

    def _fused(self, *currents: Tensor) -> Tensor:
        """Spikes from one operation, on the CPU or the GPU."""
        fusion.demand(len(currents) == 1, "it takes one current")
        weight, x = self._checked_weight(), currents[0]
        if not isinstance(weight, nn.Linear):
            fusion.demand_eager(x, ("cpu", "cuda"))
            fusion.demand(weight.bias is None, "the convolution has a bias")
            return fusion.heard_map(*fusion.dynamics_of(self.cell, x), weight, x)
        fusion.demand_sequence(x)
        fusion.demand_eager(x, ("cpu", "cuda"))
        return fusion.heard_spikes(*fusion.dynamics_of(self.cell, x), weight.weight, weight.bias, x)

    def _checked_weight(self) -> nn.Linear | nn.Conv1d | nn.Conv2d:
        """The recurrent weight, if a fused operation knows its kind and that of the neurons."""
        known = type(self) is Recurrent and type(self.cell) in fusion.SPIKING
        fusion.demand(known, f"{type(self).__name__} or {type(self.cell).__name__} is of a kind of its own")
        fusion.demand_unmodified(self.weight, nn.Linear, nn.Conv1d, nn.Conv2d)
        return self.weight  # type: ignore[return-value]

    @property
    def spikes_unobserved(self) -> bool:
        """Whether the spikes may stay bits, since no hook sees them."""
        return all(fusion.is_unmodified(tap, nn.ModuleDict, SpikeProbe) for tap in (self.spikes, *self.spikes.values()))
