"""Laws of hooks: those that only look on are silent during fluctua's passes, those that act do their part."""

from collections import OrderedDict, defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

import fluctua
from fluctua.network.hooks import acts
from fluctua.network.preserve import silent_hooks
from shared.tracing import trace
from shared.wiring_networks import CASES, SEQUENTIAL, sequential

SEEN: list[Any] = []
KEPT: dict[Any, Any] = OrderedDict()
TOTAL = torch.zeros(())


class Monitor:
    """As frameworks have them."""

    def __init__(self) -> None:
        self.records: list[Any] = []
        self.calls = 0

    def __call__(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self.calls += 1

    def note(self, output: Tensor) -> None:
        self.records.append(output)

    def by_name(self, name: str) -> Callable[..., None]:
        return lambda module, args, output: self.note(output)

    def doubled(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        return 2 * output


def counting() -> Callable[..., None]:
    calls, by_module = 0, defaultdict(list)

    def hook(module: nn.Module, args: Any, output: Tensor) -> None:
        nonlocal calls
        calls += 1
        by_module[module].append(output.detach())

    return hook


def named(module: nn.Module, args: Any, output: Tensor, name: str = "layer") -> None:
    KEPT[name] = output


def by_place(module: nn.Module, args: Any, output: Tensor) -> None:
    place, size = len(SEEN), 0
    size += output.numel()
    KEPT[f"{place}", size] = KEPT.get(place, [output])[0]


def summed(module: nn.Module, args: Any, output: Tensor) -> None:
    TOTAL.add_(output.sum())


@pytest.mark.parametrize(
    "hook",
    [
        lambda module, args, output: SEEN.append(output.detach()),
        lambda module, args, output: KEPT.setdefault(module, []).append(output),
        lambda module, args, output: KEPT.__setitem__("last", output),
        lambda *_: print("called"),
        lambda *_: None,
        partial(KEPT.__setitem__, "last"),
        SEEN.append,
        Monitor(),
        Monitor().by_name("layer"),
        counting(),
        named,
        by_place,
        summed,
    ],
)
def test_a_hook_that_only_records_looks_on(hook: Callable[..., Any]) -> None:
    assert not acts(hook)
    model = nn.Linear(2, 2)
    model.register_forward_hook(hook)
    with silent_hooks(model):
        assert not model._forward_hooks
    assert [*model._forward_hooks.values()] == [hook]


def halves(module: Any, args: Any) -> None:
    module.weight.data = module.weight.data / 2


def clamps(module: Any, args: Any) -> None:
    with torch.no_grad():
        module.weight.clamp_(min=0)


def writes_on_its_input(module: Any, args: Any) -> None:
    args[0].mul_(2)


def scales(module: Any, args: Any, output: Tensor) -> None:
    output *= 5


def replaces_all(module: Any, args: Any, output: Tensor) -> None:
    output[...] = output * 5


def replaces_some(module: Any, args: Any, output: Tensor) -> None:
    first, factor = 1, 5
    output[:, first : first + 2] = factor * output[:, first : first + 2]


def scales_a_part(module: Any, args: Any) -> None:
    args[0][0, 1:] *= 5


def fills(module: Any, args: Any, output: Tensor) -> None:
    torch.mul(output, 5, out=output)


def sometimes(module: Any, args: Any, output: Tensor) -> Tensor | None:
    if output.ndim > 3:
        return 2 * output
    return None


@pytest.mark.parametrize(
    "hook",
    [
        lambda module, args, output: 2 * output,
        lambda module, args, output: torch.relu(output),
        lambda module, args: (2 * args[0],),
        lambda module, args: module.reset(),
        Monitor().doubled,
        halves,
        clamps,
        writes_on_its_input,
        scales,
        replaces_all,
        replaces_some,
        scales_a_part,
        fills,
        sometimes,
    ],
)
def test_a_hook_that_returns_or_writes_acts(hook: Callable[..., Any]) -> None:
    assert acts(hook)


def test_what_torch_computes_weights_by_acts() -> None:
    layer = prune.random_unstructured(nn.Linear(4, 4), "weight", 0.5)  # type: ignore[no-untyped-call]
    (hook,) = layer._forward_pre_hooks.values()
    assert acts(hook)


def test_hooks_keep_their_order() -> None:
    layer, order = nn.Linear(2, 2), list[int]()

    def acting(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        order.append(1)
        return output

    for hook in (lambda *_: order.append(0), acting, lambda *_: order.append(2)):
        layer.register_forward_hook(hook)
    with silent_hooks(layer):
        layer(torch.ones(2))
    assert order == [1]
    layer(torch.ones(2))
    assert order == [1, 0, 1, 2]


def test_no_pass_of_ours_is_seen_nor_altered_by_gradient_hooks() -> None:
    model, batch = sequential(), CASES["sequential"].batch().float()
    fluctua.initialize(model, batch, seed=0)
    expected = [p.detach().clone() for p in model.parameters()]
    seen: list[str] = []
    for layer in model:
        layer.register_forward_hook(lambda *_: seen.append("forward"))
        layer.register_full_backward_hook(lambda *_: seen.append("backward"))
    for parameter in model.parameters():
        clipped = parameter.register_hook  # else the weights would be balanced by another activity
        clipped(lambda gradient: gradient.clamp(-1e-3, 1e-3))  # type: ignore[no-untyped-call]
    with nn.modules.module.register_module_forward_hook(lambda *_: seen.append("global")):
        report = fluctua.initialize(model, batch, seed=0)
        fluctua.inspect(model, batch, loss=lambda output: output.sum())
    assert not seen
    assert len(report) == len(SEQUENTIAL) == len(trace(model, batch))
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), expected, strict=True))
