"""Sinabs: its layers, networks as its tutorials write them, and how it runs both."""

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fluctua.network.adapters.sinabs import FRAMEWORK
from shared.frameworks.cases import (
    FAR,
    INPUT,
    Calls,
    FrameworkCases,
    NetworkCase,
    NeuronCase,
    Recurrence,
    Wiring,
    by_hooks,
    chain,
    named_classes,
    needed,
)
from shared.spikes import spikes

sinabs: Any = needed("sinabs")
sl: Any = needed("sinabs.layers")
activation: Any = needed("sinabs.activation")
alif: Any = needed("sinabs.layers.alif")
from_torch: Any = needed("sinabs.from_torch")

SAMPLES, STEPS = 16, 60
N = 3

# -- layers -------------------------------------------------------------------------------------------------------


def many(low: float, high: float) -> Tensor:
    return torch.linspace(low, high, N)


SPIKING: dict[str, Callable[[], Any]] = {
    "LIF": lambda: sl.LIF(tau_mem=10.0),
    "LIF, raw input": lambda: sl.LIF(tau_mem=10.0, norm_input=False, spike_threshold=torch.tensor(2.0)),
    "LIF, synapse": lambda: sl.LIF(tau_mem=10.0, tau_syn=5.0),
    "LIF, synapse, raw input": lambda: sl.LIF(tau_mem=10.0, tau_syn=10.0, norm_input=False),
    "LIF, many time constants": lambda: sl.LIF(tau_mem=many(5, 30), tau_syn=many(20, 2)),
    "LIF, learnt decays": lambda: sl.LIF(tau_mem=many(5, 30), train_alphas=True),
    "LIF, learnt decays, synapse": lambda: sl.LIF(tau_mem=20.0, tau_syn=many(2, 20), train_alphas=True),
    "LIF, one spike a step": lambda: sl.LIF(tau_mem=10.0, spike_fn=activation.SingleSpike),
    "LIF, reset to 0": lambda: sl.LIF(tau_mem=10.0, reset_fn=activation.MembraneReset()),
    "LIF, lower limit": lambda: sl.LIF(tau_mem=10.0, min_v_mem=-1.0),
    "squeezed LIF": lambda: sl.LIFSqueeze(batch_size=1, tau_mem=10.0),
    "IAF": sl.IAF,
    "IAF, synapse": lambda: sl.IAF(tau_syn=5.0),
    "squeezed IAF": lambda: sl.IAFSqueeze(batch_size=1),
    "ALIF": lambda: sl.ALIF(tau_mem=10.0, tau_adapt=20.0),
    "ALIF, raw input": lambda: sl.ALIF(tau_mem=10.0, tau_adapt=20.0, norm_input=False, adapt_scale=0.5),
    "ALIF, synapse": lambda: sl.ALIF(tau_mem=10.0, tau_adapt=20.0, tau_syn=5.0, spike_threshold=torch.tensor(0.2)),
    "ALIF, synapse, raw input": lambda: sl.ALIF(tau_mem=10.0, tau_adapt=20.0, tau_syn=5.0, norm_input=False),
    "ALIF, learnt decays": lambda: sl.ALIF(tau_mem=10.0, tau_adapt=20.0, tau_syn=5.0, train_alphas=True),
    "squeezed ALIF": lambda: alif.ALIFSqueeze(batch_size=1, tau_mem=10.0, tau_adapt=20.0),
}
READOUTS: dict[str, Callable[[], Any]] = {
    "ExpLeak": lambda: sl.ExpLeak(tau_mem=10.0),
    "ExpLeak, scaled input": lambda: sl.ExpLeak(tau_mem=10.0, norm_input=True),
    "squeezed ExpLeak": lambda: sl.ExpLeakSqueeze(batch_size=1, tau_mem=10.0),
    "LIF without spikes": lambda: sl.LIF(tau_mem=10.0, spike_fn=None),
}

NEURONS = {name: NeuronCase(make) for name, make in (SPIKING | READOUTS).items()}


