"""Weights that a model applies itself, such as `x @ self.w`, heard and recalled like those of layers.

While the model runs, a mode of torch follows what is made of such parameters alone (`self.w.abs()`, `self.w * mask`).
Where one is multiplied with anything else, a layer of fluctua's own does it: hooks then see what reaches the weight.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, MutableMapping
from dataclasses import dataclass
from operator import getitem
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from fluctua.network.adapters.registry import prepare
from fluctua.network.preserve import preserved
from fluctua.network.run import Copies, Forward, modules_of, tensors_in

_APPLYING = {
    *("matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "mv", "linear", "einsum", "tensordot", "addmm", "addmv"),
    *("addbmm", "baddbmm", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
}
"""Functions by which a weight connects units."""
_ADDING = {"add", "add_", "__add__", "__radd__", "__iadd__"}


@dataclass(frozen=True)
class _Leaf:
    """A parameter, by its name in the layer."""

    name: str


@dataclass(frozen=True, eq=False)
class _Constant:
    """What else a module keeps, such as a mask."""

    module: nn.Module
    name: str


@dataclass(frozen=True)
class _Signal:
    """What the layer is called with."""

    number: int


@dataclass(frozen=True, eq=False)
class _Made:
    """A call of a function of torch, with leaves, signals and other calls among its arguments."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def name(self) -> str:
        """Of the function; that of a property is the property's."""
        own = getattr(self.function, "__name__", "")
        return own if own != "__get__" else str(getattr(self.function, "__self__", own))

    def key(self) -> Any:
        """The same for the same calculation in every step."""
        return self.name, *map(_key, (*self.args, *self.kwargs.items()))

    def leaves(self) -> list[str]:
        """Names of the parameters that it is made of."""
        found: list[str] = []

        def noted(part: Any) -> Any:
            if isinstance(part, _Leaf | _Made):
                found.extend([part.name] if isinstance(part, _Leaf) else part.leaves())
            return part

        _with((self.args, self.kwargs), noted)
        return found


def _key(part: Any) -> Any:
    if isinstance(part, _Made):
        return part.key()
    if isinstance(part, list | tuple):
        return tuple(map(_key, part))
    if isinstance(part, Tensor):  # nowhere kept, such as signs from a closure
        return str(part.tolist())
    return (id(part.module), part.name) if isinstance(part, _Constant) else repr(part)


