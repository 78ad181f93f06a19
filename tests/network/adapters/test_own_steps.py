"""Classes that are read from their own step: the older SpikingJelly, and subclasses that override the dynamics."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fluctua

STEPS, SAMPLES, INPUTS, NEURONS = 60, 16, 30, 50


class Memory(nn.Module):
    """As `spikingjelly.clock_driven.base.MemoryModule` keeps what changes."""

    def __init__(self) -> None:
        super().__init__()
        self._memories: dict[str, Any] = {}
        self._memories_rv: dict[str, Any] = {}

    def register_memory(self, name: str, value: Any) -> None:
        self._memories[name] = self._memories_rv[name] = value

    def reset(self) -> None:
        self._memories.update(self._memories_rv)

    def __getattr__(self, name: str) -> Any:
        memories = vars(self).get("_memories", {})
        return memories[name] if name in memories else super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        memories = vars(self).get("_memories", {})
        if name in memories:
            memories[name] = value
        else:
            super().__setattr__(name, value)


class ATan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        fired: Tensor = (x >= 0).to(x)
        return fired

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        slope: Tensor = g / (1 + (torch.pi * x).square())
        return slope


class BaseNode(Memory):
    """As `spikingjelly.clock_driven.neuron`: threshold and reset are memories too, and a call takes one step."""

    v: Any

    def __init__(self, tau: float = 2.0, v_threshold: float = 1.0) -> None:
        super().__init__()
        self.register_memory("v", 0.0)
        self.register_memory("v_threshold", v_threshold)
        self.register_memory("v_reset", 0.0)
        self.tau = tau

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.v, float):
            self.v = torch.zeros_like(x)
        if self.v_reset == 0.0:
            self.v = self.v + (x - self.v) / self.tau
        spike: Tensor = ATan.apply(self.v - self.v_threshold)  # type: ignore[no-untyped-call]
        self.v = (1.0 - spike) * self.v + spike * self.v_reset
        return spike


class MultiStepLIFNode(BaseNode):
    """The same for whole sequences."""

    def forward(self, x_seq: Tensor) -> Tensor:
        return torch.cat([BaseNode.forward(self, x).unsqueeze(0) for x in x_seq])


for kind in (BaseNode, MultiStepLIFNode):
    kind.__module__ = "spikingjelly.clock_driven.neuron"
Memory.__module__, Memory.__qualname__ = "spikingjelly.clock_driven.base", "MemoryModule"


@pytest.mark.parametrize("kind", [BaseNode, MultiStepLIFNode])
def test_the_older_spikingjelly_is_read_from_its_step(kind: type[BaseNode]) -> None:
    torch.manual_seed(0)
    x = (torch.rand(STEPS, SAMPLES, INPUTS) < 0.2).float()
    model = nn.Sequential(nn.Linear(INPUTS, NEURONS), kind(tau=3.0))
    report = fluctua.initialize(model, x, seed=0)
    assert report["1"].sigma_u == pytest.approx(1.0, rel=0.02)
    node = BaseNode(tau=3.0, v_threshold=1e9)
    with torch.no_grad():
        potentials = [node.v for current in model[0](x) if node(current) is not None]
    assert float(torch.stack(potentials).std()) == pytest.approx(1.0, rel=0.05)
    assert float(fluctua.fuse(model, x)(x).mean()) == pytest.approx(report["1"].rate, rel=1e-4)


def test_an_option_that_is_a_memory_is_followed_again() -> None:
    x = (torch.rand(STEPS, SAMPLES, INPUTS, generator=torch.Generator().manual_seed(0)) < 0.2).float()
    torch.manual_seed(0)
    node = MultiStepLIFNode()
    model = nn.Sequential(nn.Linear(INPUTS, NEURONS), node)
    fluctua.initialize(model, x, seed=0)
    fast = fluctua.fuse(model, x)
    node.v_threshold = 2.0
    node.v = 0.0
    truth = model(x)
    node.v = 0.0
    assert torch.equal(fast(x), truth)


def slower_snntorch() -> nn.Module:
    snn = pytest.importorskip("snntorch")

    class Half(snn.Leaky):  # type: ignore[misc,name-defined]
        def _base_state_function(self, input_: Tensor) -> Tensor:
            after: Tensor = self.beta.clamp(0, 1) * self.mem + 0.5 * input_
            return after

    return Half(beta=0.9, init_hidden=True)


def slower_norse() -> nn.Module:
    norse = pytest.importorskip("norse.torch")

    class Half(norse.LIFCell):  # type: ignore[misc,name-defined]
        def forward(self, input_tensor: Tensor, state: Any = None) -> Any:
            return super().forward(0.5 * input_tensor, state)

    return Half()


def slower_spikingjelly() -> nn.Module:
    neuron = pytest.importorskip("spikingjelly.activation_based.neuron")

    class Half(neuron.SimpleLIFNode):  # type: ignore[misc,name-defined]
        def neuronal_charge(self, x: Tensor) -> None:
            super().neuronal_charge(0.5 * x)

    return Half(tau=3.0, decay_input=True, step_mode="m")


def slower_sinabs() -> nn.Module:
    sl = pytest.importorskip("sinabs.layers")

    class Half(sl.LIF):  # type: ignore[misc,name-defined]
        def forward(self, input_data: Tensor) -> Tensor:
            return super().forward(0.5 * input_data)  # type: ignore[no-any-return]

    return Half(tau_mem=10.0)


def slower_rockpool() -> nn.Module:
    modules = pytest.importorskip("rockpool.nn.modules")

    class Half(modules.LIFTorch):  # type: ignore[misc,name-defined]
        def forward(self, input_data: Tensor) -> Tensor:
            return super().forward(0.5 * input_data)  # type: ignore[no-any-return]

    return Half(NEURONS)


@pytest.mark.parametrize(
    "make",
    [slower_snntorch, slower_norse, slower_spikingjelly, slower_sinabs, slower_rockpool],
    ids=lambda f: f.__name__,
)
def test_a_subclass_that_halves_its_input_has_half_the_kernel(make: Callable[[], nn.Module]) -> None:
    from fluctua.network.adapters.framework import Timing
    from fluctua.network.adapters.registry import specs_of

    neuron = make()
    base = next(kind for kind in type(neuron).__mro__ if not kind.__module__.startswith(__name__))
    timing = Timing(steps=STEPS)
    own = specs_of(neuron, timing)[""].neuron
    neuron.__class__ = base
    theirs = specs_of(neuron, timing)[""].neuron
    assert own.threshold is not None
    assert theirs.threshold is not None
    distances = np.mean(own.threshold) - np.mean(own.rest), np.mean(theirs.threshold) - np.mean(theirs.rest)
    assert distances[0] == pytest.approx(distances[1], rel=1e-9)
    halved, whole = own.kernels[0], theirs.kernels[0]
    assert np.mean(halved.eps_bar) == pytest.approx(0.5 * np.mean(whole.eps_bar), rel=1e-6)
    assert np.mean(halved.eps_hat) == pytest.approx(0.25 * np.mean(whole.eps_hat), rel=1e-6)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_code_that_insists_on_numbers_is_read_with_the_constants_as_they_are() -> None:
    """As SpikingJelly's compiled steps do, where a user makes the time constant a parameter."""
    neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
    from fluctua.network.adapters.framework import Timing
    from fluctua.network.adapters.registry import specs_of

    @torch.jit.script
    def charged(x: Tensor, v: Tensor, tau: float) -> Tensor:
        return v + (x - v) / tau

    class Compiled(neuron.SimpleLIFNode):  # type: ignore[misc,name-defined]
        v: Any

        def neuronal_charge(self, x: Tensor) -> None:
            self.v = charged(x, self.v, self.tau)

    node = Compiled(tau=2.0, decay_input=True)
    del node.tau
    node.tau = nn.Parameter(torch.tensor(4.0))
    kernel = specs_of(node, Timing(steps=STEPS))[""].neuron.kernel
    np.testing.assert_allclose(kernel.response(5), 0.25 * 0.75 ** np.arange(5), atol=1e-12)
    assert isinstance(node.tau, nn.Parameter)
