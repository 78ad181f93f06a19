"""The report on a fused model."""

from dataclasses import dataclass


@dataclass(frozen=True)
class FuseReport:
    """Which population runs in which loop, and how the fused model compared with the model.

    Attributes:
        fused: names of the neuron modules that run in loops derived from their own step.
        by_steps: names of those that run step by step, and why.
        compared: the result of running the model and the fused one side by side.
        notes: what the comparison does not cover.

    Example:
        >>> print(FuseReport(("lif1",), {}, "40 of 200 outputs are spikes, all alike"))
        fused: lif1
        compared: 40 of 200 outputs are spikes, all alike
    """

    fused: tuple[str, ...]
    by_steps: dict[str, str]
    compared: str
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """A line for each."""
        lines = [f"fused: {', '.join(self.fused)}"]
        lines += [f"by steps: {name}, as {reason}" for name, reason in self.by_steps.items()]
        return "\n".join([*lines, f"compared: {self.compared}", *(f"note: {note}" for note in self.notes)])
