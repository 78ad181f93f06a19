"""Stork: its groups, models as its examples build them, and how it runs both.

Where stork cannot be imported its layout is taken, written anew: the paper's own simulator is not on PyPI.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fluctua.network.adapters.stork import FRAMEWORK
from shared.frameworks.cases import INPUT, FrameworkCases, NetworkCase, NeuronCase, Seen, named_classes
from shared.spikes import spikes

DT, STEPS, BATCH, INPUTS, WIDTH, N = 1e-3, 60, 16, 60, 32, 3
SMALL = 1e-6  # of a current, so that a threshold of 1 is out of reach, and a group is linear

try:  # pragma: no cover - the tests run on either
    from stork.connections import Connection
    from stork.layers import ConvLayer  # noqa: F401 - tells a true stork
    from stork.models import RecurrentSpikingModel as Model
    from stork.nodes import (
        AdaptiveLIFGroup,
        AdaptLearnLIFGroup,
        Exc2InhLIFGroup,
        ExcInhAdaptiveLIFGroup,
        ExcInhLIFGroup,
        InputGroup,
        LIFGroup,
        MaxPool1d,
        ReadoutGroup,
    )

    MORE: dict[str, Any] = {
        "AdaptLearnLIFGroup": lambda: AdaptLearnLIFGroup(N),
        "ExcInhAdaptiveLIFGroup": lambda: ExcInhAdaptiveLIFGroup(N),
    }
    REAL = True
except ImportError:
    from shared.stork_layout import (
        AdaptiveLIFGroup,
        Connection,
        Exc2InhLIFGroup,
        ExcInhLIFGroup,
        InputGroup,
        LIFGroup,
        MaxPool1d,
        ReadoutGroup,
    )
    from shared.stork_layout import RecurrentSpikingModel as Model

    MORE, REAL = {}, False

GROUPS: dict[str, Any] = {
    "LIFGroup": lambda: LIFGroup(N, tau_mem=20e-3, tau_syn=10e-3),
    "LIFGroup, equal time constants": lambda: LIFGroup(N, tau_mem=10e-3, tau_syn=10e-3),
    "LIFGroup, learnt": lambda: LIFGroup(N, learn_timescales=True),
    "AdaptiveLIFGroup": lambda: AdaptiveLIFGroup(N),
    "ExcInhLIFGroup": lambda: ExcInhLIFGroup(N, tau_exc=4e-3, tau_inh=8e-3),
    "ExcInhLIFGroup, by neuron": lambda: ExcInhLIFGroup(N, sigma_tau=0.3),
    "Exc2InhLIFGroup": lambda: Exc2InhLIFGroup(N, tau_nmda=50e-3),
    "ReadoutGroup": lambda: ReadoutGroup(N, initial_state=0.0),
    **MORE,
}


def configured(model: Any, source: Any, output: Any) -> Any:
    if REAL:
        from stork.loss_stacks import LossStack

        model.configure(source, output, loss_stack=LossStack(), time_step=DT)
    else:
        model.configure(source, output, time_step=DT)
    return model


def alone(name: str) -> Any:
    """A group in a model of its own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Model(1, STEPS, N)
        source, group = model.add_group(InputGroup(N)), model.add_group(GROUPS[name]())
        model.add_connection(Connection(source, group))
        configured(model, source, group)
    return group


def run(group: Any, *currents: Tensor) -> tuple[Tensor, Tensor]:
    """Spikes and the membrane that decides on them; of a readout what it puts out, twice."""
    group.batch_size = currents[0].shape[1]
    FRAMEWORK.reset(group)
    output, potential = [], []
    for now in zip(*currents, strict=True):
        for target, x in zip(("exc", "inh") if len(now) > 1 else (group.default_target,), now, strict=True):
            group.add_to_state(target, x)
        before = getattr(group, "mem", None)
        group.evolve()
        group.clear_input()
        output.append(group.out)
        potential.append(group.out if before is None else before)
    return torch.stack(output), torch.stack(potential)


def free(group: Any, *currents: Tensor) -> Tensor:
    if not isinstance(group, ReadoutGroup):
        return run(group, *(SMALL * x for x in currents))[1] / SMALL
    before, group.initial_state = group.initial_state, 0.0
    potential = run(group, *currents)[1]
    group.initial_state = before
    return potential


def constrained() -> Any:
    group = alone("ExcInhLIFGroup")
    connection = Connection(InputGroup(N), group)
    connection.constraints = [object()]
    group.afferents = [connection]
    return group


NEURONS = {name: NeuronCase(partial(alone, name), dtype=torch.float32) for name in GROUPS}
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "no time step": (lambda: LIFGroup(N), "call model.configure"),
    "constrained weights": (constrained, "initialiser of DalianLayer, or build the layer"),
}


LATER = ("AdaptLearnLIFGroup", "ExcInhAdaptiveLIFGroup")  # groups that its layout leaves out


def classes() -> set[type]:
    """Of stork all, of its layout those that it has."""
    return named_classes(FRAMEWORK) if REAL else {type(make()) for make in GROUPS.values()}


# -- models -------------------------------------------------------------------------------------------------------


def trains() -> Tensor:
    return spikes(STEPS, BATCH, INPUTS, p=0.05, seed=1)


def called(model: Any, x: Tensor) -> Any:
    return model.run(x.transpose(0, 1))