def emitted(layer: Any, x: Tensor) -> Tensor:
    """Output `[T, B, *N]` of a layer that takes `[B, T, *N]`, or both axes in one."""
    if hasattr(layer, "num_timesteps"):
        layer.batch_size, layer.num_timesteps = x.shape[1], len(x)
        return layer(x.transpose(0, 1).flatten(0, 1)).unflatten(0, (-1, len(x))).transpose(0, 1)  # type: ignore[no-any-return]
    return layer(x.transpose(0, 1)).transpose(0, 1)  # type: ignore[no-any-return]


def run(layer: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """The potential is read at the end of calls of growing length: some layers record it shifted, or forget it."""
    after = []
    for steps in range(1, len(x) + 1):
        FRAMEWORK.reset(layer)
        output = emitted(layer, x[:steps])
        after.append(layer.v_mem.detach().clone())
    return output, torch.stack(after)


def free(layer: Any, x: Tensor) -> Tensor:
    if hasattr(layer, "b0"):
        layer.b0 = torch.tensor(FAR)
    elif layer.spike_threshold is not None:
        layer.spike_threshold.data = torch.tensor(FAR)
    return run(layer, x)[1]


def recurrence(make: Callable[[nn.Module], Any], plain: Callable[[], Any], *shape: int) -> Recurrence:
    def made() -> tuple[Any, Any]:
        linear = nn.Linear(6, 6)
        for p in linear.parameters():  # eighths, so that every sum is exact, and small, so that nothing grows unbounded
            p.data = torch.randint(-1, 2, p.shape, generator=torch.Generator().manual_seed(0)) / 8
        return make(nn.Sequential(nn.Flatten(), linear, nn.Unflatten(1, shape))), plain()

    return Recurrence(made, lambda: 4 * torch.randn(40, 4, *shape, generator=torch.Generator().manual_seed(1)))


ADAPTIVE_TAUS = {"tau_mem": 10.0, "tau_adapt": 20.0}
LAYERS: dict[str, tuple[Callable[[nn.Module], Any], Callable[[], Any]]] = {  # and the same without recurrence
    "LIF": (
        lambda w: sl.LIFRecurrent(tau_mem=10.0, tau_syn=5.0, rec_connect=w),
        lambda: sl.LIF(tau_mem=10.0, tau_syn=5.0),
    ),
    "IAF": (lambda w: sl.IAFRecurrent(rec_connect=w), sl.IAF),
    "ALIF": (lambda w: sl.ALIFRecurrent(rec_connect=w, **ADAPTIVE_TAUS), lambda: sl.ALIF(**ADAPTIVE_TAUS)),
}
RECURRENCES = {
    f"{name}, {kind}": recurrence(*both, *shape)
    for name, both in LAYERS.items()
    for kind, shape in {"flat": (6,), "feature maps": (2, 3, 1)}.items()
}
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "limit at rest": (
        lambda: sl.LIF(tau_mem=10.0, min_v_mem=0.0),
        "rectifies its potential.*lower its floor",
    ),
    "limit above rest": (
        lambda: sl.ALIF(tau_mem=10.0, tau_adapt=9.0, min_v_mem=0.5),
        "rectifies its potential.*lower its floor",
    ),
    "reset value": (
        lambda: sl.IAF(reset_fn=activation.MembraneReset(0.25)),
        "fires without input: give it",
    ),
}
NOTED: dict[str, tuple[Callable[[], Any], str | None]] = {
    "none": (lambda: sl.LIF(tau_mem=10.0), None),
    "lower limit": (lambda: sl.LIF(tau_mem=10.0, min_v_mem=-1.0), "it is linear only near rest; "),
    "no leak": (sl.IAF, "it never settles"),
    "both": (
        lambda: sl.IAF(min_v_mem=-2.0),
        "it never settles.*; it is linear only near rest; ",
    ),
}


def classes() -> set[type]:
    kinds = {kind for kind in vars(sl).values() if inspect.isclass(kind) and issubclass(kind, sl.StatefulLayer)}
    return kinds - {sl.StatefulLayer} | named_classes(FRAMEWORK)


def live() -> tuple[Any, Callable[[], Any], list[float]]:
    layer = sl.LIF(tau_mem=10.0)
    return layer, lambda: layer.tau_mem.data.fill_(1 / math.log(2)), [0.5, 0.25, 0.125]  # halves at each step