def _with(value: Any, change: Callable[[Any], Any]) -> Any:
    """Arguments of a call, each changed."""
    if isinstance(value, dict):
        return {name: _with(part, change) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([_with(part, change) for part in value])
    return change(value)


def _is_of_signs(x: Tensor) -> bool:
    """Whether it is a diagonal matrix of factors of both signs, as of excitatory and inhibitory neurons."""
    if x.ndim != 2 or x.shape[0] != x.shape[1]:
        return False
    factors = x.diagonal()
    return bool(factors.all() and (factors < 0).any() and (factors > 0).any()) and torch.equal(x, factors.diag())


class BareLayer(nn.Module):
    """The product of a signal with bare weights, or with what is made of them, as a layer that owns them."""

    def __init__(self, product: _Made, owned: Mapping[str, nn.Parameter]) -> None:
        super().__init__()
        self.product = product
        last = {path: path.rpartition(".")[2] for path in owned}
        clear = len({*last.values()}) == len(last)
        self.called = last if clear else {path: path.replace(".", "_") for path in owned}
        self.added: str | None = None  # name of the bias that the model adds to what it gives
        for path, parameter in owned.items():
            self.register_parameter(self.called[path], parameter)

    def forward(self, *signals: Tensor) -> Any:
        """As the model does it."""

        def value(part: Any) -> Any:
            if isinstance(part, _Leaf):
                return getattr(self, self.called[part.name])
            if isinstance(part, _Constant):
                return getattr(part.module, part.name)
            if isinstance(part, _Signal):
                return signals[part.number]
            if isinstance(part, _Made):
                return part.function(*_with(part.args, value), **_with(part.kwargs, value))
            return part

        return value(self.product)


class BareWeights(TorchFunctionMode):
    """Gives the bare weights of a model their layers wherever it runs inside.

    Attributes:
        layers: those that have run so far, by what they calculate.
    """

    def __init__(self, model: nn.Module, parameters: Mapping[str, nn.Parameter]) -> None:
        super().__init__()
        self.layers: dict[Any, BareLayer] = {}
        self._parameters = dict(parameters)
        self._made: MutableMapping[Tensor, _Leaf | _Made] = WeakIdKeyDictionary()
        self._ids = set[int]()  # of all that was ever in there: quick to look up
        for name, parameter in parameters.items():
            self._add(parameter, _Leaf(name))
        self._modules = tuple(modules_of(model))
        self._constants: MutableMapping[Tensor, _Constant] = WeakIdKeyDictionary()
        self._sums: MutableMapping[Tensor, BareLayer] = WeakIdKeyDictionary()  # what layers give, and sums with it

    def __enter__(self) -> Self:
        self._constants.clear()  # a model may run on copies of what it keeps
        for module in self._modules:
            for name, value in (vars(module) | module._buffers | module._parameters).items():
                if isinstance(value, Tensor):
                    self._constants[value] = _Constant(module, name)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if not any(id(x) in self._ids and x in self._made for x in tensors_in([args, kwargs])):
            return self._summed(function, args, function(*args, **kwargs))
        applying = getattr(function, "__name__", "") in _APPLYING
        tensors = list(tensors_in([args, kwargs]))
        given = [t for t in tensors if t not in self._made]
        signals = [t for t in given if not _is_of_signs(t) and (applying or t not in self._constants)]
        if applying and signals:
            layer = self._layer(self._call(function, args, kwargs, signals))
            result = layer(*signals)
            if isinstance(result, Tensor):
                self._sums[result] = layer
            return result
        result = self._summed(function, args, function(*args, **kwargs))
        constant = not any(t.requires_grad or t.numel() > 2**16 for t in signals)  # and so shapes a weight, perhaps
        if not signals or (
            constant and getattr(result, "shape", None) in [t.shape for t in tensors if t in self._made]
        ):
            self._note(result, self._call(function, args, kwargs), tensors)
        return result

    def _summed(self, function: Callable[..., Any], args: tuple[Any, ...], result: Any) -> Any:
        """Note a bias that is added to what a layer gives, or to a sum with it."""
        if self._sums and getattr(function, "__name__", "") in _ADDING:
            found = [self._sums[x] for x in args if isinstance(x, Tensor) and x in self._sums]
            for layer in found[:1]:
                self._sums[result] = layer
                for x in args:
                    leaf = self._made.get(x) if isinstance(x, Tensor) and x.ndim == 1 else None
                    if isinstance(leaf, _Leaf) and layer.added is None:
                        layer.added = leaf.name.rpartition(".")[2]
                        layer.register_parameter(layer.added, self._parameters[leaf.name])
        return result

    def _layer(self, product: _Made) -> BareLayer:
        key = product.key()
        if key not in self.layers:
            self.layers[key] = BareLayer(product, {name: self._parameters[name] for name in product.leaves()})
        return self.layers[key]

    def _call(self, function: Callable[..., Any], args: Any, kwargs: Any, signals: Collection[Tensor] = ()) -> _Made:
        numbers = {id(signal): _Signal(number) for number, signal in enumerate(signals)}

        def noted(part: Any) -> Any:
            if not isinstance(part, Tensor):
                return part
            return numbers.get(id(part)) or self._made.get(part) or self._constants.get(part) or part.detach()

        return _Made(function, _with(args, noted), _with(kwargs, noted))

    def _note(self, result: Any, made: _Made, given: list[Tensor]) -> None:
        """What came of weights alone is a weight; what a function has changed in place stays what it was."""
        if isinstance(result, Tensor) and not any(result is tensor for tensor in given):
            self._add(result, made)
        elif isinstance(result, list | tuple):
            for number, part in enumerate(result):
                if isinstance(part, Tensor):
                    self._add(part, _Made(getitem, (made, number), {}))

    def _add(self, tensor: Tensor, made: _Leaf | _Made) -> None:
        self._made[tensor] = made
        self._ids.add(id(tensor))


@dataclass(frozen=True)
class WithLayers:
    """Runs a model so that its bare weights act as layers."""

    forward: Forward
    weights: BareWeights

    def __call__(self, model: nn.Module, batch: Any) -> Any:
        """What the model returns."""
        with self.weights:
            return self.forward(model, batch)

    def found(self, model: nn.Module, batch: Any) -> dict[nn.Module, str]:
        """The layers, as a first pass finds them, each with the name of the module that owns its weights.

        Those are left out that share a weight.
        """
        with preserved(model, prepare), torch.no_grad():
            self(model, Copies(model).of(batch))
        layers = self.weights.layers.values()
        often = Counter(name for layer in layers for name in dict.fromkeys(layer.product.leaves()))
        return {
            layer: layer.product.leaves()[0].rpartition(".")[0]
            for layer in layers
            if all(often[name] == 1 for name in layer.product.leaves())
        }