def deep() -> Any:
    model = Model(BATCH, STEPS, INPUTS)
    source = last = model.add_group(InputGroup(INPUTS))
    for _ in range(4):
        group = model.add_group(LIFGroup(WIDTH, tau_mem=20e-3, tau_syn=10e-3))
        model.add_connection(Connection(last, group))
        last = group
    output = model.add_group(ReadoutGroup(10))
    model.add_connection(Connection(last, output, bias=True))
    return configured(model, source, output)


def recurrent() -> Any:
    model = Model(BATCH, STEPS, INPUTS)
    source = model.add_group(InputGroup(INPUTS))
    first, second = model.add_group(LIFGroup(WIDTH)), model.add_group(AdaptiveLIFGroup(WIDTH))
    output = model.add_group(ReadoutGroup(10))
    for a, b in ((source, first), (first, first), (first, second), (second, second), (second, output)):
        model.add_connection(Connection(a, b))
    return configured(model, source, output)


def residual() -> Any:
    """A shortcut over a layer, and a group with two kinds of input."""
    model = Model(BATCH, STEPS, INPUTS)
    source = model.add_group(InputGroup(INPUTS))
    first, second, third = (model.add_group(make(WIDTH)) for make in (LIFGroup, LIFGroup, ExcInhLIFGroup))
    output = model.add_group(ReadoutGroup(10))
    for a, b in ((source, first), (first, second), (source, second), (second, third), (third, output)):
        model.add_connection(Connection(a, b))
    model.add_connection(Connection(first, third, target="inh"))
    return configured(model, source, output)


def convolutional() -> Any:
    model = Model(BATCH, STEPS, INPUTS)
    source = model.add_group(InputGroup((1, INPUTS)))
    first = model.add_group(LIFGroup((6, 28)))
    pooled = model.add_group(MaxPool1d(first))
    output = model.add_group(ReadoutGroup(10))
    model.add_connection(Connection(source, first, operation=nn.Conv1d, kernel_size=5, stride=2))
    model.add_connection(Connection(first, first, operation=nn.Conv1d, kernel_size=5, padding=2))
    model.add_connection(Connection(pooled, output, flatten_input=True))
    return configured(model, source, output)


def observe(model: Any, case: NetworkCase) -> Seen:
    """Each group runs beside the model: in its own step it fires, and a second time with its spikes withheld."""
    x = case.batch()
    groups = {name: g for name, g in model.named_children() if hasattr(g, "dcy_mem")}
    inputs: dict[str, list[dict[str, Tensor]]] = {name: [] for name in groups}
    fired: dict[str, list[Tensor]] = {name: [] for name in groups}
    model.reset_states(x.shape[1])
    model.input_group.feed_data(x.transpose(0, 1))
    for t in range(len(x)):
        model.input_group.clk = t
        for name, group in groups.items():
            given = {key: group.states[key].clone() for key in group.states if key in ("input", "exc", "inh")}
            inputs[name].append(given)
        model.evolve_all()
        for name, group in groups.items():
            fired[name].append(group.out)
        model.propagate_all()
    seen = {}
    for name, group in groups.items():
        currents = (torch.stack([given[key] for given in inputs[name]]) for key in given_to(group))
        seen[name] = torch.stack(fired[name]).detach(), free(group, *currents).detach()
    return seen


def given_to(group: Any) -> tuple[str, ...]:
    return ("exc", "inh") if group.default_target == "exc" else ("input",)


def memory(model: Any) -> Any:
    """The attributes of modules, and the states of groups, which are to be the same tensors with the same numbers."""
    attributes = [sorted(vars(module)) for module in model.modules()]
    states = [(id(g.out), {key: (id(state), state.clone()) for key, state in g.states.items()}) for g in model.groups]
    return attributes, states


NETWORKS = {
    "deep": NetworkCase(
        deep,
        trains,
        called,
        {f"group{i}": {f"con{i - 1}.op.weight": (f"group{i - 1}",) if i > 2 else INPUT} for i in range(2, 7)},
    ),
    "recurrent": NetworkCase(
        recurrent,
        trains,
        called,
        {
            "group2": {"con1.op.weight": INPUT, "con2.op.weight": ("group2",)},
            "group3": {"con3.op.weight": ("group2",), "con4.op.weight": ("group3",)},
            "group4": {"con5.op.weight": ("group3",)},
        },
        slack=0.1,
    ),
    "residual": NetworkCase(
        residual,
        trains,
        called,
        {
            "group2": {"con1.op.weight": INPUT},
            "group3": {"con2.op.weight": ("group2",), "con3.op.weight": INPUT},
            "group4": {"con4.op.weight": ("group3",), "con6.op.weight": ("group2",)},
            "group5": {"con5.op.weight": ("group4",)},
        },
    ),
    "convolutional": NetworkCase(
        convolutional,
        trains,
        called,
        {
            "group2": {"con1.op.weight": INPUT, "con2.op.weight": ("group2",)},
            "group4": {"con3.op.weight": ("group2",)},
        },
        slack=0.1,
    ),
}

CASES = FrameworkCases(
    FRAMEWORK,
    NEURONS,
    run,
    free,
    classes,
    NETWORKS,
    observe,
    memory=memory,
    kept="recurrent",
    rated=("deep", 8.0, None),
    fewer=lambda x: x[:, :3],  # a model has its number of steps
    width=N,
    refused=REFUSED,
    lacking=frozenset() if REAL else frozenset(name for name in FRAMEWORK.facts if name.endswith(LATER)),
)
