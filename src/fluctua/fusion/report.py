"""What became of a model that was fused."""

from dataclasses import dataclass


@dataclass(frozen=True)
class FuseReport:
    """Which population runs in which loop, and what the fused model was compared with.

    Attributes:
        fused: names of the neuron modules that run in loops derived from their own step.
        by_steps: names of those that run as they are, and why.
        compared: what was found when the model and the fused one ran side by side.
        notes: what the comparison does not show.

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
