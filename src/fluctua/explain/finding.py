"""The findings of a diagnosis."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from types import MappingProxyType
from typing import Any

from fluctua.state.report import Report, as_json

KINDS: Mapping[str, str] = MappingProxyType(
    {
        "input": "the batch is all zero, not a number, unscaled, or has the same value or rate in all channels",
        "values": "parameters or buffers hold NaN or infinite values",
        "axes": "time and samples are exchanged",
        "state": "a pass starts from the state that the last one left",
        "norm": "batch norm uses statistics that it has not learned, or has too few samples",
        "time": "the time step is too long for the time constants, or the trial too short",
        "grid": "weights with few values, or only zeros, cause no fluctuations",
        "late": "activity arrives when the trial is nearly over, or after it",
        "silent": "neurons are too far from threshold to fire",
        "exploding": "fluctuations are far larger than the threshold, grow from layer to layer, or feed on themselves",
        "saturated": "neurons fire whatever the input",
        "detached": "the graph is cut between layers or steps, so that no gradient gets through",
        "frozen": "weights do not require a gradient, or get none",
        "gradient": "the gradient vanishes or explodes on its way back, or neurons pass none",
        "readout": "the output is the same for all classes, a softmax already, or so large that the softmax is certain",
        "wiring": "the model cannot be run or read as it is",
    }
)
"""The kinds of findings, in order of weight: earlier ones cause later ones."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        kind: one of `fluctua.explain.finding.KINDS`.
        where: name of the population, parameter or module; empty if it concerns the whole network.
        message: a sentence with its number.
        remedy: one line of Python that fixes it, in which the arguments of `diagnose` have their names and `fluctua`,
            `torch` and `nn` are imported; a comment if only the author of the model can fix it.
        serious: whether the network cannot learn until it is fixed.

    Example:
        >>> Finding("silent", "3", "no neuron of 3 fires", "fluctua.rescale(model, batch)").kind
        'silent'
    """

    kind: str
    where: str
    message: str
    remedy: str
    serious: bool = True

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unknown kind {self.kind!r} of a finding: choose one of {', '.join(KINDS)}")


@dataclass(frozen=True, eq=False)
class Diagnosis(Sequence[Finding]):
    """The findings, those that keep a network from learning first; none if nothing is wrong.

    Attributes:
        findings: in order of weight.
        report: the state of the network, None if it could not be run.

    Example:
        >>> print(Diagnosis((Finding("silent", "3", "no neuron of 3 fires", "fluctua.rescale(model, batch)"),)))
        1. silent (3): no neuron of 3 fires
           fluctua.rescale(model, batch)
    """

    findings: tuple[Finding, ...]
    report: Report | None = None

    def __len__(self) -> int:
        return len(self.findings)

    def __getitem__(self, key: Any) -> Any:
        return self.findings[key]

    @property
    def serious(self) -> tuple[Finding, ...]:
        """Those that keep the network from learning."""
        return tuple(f for f in self.findings if f.serious)

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary per finding, as for `pandas.DataFrame(diagnosis.rows())`."""
        return [dict(vars(f)) for f in self.findings]

    def to_dict(self) -> dict[str, Any]:
        """Findings and report in plain Python."""
        return {"findings": self.rows(), "report": None if self.report is None else self.report.to_dict()}

    def to_json(self, indent: int | None = None) -> str:
        """`to_dict()` as JSON; NaN and infinite values become null."""
        return as_json(self.to_dict(), indent)

    def __str__(self) -> str:
        return "\n".join(self._lines()) or "nothing found"

    def __repr__(self) -> str:
        kinds = ", ".join(dict.fromkeys(f.kind for f in self.findings)) or "nothing found"
        return f"<Diagnosis: {kinds}>"

    def _repr_html_(self) -> str:
        """The findings, and the report below, for a notebook."""
        items = "".join(
            f"<li><b>{f.kind}</b>{escape(f' ({f.where})' if f.where else '')}: {escape(f.message)}"
            f"<br><code>{escape(f.remedy)}</code></li>"
            for f in self.findings
        )
        below = "" if self.report is None else self.report._repr_html_()
        return (f"<ol>{items}</ol>" if items else "<p>nothing found</p>") + below

    def _lines(self) -> Iterator[str]:
        for k, f in enumerate(self.findings, 1):
            said = ", ".join([f.where] * bool(f.where) + ["not serious"] * (not f.serious))
            yield f"{k}. {f.kind}{f' ({said})' if said else ''}: {f.message}"
            yield f"   {f.remedy}"