# -- networks -----------------------------------------------------------------------------------------------------


def called(model: nn.Module, x: Tensor) -> Any:
    """All steps at once. `sinabs.reset_states` would pass over layers that hold others, such as LIFRecurrent."""
    for module in model.modules():
        if isinstance(module, sl.StatefulLayer):
            module.reset_states()
    return model(x)


def deep() -> nn.Module:
    layers = (m for _ in range(5) for m in (nn.Linear(48, 48, bias=False), sl.LIF(tau_mem=10.0, tau_syn=5.0)))
    return nn.Sequential(*layers)


class Residual(nn.Module):
    """Spikes added to currents and to spikes."""

    def __init__(self) -> None:
        super().__init__()
        self.merge = sl.Merge()
        self.fc1, self.lif1 = nn.Linear(40, 64), sl.LIF(tau_mem=10.0)
        self.fc2, self.lif2 = nn.Linear(64, 64), sl.LIF(tau_mem=10.0, norm_input=False)
        self.skip = nn.Linear(40, 64, bias=False)
        self.fc3, self.lif3 = nn.Linear(64, 10), sl.LIF(tau_mem=20.0, spike_threshold=torch.tensor(0.5))

    def forward(self, x: Tensor) -> Any:
        first = self.lif1(self.fc1(x))
        second = self.lif2(self.merge(self.fc2(first), self.skip(x)))
        return self.lif3(self.fc3(self.merge(first, second)))


def convolutions(**known: int) -> nn.Module:
    """Time and samples in one axis."""
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        sl.IAFSqueeze(**known),
        sl.SumPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1, bias=False),
        sl.LIFSqueeze(tau_mem=10.0, **known),
        nn.AvgPool2d(2),
        nn.Dropout(0.25),
        nn.Flatten(),
        nn.Linear(8 * 9, 10, bias=False),
        sl.ExpLeakSqueeze(tau_mem=10.0, **known),
    )


def repeated() -> nn.Module:
    """The same with an axis for time."""
    return nn.Sequential(
        sl.Repeat(nn.Conv2d(2, 8, 3, padding=1)),
        sl.IAF(),
        sl.Repeat(sl.SumPool2d(2)),
        sl.Repeat(nn.Conv2d(8, 8, 3, padding=1)),
        sl.LIF(tau_mem=10.0),
        sl.FlattenTime(),
        nn.Flatten(),
        nn.Linear(8 * 36, 10),
        sl.UnflattenTime(batch_size=8),
        sl.LIF(tau_mem=torch.linspace(5, 20, 10)),
    )


def recurrent() -> nn.Module:
    return nn.Sequential(
        nn.Linear(40, 64),
        sl.LIFRecurrent(tau_mem=10.0, rec_connect=nn.Linear(64, 64)),
        nn.Linear(64, 10),
        sl.ExpLeak(tau_mem=10.0),
    )


def adaptive() -> nn.Module:
    options = {"tau_mem": 10.0, "tau_adapt": 20.0}
    return nn.Sequential(
        nn.Linear(40, 64),
        sl.ALIF(tau_syn=5.0, **options),
        nn.Linear(64, 64),
        sl.ALIFRecurrent(rec_connect=nn.Sequential(nn.Flatten(), nn.Linear(64, 64, bias=False)), **options),
    )


def converted() -> nn.Module:
    """A network of rates, as it is brought to a chip."""
    rates = nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(8 * 36, 10, bias=False),
        nn.ReLU(),
    )
    network: nn.Module = from_torch.from_model(rates, batch_size=8, min_v_mem=-1.0).spiking_model
    return network


def flat() -> Tensor:
    return spikes(SAMPLES, STEPS, 40, seed=1)


def frames() -> Tensor:
    return spikes(8 * 30, 2, 12, 12, seed=1)


