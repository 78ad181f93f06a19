"""Which of a model's parameters are weights, and which modules are synapses."""

from collections.abc import Collection, Container
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from fluctua.network.autograd import ELEMENTWISE, PLUMBING, nodes_in, operation_of, parents_of
from fluctua.network.modules import modules_of, named_parameters_of, parameters_of

NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


def computing(model: nn.Module) -> set[nn.Module]:
    """The modules that compute parametrised weights; what they own is no weight itself."""
    lists = [m for m in modules_of(model) if isinstance(m, parametrize.ParametrizationList)]
    return {inner for outer in lists for inner in modules_of(outer)}


def gains_and_offsets(module: nn.Module, output: Any) -> set[int]:
    """Ids of the module's own parameters that act element by element: they scale or shift, and connect nothing."""
    pending, seen, found = list(nodes_in(output)), set(), set()
    while pending:
        node = pending.pop()
        if node in seen or not (operation_of(node) in ELEMENTWISE or operation_of(node).startswith(PLUMBING)):
            continue
        seen.add(node)
        found.add(id(getattr(node, "variable", None)))
        pending += parents_of(node)
    return found & {id(p) for p in parameters_of(module, False)}


def may_be_synapse(module: nn.Module, neurons: Collection[nn.Module]) -> bool:
    """Whether the module owns weights and all that it holds besides is without parameters."""
    if not weight_names(module):
        return False
    inner = [child for name, child in module.named_children() if name != "parametrizations"]
    return not any(list(parameters_of(child)) or any(m in neurons for m in modules_of(child)) for child in inner)


def weight_names(module: nn.Module, no_weights: Container[int] = ()) -> list[str]:
    """Attributes of the module's own weights: what it learns in two or more dimensions."""
    computed = parametrised(module)
    plain = [name for name, _ in named_parameters_of(module, False) if name.rsplit("_", 1)[0] not in computed]
    weights = {name: getattr(module, name) for name in (*computed, *plain)}
    return [name for name, tensor in weights.items() if _is_weight(tensor) and id(tensor) not in no_weights]


def parametrised(module: nn.Module) -> list[str]:
    """Attributes that torch computes anew from parameters at every call: weight norm, spectral norm and the like."""
    hooks = [hook.name for hook in module._forward_pre_hooks.values() if isinstance(hook, WeightNorm | SpectralNorm)]
    computed: Any = module.parametrizations if parametrize.is_parametrized(module) else ()
    return [*computed, *hooks]


def loose_weights(
    inside: Container[nn.Module], names: dict[nn.Module, str], no_weights: Container[int]
) -> dict[int, str]:
    """Names of all weights; met outside of a synapse they cannot be dealt with."""
    return {
        id(p): f"{names[module]}.{name}"
        for module in names
        if module not in inside and not isinstance(module, NORMS)
        for name, p in named_parameters_of(module, False)
        if _is_weight(p) and id(p) not in no_weights
    }


def _is_weight(tensor: Tensor) -> bool:
    return tensor.ndim >= 2 and tensor.is_floating_point()
