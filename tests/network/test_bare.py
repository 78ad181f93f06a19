"""Laws of weights that a model applies itself: they are found, set and left alone as those of layers are."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fluctua
from fluctua.network import Network, ProbedNeuron, WiringError
from fluctua.neurons import LI, LIF, spike
from shared.spikes import spikes

BATCH = spikes(60, 16, 40, p=0.05)
MASK = (torch.rand(30, 40, generator=torch.Generator().manual_seed(0)) < 0.5).float()

Product = Callable[["Bare", Tensor], Tensor]


class Bare(nn.Module):
    """One population whose weight `w`, `[N, inputs]`, acts as `product` says; `b` and `mask` are there to be used."""

    mask: Tensor

    def __init__(self, product: Product) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.w, self.b, self.gain = nn.Parameter(torch.randn(30, 40)), nn.Parameter(torch.randn(30)), torch.tensor(2.0)
        self.register_buffer("mask", MASK)
        self.many = nn.ParameterList([torch.randn(30, 40)])
        self.product, self.lif = product, LIF()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.lif(self.product(self, x))
        return out


PRODUCTS: dict[str, Product] = {
    "a matrix product": lambda m, x: x @ m.w.T,
    "matmul": lambda m, x: torch.matmul(x, m.w.t()),
    "F.linear": lambda m, x: F.linear(x, m.w, m.b),
    "einsum": lambda m, x: torch.einsum("tbi,oi->tbo", x, m.w),
    "a mask": lambda m, x: x @ (m.w * m.mask).T,
    "a gain and a sign": lambda m, x: -x @ (m.gain * m.w).T,
    "parts": lambda m, x: torch.cat([x @ half.T for half in (torch.cat(m.w.chunk(2)),)], -1),
    "an index": lambda m, x: x @ m.w[None][0].T,
    "a list": lambda m, x: x @ m.many[0].T,
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_bare_weight_is_brought_to_the_target(name: str) -> None:
    model = Bare(PRODUCTS[name])
    report = fluctua.initialize(model, BATCH, seed=0)
    weight = "many.0" if name == "a list" else "w"
    assert [(q.name, q.sources) for q in report["lif"].pathways] == [(weight, ("input",))]
    with torch.no_grad():
        u = _free(model.lif, PRODUCTS[name](model, BATCH))
    assert float(u.square().mean().sqrt()) == pytest.approx(1.0, rel=0.02)
    assert float(u.mean((0, 1)).abs().max()) < 0.05  # balanced


class Biased(nn.Module):
    """A weight `[inputs, N]` that is called `weight`, with a bias that is added to the product, or to a sum with it."""

    def __init__(self, summed: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight, self.b1 = nn.Parameter(torch.randn(40, 30)), nn.Parameter(torch.randn(30))
        self.skip, self.lif, self.summed = nn.Parameter(torch.randn(40, 30)), LIF(), summed

    def current(self, x: Tensor) -> Tensor:
        found: Tensor = x @ self.weight + (x @ self.skip if self.summed else 0.0)
        found += self.b1
        return found

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.lif(self.current(x))
        return out


@pytest.mark.parametrize("summed", [False, True])
@pytest.mark.parametrize("mean", [0.0, 0.3])
def test_a_bare_bias_that_is_added_by_itself_sets_the_mean(summed: bool, mean: float) -> None:
    model = Biased(summed)
    report = fluctua.initialize(model, BATCH, fluctua.Target(mean=mean, sigma=1.0), seed=0)
    with torch.no_grad():
        u = _free(model.lif, model.current(BATCH))
    assert float(u.mean()) == pytest.approx(mean, abs=0.01) == report["lif"].mu_u
    assert float(u.std()) == pytest.approx(1.0, rel=0.01)
    assert float(u.mean((0, 1)).std()) < 0.02  # of every neuron
    assert bool((model.b1 == model.b1[0]).all())
    assert bool(model.b1.any()) is bool(mean)


def _free(lif: LIF, current: Tensor) -> Tensor:
    """The potential of neurons that never fire."""
    lif.threshold.fill_(1e9)
    return lif.simulate(current).potential


def test_of_two_factors_one_after_the_other_the_nearer_is_set_and_the_other_named() -> None:
    class Factored(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.u, self.v, self.lif = nn.Parameter(torch.randn(40, 6)), nn.Parameter(torch.randn(6, 30)), LIF()

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.lif(x @ self.u @ self.v)
            return out

    model = Factored()
    before = model.u.detach().clone()
    report = fluctua.initialize(model, BATCH, seed=0)
    assert report["lif"].sigma_u == pytest.approx(1.0, rel=0.01)
    assert torch.equal(model.u, before)
    assert any(note.startswith("u was skipped: it acts on lif through v") for note in report.notes)


def test_what_a_mask_takes_away_stays_zero() -> None:
    model = Bare(PRODUCTS["a mask"])
    fluctua.initialize(model, BATCH, seed=0)
    assert bool(((model.w == 0) == (MASK == 0)).all())


class Recurrent(nn.Module):
    """A loop over time with two weights, in layers or bare."""

    w_in: Any
    w_rec: Any

    def __init__(self, bare: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers = {"w_in": nn.Linear(40, 30, bias=False), "w_rec": nn.Linear(30, 30, bias=False)}
        for name, layer in layers.items():
            setattr(self, name, layer.weight if bare else layer)
        self.bare, self.neuron, self.out = bare, Neuron(), LI()

    def forward(self, x: Tensor) -> Tensor:
        z, u, found = x.new_zeros(x.shape[1], 30), x.new_zeros(x.shape[1], 30), []
        for now in x:
            current = now @ self.w_in.T + F.linear(z, self.w_rec) if self.bare else self.w_in(now) + self.w_rec(z)
            z, u = self.neuron(current, u)
            found.append(z)
        return torch.stack(found)


class Neuron(nn.Module):
    def forward(self, current: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        u = 0.9 * u + current
        z = spike(u - 1.0)
        return z, u - z.detach()


NEURONS: dict[type[nn.Module], ProbedNeuron] = {Neuron: ProbedNeuron(threshold=1.0, membrane=1, passes_state=True)}


def test_a_loop_over_bare_weights_gets_those_of_its_twin_of_layers() -> None:
    twin, model = Recurrent(bare=False), Recurrent(bare=True)
    of_layers = fluctua.initialize(twin, BATCH[:30], neurons=NEURONS, seed=0)
    report = fluctua.initialize(model, BATCH[:30], neurons=NEURONS, seed=0)
    assert [(q.name, q.sources) for q in report["neuron"].pathways] == [("w_in", ("input",)), ("w_rec", ("neuron",))]
    assert report["neuron"].sigma_u == pytest.approx(of_layers["neuron"].sigma_u, rel=1e-4)
    for name in ("w_in", "w_rec"):
        torch.testing.assert_close(getattr(model, name), getattr(twin, name).weight, rtol=1e-4, atol=1e-6)


def test_the_model_is_as_it_was() -> None:
    model = Bare(PRODUCTS["F.linear"])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    there, modules = set(vars(model)), list(model.modules())
    fluctua.inspect(model, BATCH)
    assert set(vars(model)) == there
    assert list(model.modules()) == modules
    assert not any(m._forward_hooks or m._forward_pre_hooks or "forward" in vars(m) for m in modules)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize(
    "product",
    [
        lambda m, x: (x.unsqueeze(-2) * m.w).sum(-1),  # no product of matrices
        lambda m, x: x @ m.w.T + x.flip(0) @ m.w.T[:, :30],  # two of one weight
    ],
    ids=["a sum", "twice"],
)
def test_what_cannot_be_heard_is_refused(product: Product) -> None:
    with pytest.raises(WiringError, match=r"the weight w feeds lif from outside a layer of its own"):
        Network.of(Bare(product), BATCH)


class Opposed(nn.Module):
    """Excitation and inhibition by absolute values, as Dale's law is often written by hand."""

    def __init__(self, minus: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.exc, self.inh = nn.Parameter(torch.randn(40, 30)), nn.Parameter(torch.randn(40, 30))
        self.lif, self.minus = LIF(), minus

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.lif(self.minus(x @ self.exc.abs(), x.flip(2) @ self.inh.abs()))
        return out


@pytest.mark.parametrize("minus", [torch.sub, lambda e, i: e + -i, lambda e, i: -(i - e)], ids=["-", "+ -", "-(-)"])
def test_absolute_values_that_oppose_each_other_are_balanced_as_by_dales_law(
    minus: Callable[[Tensor, Tensor], Tensor],
) -> None:
    model = Opposed(minus)
    report = fluctua.initialize(model, BATCH, seed=0)
    assert {q.name: q.effect for q in Network.of(model, BATCH).populations[0].pathways} == {"exc": 1, "inh": -1}
    assert report["lif"].sigma_u == pytest.approx(1.0, rel=0.01)
    with torch.no_grad():
        u = _free(model.lif, minus(BATCH @ model.exc.abs(), BATCH.flip(2) @ model.inh.abs()))
    assert float(u.mean((0, 1)).abs().max()) < 0.02
    assert float(model.exc.abs().mean() / model.exc.abs().std()) == pytest.approx(1.0, abs=0.15)  # exponential


SIGNS = torch.where(torch.rand(40, generator=torch.Generator().manual_seed(3)) < 0.8, 1.0, -1.0)[:, None]
SIGNED: dict[str, Callable[[Tensor], Tensor]] = {
    "absolute values": lambda w: w.abs() * SIGNS,
    "ReLU": lambda w: F.relu(w) * SIGNS,
    "clamped": lambda w: SIGNS * w.clamp(min=0),
    "inhibition is stronger": lambda w: w.abs() * torch.where(SIGNS > 0, 1.0, -4.0),
    "a diagonal matrix": lambda w: torch.diag(SIGNS[:, 0]) @ w.abs(),
}


class Signed(nn.Module):
    """One matrix in which the sign belongs to the input."""

    def __init__(self, shape: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.w, self.lif, self.shape = nn.Parameter(torch.randn(40, 30)), LIF(), shape

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.lif(x @ self.shape(self.w))
        return out


@pytest.mark.parametrize("name", SIGNED)
def test_one_matrix_with_a_sign_for_each_input_obeys_dales_law(name: str) -> None:
    model = Signed(SIGNED[name])
    (q,) = Network.of(model, BATCH).populations[0].pathways
    assert q.signs is not None
    assert bool((q.signs == SIGNS).all())
    report = fluctua.initialize(model, BATCH, seed=0)
    assert bool((model.w >= 0).all())
    with torch.no_grad():
        u = _free(model.lif, BATCH @ SIGNED[name](model.w))
    assert float(u.square().mean().sqrt()) == pytest.approx(1.0, rel=0.01) == report["lif"].sigma_u
    assert float(u.mean((0, 1)).abs().max()) < 0.02
    excitation = model.w[SIGNS[:, 0] > 0]
    assert float(excitation.mean() / excitation.std()) == pytest.approx(1.0, abs=0.15)  # exponential


Sent = Callable[["Sending", Tensor], Tensor]
SENT: dict[str, Sent] = {
    "a buffer": lambda m, x: x * m.get_buffer("signs"),
    "a constant": lambda m, x: SIGNS[:, 0] * x,
    "a mask": lambda m, x: torch.where(m.get_buffer("signs") > 0, x, -x),
    "stronger inhibition": lambda m, x: x * torch.where(SIGNS[:, 0] > 0, 1.0, -4.0),
    "concatenated": lambda m, x: torch.cat([x[..., :30], -x[..., 30:]], -1),
}


class Sending(nn.Module):
    """Sources that send their spikes with a sign, through weights that act by their size."""

    def __init__(self, sent: Sent, weigh: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.w, self.lif, self.sent, self.weigh = nn.Parameter(torch.randn(30, 40)), LIF(), sent, weigh
        self.register_buffer("signs", SIGNS[:, 0].clone())

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.lif(self.weigh(self.sent(self, x), self.w))
        return out


def _by_size(x: Tensor, w: Tensor) -> Tensor:
    return x @ w.T.abs()


@pytest.mark.parametrize("name", SENT)
@pytest.mark.parametrize("weigh", [_by_size, lambda x, w: F.linear(x, F.relu(w))], ids=["absolute values", "ReLU"])
def test_sources_that_send_negative_spikes_inhibit(name: str, weigh: Callable[[Tensor, Tensor], Tensor]) -> None:
    model = Sending(SENT[name], weigh)
    (q,) = Network.of(model, BATCH).populations[0].pathways
    signs = SIGNS[:, 0] if name != "concatenated" else torch.where(torch.arange(40) < 30, 1.0, -1.0)
    assert q.signs is not None
    assert bool((q.signs == signs).all())
    report = fluctua.initialize(model, BATCH, seed=0)
    with torch.no_grad():
        u = _free(model.lif, weigh(SENT[name](model, BATCH), model.w))
    assert float(u.square().mean().sqrt()) == pytest.approx(1.0, rel=0.01) == report["lif"].sigma_u
    assert float(u.mean((0, 1)).abs().max()) < 0.02


class SendingMaps(nn.Module):
    """Feature maps of which one inhibits, through a convolution whose weights act by their size."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.w, self.lif = nn.Parameter(torch.randn(6, 5, 3, 3)), LIF()
        self.register_buffer("signs", torch.tensor([1.0, 1, 1, 1, -1])[:, None, None])

    def current(self, x: Tensor) -> Tensor:
        return torch.stack([F.conv2d(now * self.get_buffer("signs"), self.w.abs()) for now in x])

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.lif(self.current(x))
        return out


def test_maps_that_send_negative_spikes_inhibit_and_every_map_is_balanced() -> None:
    model, x = SendingMaps(), spikes(40, 4, 5, 8, 8, p=0.2)
    report = fluctua.initialize(model, x, seed=0)
    with torch.no_grad():
        u = _free(model.lif, model.current(x))
    assert float(u.square().mean().sqrt()) == pytest.approx(1.0, rel=0.01) == report["lif"].sigma_u
    assert float(u.mean((0, 1, 3, 4)).abs().max()) < 0.02


def test_values_of_both_signs_are_no_inhibition() -> None:
    """Analog data, also where dropout leaves zeros of either sign."""
    x = torch.randn(60, 16, 40, generator=torch.Generator().manual_seed(0))
    for batch in (x, x * (torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < 0.5)):
        (q,) = Network.of(Sending(lambda m, x: x, _by_size), batch).populations[0].pathways
        assert q.signs is None


def test_absolute_values_that_all_excite_are_not_taken_for_dales_law() -> None:
    (q,) = Network.of(Signed(Tensor.abs), BATCH).populations[0].pathways
    assert q.signs is None


class SignedLoop(nn.Module):
    """Excitatory and inhibitory neurons in one recurrent matrix."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.w_in, self.w_rec = nn.Parameter(torch.randn(30, 40)), nn.Parameter(torch.randn(30, 30))
        self.register_buffer("signs", torch.where(torch.arange(30) < 24, 1.0, -1.0))
        self.others = 1 - torch.eye(30)
        self.neuron = Neuron()

    def heard(self, z: Tensor) -> Tensor:
        found: Tensor = z @ (F.relu(self.w_rec) * self.get_buffer("signs") * self.others).T
        return found

    def forward(self, x: Tensor) -> Tensor:
        z, u, found = x.new_zeros(x.shape[1], 30), x.new_zeros(x.shape[1], 30), []
        for now in x:
            z, u = self.neuron(now @ self.w_in.T + self.heard(z), u)
            found.append(z)
        return torch.stack(found)


class SendingLoop(SignedLoop):
    """The same, where the spikes have the signs."""

    def heard(self, z: Tensor) -> Tensor:
        found: Tensor = F.linear(z * self.get_buffer("signs"), self.w_rec.abs() * self.others)
        return found


@pytest.mark.parametrize("kind", [SignedLoop, SendingLoop])
def test_a_recurrent_matrix_with_signs_reproduces_its_state(kind: type[SignedLoop]) -> None:
    model = kind()
    report = fluctua.initialize(model, BATCH, seed=0, neurons=NEURONS)
    with torch.no_grad():
        z = model(BATCH)
        heard = torch.cat([torch.zeros_like(z[:1]), z[:-1]])
        u, free = torch.zeros_like(z[0]), []
        for current in BATCH @ model.w_in.T + model.heard(heard):
            u = 0.9 * u + current
            free.append(u)
    found = torch.stack(free)
    assert float(found.std()) == pytest.approx(1.0, rel=0.1) == report["neuron"].sigma_u
    assert abs(float(found.mean())) < 0.1
    assert bool((model.w_rec >= 0).all())


def test_all_that_begins_with_a_network_serves_bare_weights() -> None:
    model = Bare(PRODUCTS["F.linear"])
    assert fluctua.initialize(model, BATCH, method="kaiming", seed=0)["lif"].pathways[0].name == "w"
    assert fluctua.initialize(model, BATCH, seed=0)["lif"].sigma_u == pytest.approx(1.0, rel=0.01)
    assert not fluctua.diagnose(model, BATCH).findings
    with torch.no_grad():
        model.w.mul_(3)
    fluctua.rescale(model, BATCH, target=fluctua.Target())
    assert fluctua.inspect(model, BATCH)["lif"].sigma_u == pytest.approx(1.0, rel=0.05)


@pytest.mark.parametrize("frozen", ["a", "w"])
def test_of_two_weights_that_are_multiplied_the_one_that_may_be_is_written(frozen: str) -> None:
    """As in a convolution on a graph, whose adjacency is given."""

    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a, self.w, self.lif = nn.Parameter(torch.rand(5, 5)), nn.Parameter(torch.randn(8, 8)), LIF()

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.lif(torch.einsum("ij,tbjc,ck->tbik", self.a, x.unflatten(2, (5, 8)), self.w))  # type: ignore[no-untyped-call]
            return out

    model = Graph()
    held = model.get_parameter(frozen).requires_grad_(False)
    before = held.clone()
    report = fluctua.initialize(model, BATCH, seed=0)
    assert report["lif"].sigma_u == pytest.approx(1.0, rel=1e-3)
    assert torch.equal(held, before)
