"""A report as text: one table, in plain characters or for rich."""

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from fluctua.diagnostics.report import PopulationState, Report

if TYPE_CHECKING:
    from rich.table import Table

_HEAD = ("population", "N", "mu_U", "sigma_U", "across", "xi", "Hz (theory)", "1st spike", "silent", "satur.")


def flat_row(p: PopulationState) -> dict[str, Any]:
    """The numbers of a population by name; those of its pathways joined by spaces."""
    nested = ("pathways", "sketch")
    row = {f.name: getattr(p, f.name) for f in fields(p) if f.name not in nested}
    row["weights"] = " ".join(q.name for q in p.pathways)
    row["weight_std"] = " ".join(f"{q.std:.6g}" for q in p.pathways)
    return row


def plain_text(report: Report) -> str:
    """The table in plain characters, with notes and warnings below.

    Pairs read actual/target. "across" is the part of sigma_U that lies between neurons; "saturated" neurons have a mean
    potential above threshold.
    """
    rows = [_HEAD, *map(_cells, report.populations)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEAD))]
    lines = [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    lines.insert(1, "-" * len(lines[0]))
    lines += [f"note: {note}" for note in report.notes]
    lines += [f"warning: {warning}" for warning in report.warnings]
    return "\n".join(lines)


def rich_table(report: Report) -> "Table":
    """The table for a rich console, with notes and warnings as its caption."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    caption = [f"{escape(note)}" for note in report.notes]
    caption += [f"[yellow]warning: {escape(warning)}[/yellow]" for warning in report.warnings]
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=0,
        collapse_padding=True,
        caption="\n".join(caption) or None,
        caption_justify="left",
    )
    for name in _HEAD:
        table.add_column(name, justify="left" if name == "population" else "right", no_wrap=True)
    for p in report.populations:
        cells = list(_cells(p))
        if p.silent is not None and p.silent > 0.5:
            cells[-2] = f"[red]{cells[-2]}[/red]"
        table.add_row(*cells)
    return table


def _cells(p: PopulationState) -> tuple[str, ...]:
    latency = None if p.latency is None else 1e3 * p.latency
    return (
        p.name,
        str(p.n),
        _with_target(p.mu_u, p.target_mu_u),
        _with_target(p.sigma_u, p.target_sigma_u),
        f"{p.sigma_across:.2f}",
        _number(p.xi, ".2f"),
        "-" if p.rate is None else f"{p.rate:.1f} ({_number(p.rate_predicted, '.1f')})",
        "never" if latency is None and p.rate is not None else _number(latency, ".0f", " ms"),
        _number(p.silent, ".0%"),
        _number(p.saturated, ".0%"),
    )


def _with_target(actual: float, target: float | None) -> str:
    shown = f"{actual:.2f}".replace("-0.00", "0.00")
    return shown if target is None else f"{shown}/{target:.2f}"


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "-" if value is None else f"{value:{form}}{unit}"
