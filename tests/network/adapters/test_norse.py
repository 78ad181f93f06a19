"""Peculiar to Norse: exponential neurons, which are linear near their rest alone, and recurrence without autapses."""

from typing import Any

import pytest
import torch
from torch import Tensor

from shared.frameworks.cases import member
from shared.frameworks.norse import CASES, NONLINEAR, N, norse, run

T, B = 40, 3


def impulse(size: float = 1.0) -> Tensor:
    x = torch.zeros(T, B, N, dtype=torch.float64)
    x[0] = size
    return x


def at_rest(module: Any) -> Any:
    """The state in which an exponential neuron stays: found by letting it run down without current."""
    p = getattr(module.p, "lif_adex", module.p)
    coupling = p.adaptation_current if hasattr(p, "adaptation_current") else 0
    v = torch.zeros(B, N, dtype=torch.float64)
    for _ in range(1000):  # leak and adaptation pull by (1 + coupling) v, the upstroke by less: a contraction
        v = p.v_leak + p.delta_T * torch.exp((v - p.v_th) / p.delta_T) / (1 + coupling)
    state = module.state_fallback(impulse()[0] if CASES.adapter.layout(module).stepwise else impulse())
    inner = state if hasattr(state, "v") else state[0]
    inner = inner._replace(v=v, **({"a": coupling * (v - p.v_leak)} if hasattr(inner, "a") else {}))
    return inner if hasattr(state, "v") else state._replace(**{state._fields[0]: inner})


@pytest.mark.parametrize("name", NONLINEAR)
def test_an_exponential_neuron_is_linearised_at_rest(name: str) -> None:
    module, size = NONLINEAR[name](), 1e-4
    neuron = member(module).neuron
    state = at_rest(module)
    up, still, down = (run(module, impulse(s), state)[1] for s in (size, 0.0, -size))
    assert torch.allclose(still, still[:1].expand_as(still), rtol=0, atol=1e-9)
    assert float(still.mean()) == pytest.approx(neuron.rest, abs=1e-9)
    answer = (up - down) / (2 * size)  # the odd part: what is quadratic in the size is gone
    eps = torch.as_tensor(neuron.kernel.response(T)).reshape(T, 1, -1)
    assert torch.allclose(answer, eps.expand_as(answer), rtol=0, atol=1e-5)
    assert "linear only near rest" in (neuron.note or "")


@pytest.mark.parametrize("autapses", [False, True])
def test_no_current_flows_by_autapses_that_a_module_does_not_have(autapses: bool) -> None:
    module = norse.LIFRecurrent(N, N, autapses=autapses)
    torch.nn.init.ones_(module.recurrent_weights)
    spikes = torch.zeros(2, 1, N)
    spikes[0, 0, 0] = 1
    synapse = member(module).inner[1]
    assert synapse.inner is not None
    assert torch.equal(synapse.inner(spikes)[1, 0], torch.tensor([float(autapses), 1, 1, 1]))
    assert synapse.mask is None if autapses else torch.equal(synapse.mask, 1 - torch.eye(N))  # type: ignore[arg-type]


def test_autapses_that_a_module_does_not_have_stay_away() -> None:
    model, _ = CASES.networks["recurrent"].initialised()
    weight = model.get_parameter("l1.recurrent_weights")
    assert not weight.diagonal().any()
    assert int((weight != 0).sum()) == len(weight) * (len(weight) - 1)