RESIDUAL: Wiring = {
    "lif1": {"fc1.weight": INPUT},
    "lif2": {"fc2.weight": ("lif1",), "skip.weight": INPUT},
    "lif3": {"fc3.weight": ("lif1", "lif2")},
}
RECURRENT_WIRING: Wiring = {"1": {"0.weight": INPUT, "1.rec_connect.weight": ("1",)}, "3": {"2.weight": ("1",)}}
ADAPTIVE: Wiring = {"1": {"0.weight": INPUT}, "3": {"2.weight": ("1",), "3.rec_connect.1.weight": ("3",)}}
CONVOLUTIONS = chain("0", "2", "4", "5", "9", "10")
REPEATED = chain("0.module", "1", "3.module", "4", "7", "9")


def free_potential(layer: Any, currents: Calls, outputs: Calls) -> Tensor:
    """The layer can neither spike nor be cut off."""
    (current,), theta = currents, threshold(layer)
    if hasattr(layer, "rec_connect"):
        current = current + recurrent_current(layer, current)
    adaptive = isinstance(layer, sl.ALIF)
    if adaptive:  # whose records are those of the next step
        current = torch.cat([torch.zeros_like(current[:, :1]), current], 1)
        before, layer.b0 = layer.b0, torch.tensor(FAR)
    elif layer.spike_threshold is not None:
        before, layer.spike_threshold.data = layer.spike_threshold.data, torch.tensor(FAR)
    lowest, layer.min_v_mem = layer.min_v_mem, None
    layer.reset_states()
    layer.record_states = True
    feed_forward = sl.ALIF.forward if adaptive else sl.LIF.forward
    feed_forward(layer, current) if hasattr(layer, "rec_connect") else layer(current)
    potential: Tensor = layer.recordings["v_mem"]
    layer.min_v_mem = lowest
    if adaptive:
        layer.b0 = before
        return potential[:, :-1] / theta
    if layer.spike_threshold is not None:
        layer.spike_threshold.data = before
    return potential / theta


def recurrent_current(layer: Any, current: Tensor) -> Tensor:
    """What its spikes add at each step of a run with the current."""
    added = [torch.zeros_like(current[:, 0])]
    handle = layer.rec_connect.register_forward_hook(lambda module, args, output: added.append(output))
    layer.reset_states()
    layer(current)
    handle.remove()
    return torch.stack(added[:-1], 1)


def threshold(layer: Any) -> float:
    theta = layer.b0 if hasattr(layer, "b0") else layer.spike_threshold
    return 1.0 if theta is None else float(theta)


def memory(model: nn.Module) -> Any:
    """States are buffers, but some layers keep None or a mere attribute in their place."""
    kept = ("v_mem", "i_syn", "recordings", "firing_rate")
    return {
        name: {key: getattr(module, key, "none") for key in kept}
        for name, module in model.named_modules()
        if isinstance(module, sl.StatefulLayer)
    }


NETWORKS = {
    "deep": NetworkCase(deep, lambda: spikes(SAMPLES, STEPS, 48, seed=1), called, chain(*(str(k) for k in range(10)))),
    "residual": NetworkCase(Residual, flat, called, RESIDUAL),
    "convolutions, samples known": NetworkCase(lambda: convolutions(batch_size=8), frames, called, CONVOLUTIONS),
    "convolutions, steps known": NetworkCase(lambda: convolutions(num_timesteps=30), frames, called, CONVOLUTIONS),
    "convolutions, repeated": NetworkCase(repeated, lambda: frames().unflatten(0, (8, 30)), called, REPEATED),  # type: ignore[no-untyped-call]
    "recurrent": NetworkCase(recurrent, flat, called, RECURRENT_WIRING, slack=0.1),
    "adaptive": NetworkCase(adaptive, flat, called, ADAPTIVE, slack=0.1),
    "converted": NetworkCase(converted, frames, called, chain("0", "1", "4", "5")),
}

CASES = FrameworkCases(
    FRAMEWORK,
    NEURONS,
    run,
    free,
    classes,
    NETWORKS,
    by_hooks(free_potential),
    memory=memory,
    kept="recurrent",
    rated=("deep", 15.0, 1e-3),
    refused=REFUSED,
    recurrences=RECURRENCES,
    noted=NOTED,
    live={"tau_mem": live},
    width=N,
)
