"""Weights and neurons that follow each other in a `nn.Sequential`: one step of all of them in one go.

A step that their code would do as the last one is only counted. Their code is known, so what could make it do anything
else is known too: another input, state, weight, module or hook. All of that is looked at in every step.
"""

from collections.abc import Collection, Mapping
from itertools import groupby
from typing import Any

from torch import nn
from torch.nn.modules import module as of_torch

from fluctua.fusion.handles import Step
from fluctua.fusion.member import Member
from fluctua.fusion.nodes import Node

_HOOKS = [f"_{way}_{kind}" for way in ("forward", "backward") for kind in ("hooks", "pre_hooks")]


class Chain:
    """Modules in their order, the last of them neurons.

    Args:
        modules: the modules.
        members: those of them that are neurons.
    """

    def __init__(self, modules: list[nn.Module], members: list[Member]) -> None:
        self._modules, self._members = modules, members
        self._hooks = [getattr(m, name) for m in modules for name in _HOOKS]
        self._hooks += [getattr(of_torch, f"_global{name}") for name in _HOOKS]
        neurons = {member.module for member in members}
        self._weights = [(m._parameters, name) for m in modules if m not in neurons for name in ("weight", "bias")]
        self._source: Node | None = None  # of the last step, if it may go on
        self._known: list[Any] = []

    def __call__(self, x: Any) -> Any:
        """What the last of them returns."""
        *before, last = self._members
        if type(x) is Step and x.node is self._source and x.step > 1 and self._goes_on(x.step):
            for member in before:
                member.advance()
            return last.next()
        steps, self._source = [x], None
        for module in self._modules:
            steps.append(module(steps[-1]))
        *given, answer = steps
        if all(type(step) is Step and step.step == x.step for step in given):
            self._source, self._known = x.node, self._facts()
        return answer

    def _goes_on(self, step: int) -> bool:
        """Whether this step is the one after the last, and nothing else has changed."""
        here = [member.calls == step and member.undisturbed for member in self._members]
        return all(here) and not any(self._hooks) and self._known == self._facts()

    def _facts(self) -> list[Any]:
        """Everything that decides what a step gives: weights as they are now, and what neurons are called with."""
        weights = [place.get(name) for place, name in self._weights]
        return [None if w is None else (id(w), w._version) for w in weights] + [m.source for m in self._members]


def in_chains(module: Any, members: Mapping[nn.Module, Member], weights: Collection[nn.Module]) -> Any:
    """The forward pass of a `nn.Sequential`, with weights and neurons that follow each other as chains."""
    modules, parts = list(module._modules.values()), list[Any]()

    def joins(child: Any) -> bool:
        member = members.get(child)
        known = child in weights if member is None else member.stepwise and member.keeps
        return known and type(child).__call__ is nn.Module.__call__ and child._compiled_call_impl is None

    for known, run in groupby(modules, joins):
        children = list(run)
        last = max((k + 1 for k, child in enumerate(children) if child in members), default=0) if known else 0
        if last > 1:
            parts.append(Chain(children[:last], [members[child] for child in children[:last] if child in members]))
        parts += children[last if last > 1 else 0 :]

    def forward(input: Any) -> Any:  # named as in torch
        for part in parts if modules == list(module._modules.values()) else module:
            input = part(input)
        return input

    return forward
