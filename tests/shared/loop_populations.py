"""Populations of every kind, and what an engine makes of them, gradients and all, to be held against the reference."""

from dataclasses import fields, replace
from itertools import product

import torch
from torch import Tensor

from fluctua.neurons.leaky import State
from fluctua.timeloop import engine
from fluctua.timeloop.contract import LoopResult
from shared.leaky_populations import Adaptation, LoopParameters, run

DTYPE = torch.float64
SHAPE = (25, 3, 5, 7)  # [T, B, *N]


def options(synapse: bool, threshold: bool, reset: str = "zero", differentiable: bool = False) -> LoopParameters:
    """A population with constants of every shape: one for all, one a channel, one a neuron."""
    generator = torch.Generator().manual_seed(3)
    return LoopParameters(
        decay_mem=0.8 + 0.15 * torch.rand(5, 1, generator=generator, dtype=DTYPE),
        decay_syn=0.6 + 0.3 * torch.rand(5, 7, generator=generator, dtype=DTYPE) if synapse else None,
        threshold=torch.tensor(0.5, dtype=DTYPE) if threshold else None,
        reset="zero" if reset == "zero" else "subtract",
        differentiable_reset=differentiable,
    )


def adaptive(current: bool, *others: bool | str) -> LoopParameters:
    """A population that adapts, by its threshold or by a current; the other options are those of `options`."""
    synapse, reset, differentiable = others
    number = torch.tensor(0.7, dtype=DTYPE)
    beta = torch.linspace(0.5, 3.0, 7, dtype=DTYPE)
    adaptation = Adaptation(number, beta, torch.tensor(0.4, dtype=DTYPE) if current else None)
    return replace(options(bool(synapse), True, str(reset), bool(differentiable)), adaptation=adaptation)


READOUTS = [options(synapse, False) for synapse in (True, False)]
SPIKING = [options(s, True, reset, d) for s, reset, d in product([True, False], ["zero", "subtract"], [False, True])]
ADAPTIVE = [
    adaptive(False, True, "zero", False),
    adaptive(False, False, "subtract", True),
    adaptive(False, True, "zero", True),
    adaptive(True, True, "zero", False),
    adaptive(True, False, "subtract", False),
    adaptive(True, True, "zero", True),
    adaptive(True, False, "zero", True),
]
LIF = SPIKING[0]


def named(p: LoopParameters) -> str:
    """The options in words, as the name of a test."""
    synapse = "delta" if p.decay_syn is None else "exponential"
    if not p.spiking:
        return f"{synapse}-readout"
    kind = "" if p.adaptation is None else "-threshold" if p.adaptation.coupling is None else "-current"
    return f"{synapse}-{p.reset}{'-differentiable' if p.differentiable_reset else ''}{kind}"


def leaf(tensor: Tensor, dtype: torch.dtype = DTYPE) -> Tensor:
    """A copy that wants a gradient."""
    return tensor.detach().to(dtype).clone().requires_grad_()


def drawn(shape: tuple[int, ...], scale: float = 3.0, seed: int = 0) -> Tensor:
    """Normal numbers, the same for the same seed."""
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DTYPE)


def learnt(p: LoopParameters, dtype: torch.dtype = DTYPE) -> tuple[LoopParameters, dict[str, Tensor]]:
    """The population with all of its constants as leaves, and these by name."""
    leaves = {}

    def taught(facts: LoopParameters | Adaptation) -> dict[str, Tensor]:
        given = {f.name: getattr(facts, f.name) for f in fields(facts)}
        return {name: leaf(value, dtype) for name, value in given.items() if isinstance(value, Tensor)}

    leaves.update(own := taught(p))
    if p.adaptation is not None:
        leaves.update(of_adaptation := taught(p.adaptation))
        p = replace(p, adaptation=replace(p.adaptation, **of_adaptation))
    return replace(p, **own), leaves  # type: ignore[arg-type]


def everything(
    name: str, p: LoopParameters, current: Tensor, dtype: torch.dtype = DTYPE, state: State | None = None
) -> tuple[LoopResult, dict[str, Tensor]]:
    """Result of an engine, and the gradients with respect to all inputs of a loss on all that is differentiable."""
    if state is None:
        state = State(*(drawn(tuple(current.shape[1:]), scale, k) for k, scale in ((1, 0.3), (2, 1.0), (3, 0.2))))
    x, p, leaves = leaf(current, dtype), *learnt(p, dtype)
    state = State(*(leaf(part, dtype) for part in state if part is not None))
    if p.adaptation is None:
        state = state._replace(adaptation=None)
    with engine(name):
        result = run(x, p, state)
    weights = drawn(tuple(current.shape), 1.0, 4).to(dtype)
    end = result.state
    loss = (result.output * weights).sum() + end.potential.square().sum() + end.current.sin().sum()
    if end.adaptation is not None:
        loss = loss + end.adaptation.cos().sum()
    loss.backward()  # type: ignore[no-untyped-call]
    leaves |= {"x": x, "u": state.potential, "i": state.current}
    if state.adaptation is not None:
        leaves["w"] = state.adaptation
    gradients = {key: tensor.grad for key, tensor in leaves.items() if tensor.grad is not None}
    assert len(gradients) == len(leaves)
    return result, gradients


def assert_same_results(ours: LoopResult, theirs: LoopResult) -> None:
    """Every bit equal."""
    for mine, truth in zip((*ours[:2], *ours.state), (*theirs[:2], *theirs.state), strict=True):
        if truth is None:
            assert mine is None
            continue
        assert mine is not None
        torch.testing.assert_close(mine, truth, rtol=0, atol=0, equal_nan=True)
        assert mine.requires_grad == truth.requires_grad


def assert_same_gradients(ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float) -> None:
    """Equal but for `tolerance` times the largest gradient of the same kind."""
    for key, truth in theirs.items():
        error, scale = (float(t.abs().max()) if t.numel() else 0.0 for t in (ours[key] - truth, truth))
        assert ours[key].shape == truth.shape, key
        assert error <= tolerance * scale, key


def assert_same(p: LoopParameters, current: Tensor, tolerance: float = 1e-10, dtype: torch.dtype = DTYPE) -> None:
    """The cpu engine gives what the reference gives."""
    ours, our_gradients = everything("cpu", p, current, dtype)
    theirs, their_gradients = everything("reference", p, current, dtype)
    assert_same_results(ours, theirs)
    assert_same_gradients(our_gradients, their_gradients, tolerance)
