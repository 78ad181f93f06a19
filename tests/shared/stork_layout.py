"""stork's public layout, written anew: the paper's own simulator is not on PyPI, so the tests cannot install it.

Names, states and updates are those of stork 0.1.0 (github.com/fmi-basel/stork, commit 258a2d6), with all that the
adapter does not touch left out. Where stork itself can be imported it is used instead.
"""

from math import prod
from typing import Any

import torch
from torch import Tensor, nn


class CellGroup(nn.Module):
    clk = 0

    def __init__(self, shape: Any, dropout_p: float = 0.0, name: str = "") -> None:
        super().__init__()
        self.name = name
        self.shape = (shape,) if isinstance(shape, int) else tuple(shape)
        self.nb_units = prod(self.shape)
        self.states: dict[str, Tensor] = {}
        self.store_state_sequences = ["out"]
        self.stored_sequences_: dict[str, list[Tensor]] = {}
        self.default_target = "input"
        self.dropout = nn.Dropout(dropout_p) if dropout_p else None

    def configure(self, batch_size: int, nb_steps: int, time_step: float) -> None:
        self.batch_size, self.nb_steps, self.time_step = batch_size, nb_steps, time_step
        self.reset_state()

    def set_state_tensor(self, key: str, state: Tensor) -> None:
        self.states[key] = state

    def new_state(self, key: str) -> Tensor:
        self.states[key] = torch.zeros(self.int_shape)
        return self.states[key]

    def add_to_state(self, target: str, x: Tensor) -> None:
        self.states[target] += x

    def clear_input(self) -> None:
        self.input = self.new_state("input")

    def reset_state(self, batch_size: int | None = None) -> None:
        self.int_shape = (batch_size or self.batch_size, *self.shape)
        self.clear_input()
        self.stored_sequences_ = {key: [] for key in self.store_state_sequences}
        self.out = self.new_state("out")

    def evolve(self) -> None:
        self.forward()
        self.set_state_tensor("out", self.out)
        if self.dropout is not None:
            self.out = self.dropout(self.out)
        for key in self.store_state_sequences:
            self.stored_sequences_[key].append(self.states[key])

    def __call__(self, inputs: Any) -> Any:
        raise NotImplementedError


class InputGroup(CellGroup):
    def feed_data(self, data: Tensor) -> None:
        self.local_data = data.reshape(data.shape[:2] + self.shape)

    def forward(self) -> None:
        self.out = self.states["out"] = self.local_data[:, self.clk]


class LIFGroup(CellGroup):
    def __init__(
        self,
        shape: Any,
        tau_mem: float = 10e-3,
        tau_syn: float = 5e-3,
        learn_timescales: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(shape, **kwargs)
        self.tau_mem, self.tau_syn, self.learn_timescales = tau_mem, tau_syn, learn_timescales

    def configure(self, batch_size: int, nb_steps: int, time_step: float) -> None:
        if self.learn_timescales:
            self.mem_param, self.syn_param = nn.Parameter(torch.randn(1)), nn.Parameter(torch.randn(1))
        super().configure(batch_size, nb_steps, time_step)

    def reset_state(self, batch_size: int | None = None) -> None:
        super().reset_state(batch_size)
        taus = torch.tensor([self.tau_mem, self.tau_syn])
        if self.learn_timescales:
            taus = 2 * taus * torch.sigmoid(torch.cat([self.mem_param, self.syn_param]))
        self.dcy_mem, self.dcy_syn = torch.exp(-self.time_step / taus).unbind()
        self.scl_mem = 1 - self.dcy_mem
        self.mem, self.syn = self.new_state("mem"), self.new_state("syn")

    def drive(self) -> Tensor:
        return self.syn

    def forward(self) -> None:
        out = Spike.apply(self.mem - 1.0)  # type: ignore[no-untyped-call]
        syn = self.dcy_syn * self.syn + self.input
        mem = (self.dcy_mem * self.mem + self.scl_mem * self.drive()) * (1 - out.detach())
        self.out = self.states["out"] = out
        self.mem = self.states["mem"] = mem
        self.syn = self.states["syn"] = syn


class AdaptiveLIFGroup(LIFGroup):
    def __init__(self, shape: Any, tau_ada: float = 100e-3, adapt_a: float = 0.1, **kwargs: Any) -> None:
        super().__init__(shape, **kwargs)
        self.tau_ada, self.adapt_a = tau_ada, adapt_a

    def reset_state(self, batch_size: int | None = None) -> None:
        super().reset_state(batch_size)
        self.dcy_ada = torch.exp(torch.tensor(-self.time_step / self.tau_ada))
        self.ada = self.new_state("ada")

    def drive(self) -> Tensor:
        return self.syn - self.adapt_a * self.ada

    def forward(self) -> None:
        before = self.out
        super().forward()
        self.ada = self.states["ada"] = self.dcy_ada * self.ada + before


class _TwoInputs(CellGroup):
    """What the groups with an excitatory and an inhibitory input share."""

    currents: tuple[str, ...]  # states behind the inputs; each has a time constant

    def __init__(self, shape: Any, sigma_tau: float = 0.0, **kwargs: Any) -> None:
        taus = {key: kwargs.pop(key) for key in list(kwargs) if key.startswith("tau_")}
        super().__init__(shape, **kwargs)
        self.taus = {"tau_mem": 10e-3, **self.defaults(), **taus}
        self.sigma_tau, self.thr, self.default_target = sigma_tau, 1.0, "exc"

    def defaults(self) -> dict[str, float]:
        raise NotImplementedError

    def configure(self, batch_size: int, nb_steps: int, time_step: float) -> None:
        for name, tau in self.taus.items():
            spread = torch.exp(self.sigma_tau * torch.randn(self.shape)) if self.sigma_tau else torch.tensor(1.0)
            setattr(self, f"dcy_{name[4:]}", torch.exp(-time_step / (tau * spread)))
            setattr(self, f"scl_{name[4:]}", 1 - getattr(self, f"dcy_{name[4:]}"))
        super().configure(batch_size, nb_steps, time_step)

    def clear_input(self) -> None:
        self.exc, self.inh = self.new_state("exc"), self.new_state("inh")

    def reset_state(self, batch_size: int | None = None) -> None:
        super().reset_state(batch_size)
        self.mem = self.new_state("mem")
        for name in self.currents:
            setattr(self, name, self.new_state(name))

    def advance(self) -> tuple[Tensor, dict[str, Tensor]]:
        """Current into the membrane, and the currents after the step."""
        raise NotImplementedError

    def forward(self) -> None:
        out = Spike.apply(self.mem - self.thr)  # type: ignore[no-untyped-call]
        net, after = self.advance()
        membrane: Any = self
        self.mem = (membrane.dcy_mem * self.mem + membrane.scl_mem * net) * (1 - out.detach())
        self.out = self.states["out"] = out
        self.states["mem"] = self.mem
        for name, value in after.items():
            self.states[name] = value
            setattr(self, name, value)


class ExcInhLIFGroup(_TwoInputs):
    currents = ("syne", "syni")

    def defaults(self) -> dict[str, float]:
        return {"tau_exc": 5e-3, "tau_inh": 5e-3}

    def advance(self) -> tuple[Tensor, dict[str, Tensor]]:
        s: Any = self
        return s.syne - s.syni, {"syne": s.dcy_exc * s.syne + s.exc, "syni": s.dcy_inh * s.syni + s.inh}


class Exc2InhLIFGroup(_TwoInputs):
    currents = ("ampa", "gaba", "nmda")

    def defaults(self) -> dict[str, float]:
        return {"tau_ampa": 5e-3, "tau_nmda": 100e-3, "tau_gaba": 10e-3}

    def advance(self) -> tuple[Tensor, dict[str, Tensor]]:
        s: Any = self
        ampa, gaba = s.dcy_ampa * s.ampa + s.exc, s.dcy_gaba * s.gaba + s.inh
        nmda = s.dcy_nmda * s.nmda + s.scl_nmda * s.ampa
        return (s.ampa + s.nmda) / 2 - s.gaba, {"ampa": ampa, "gaba": gaba, "nmda": nmda}


class ReadoutGroup(CellGroup):
    def __init__(self, shape: Any, tau_mem: float = 10e-3, tau_syn: float = 5e-3, initial_state: float = -1e-3) -> None:
        super().__init__(shape, name="Readout")
        self.tau_mem, self.tau_syn, self.initial_state = tau_mem, tau_syn, initial_state

    def reset_state(self, batch_size: int | None = None) -> None:
        super().reset_state(batch_size)
        taus = torch.tensor([self.tau_mem, self.tau_syn])
        self.dcy_mem, self.dcy_syn = torch.exp(-self.time_step / taus).unbind()
        self.out = self.states["out"] = torch.full(self.int_shape, self.initial_state)
        self.syn = self.new_state("syn")

    def forward(self) -> None:
        syn = self.dcy_syn * self.syn + self.input
        self.out = self.states["out"] = self.dcy_mem * self.out + (1 - self.dcy_mem) * self.syn
        self.syn = self.states["syn"] = syn


class TorchOp(CellGroup):
    def __init__(self, parent_group: Any, operation: nn.Module, shape: Any) -> None:
        super().__init__(shape)
        self.parent_group, self.op = parent_group, operation

    def forward(self) -> None:
        self.out = self.op(self.parent_group.out)


class MaxPool1d(TorchOp):
    def __init__(self, parent_group: Any, kernel_size: int = 2) -> None:
        *channels, length = parent_group.shape
        super().__init__(parent_group, nn.MaxPool1d(kernel_size), (*channels, length // kernel_size))


class Spike(torch.autograd.Function):
    """A step with SuperSpike's surrogate gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x > 0).float()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradients[0] / (20 * x.abs() + 1) ** 2  # type: ignore[no-any-return]


for group, module in {
    LIFGroup: "lif.base",
    AdaptiveLIFGroup: "lif.adaptive.base",
    ExcInhLIFGroup: "lif.exc_inh",
    Exc2InhLIFGroup: "lif.exc_inh",
    ReadoutGroup: "readout",
}.items():
    group.__module__ = f"stork.nodes.{module}"


class Connection(nn.Module):
    def __init__(
        self,
        src: Any,
        dst: Any,
        operation: Any = nn.Linear,
        target: str | None = None,
        bias: bool = False,
        flatten_input: bool = False,
        constraints: Any = (),
        **kwargs: Any,
    ) -> None:
        super().__init__()
        self.src, self.dst, self.flatten_input = src, dst, flatten_input
        self.target, self.constraints = target or dst.default_target, list(constraints)
        self.op = operation(src.nb_units if flatten_input else src.shape[0], dst.shape[0], bias=bias, **kwargs)

    def propagate(self) -> None:
        x = self.src.out.flatten(1) if self.flatten_input else self.src.out
        self.dst.add_to_state(self.target, self.op(x))


class RecurrentSpikingModel(nn.Module):
    def __init__(self, batch_size: int, nb_time_steps: int, nb_inputs: int) -> None:
        super().__init__()
        self.batch_size, self.nb_time_steps, self.nb_inputs = batch_size, nb_time_steps, nb_inputs
        self.groups: list[Any] = []
        self.connections: list[Any] = []
        self.devices: list[Any] = []

    def configure(self, input: Any, output: Any, time_step: float = 1e-3) -> None:
        self.input_group, self.output_group, self.time_step = input, output, time_step
        for group in self.groups:
            group.configure(self.batch_size, self.nb_time_steps, time_step)

    def add_group(self, group: Any) -> Any:
        self.groups.append(group)
        self.add_module(f"group{len(self.groups)}", group)
        return group

    def add_connection(self, connection: Any) -> Any:
        self.connections.append(connection)
        self.add_module(f"con{len(self.connections)}", connection)
        return connection

    def reset_states(self, batch_size: int | None = None) -> None:
        for group in self.groups:
            group.reset_state(batch_size)

    def evolve_all(self) -> None:
        for group in self.groups:
            group.evolve()
            group.clear_input()

    def propagate_all(self) -> None:
        for connection in self.connections:
            connection.propagate()

    def execute_all(self) -> None:
        for device in self.devices:
            device.execute()

    def run(self, x_batch: Tensor) -> Tensor:
        self.reset_states(len(x_batch))
        self.input_group.feed_data(x_batch)
        for t in range(self.nb_time_steps):
            CellGroup.clk = t
            self.evolve_all()
            self.propagate_all()
            self.execute_all()
        return torch.stack(self.output_group.stored_sequences_["out"], dim=1)
