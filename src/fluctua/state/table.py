"""A report as text: one table, in plain characters or for rich."""

from collections.abc import Sequence
from dataclasses import fields
from html import escape
from typing import TYPE_CHECKING, Any

from fluctua.state.facts import PopulationState

if TYPE_CHECKING:
    from rich.table import Table

Populations = Sequence[PopulationState]
Sentences = Sequence[str]

_HEAD = ("population", "N", "mu_U", "sigma_U", "across", "xi", "Hz (theory)", "1st spike", "silent", "satur.")
_BACKWARD = ("gradient at", "participation", "sharpness", "gain of the gradient")
_SILENT = _HEAD.index("silent")


def flat_row(p: PopulationState) -> dict[str, Any]:
    """The numbers of a population by name; those of its pathways joined by spaces."""
    nested = ("pathways", "plot_data")
    row = {f.name: getattr(p, f.name) for f in fields(p) if f.name not in nested}
    row["weights"] = " ".join(q.name for q in p.pathways)
    row["weight_std"] = " ".join(f"{q.std:.6g}" for q in p.pathways)
    row["weight_share"] = " ".join(_number(q.share, ".3f") for q in p.pathways)
    return row


def plain_text(populations: Populations, notes: Sentences, warnings: Sentences, ran: str = "") -> str:
    """The table in plain characters, below what was run and above notes and warnings.

    Pairs read actual/target. "across" is the part of sigma_U between neurons, which makes none fire; xi and the
    predicted rate use the other, temporal part. "Saturated" neurons have a mean potential above threshold. A second
    table shows how the gradient passes, if that was measured.
    """
    lines = [ran] if ran else []
    lines += [*aligned(_rows(populations)), *aligned(_backward_rows(populations))]
    lines += [f"note: {note}" for note in notes]
    lines += [f"warning: {warning}" for warning in warnings]
    return "\n".join(lines)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table, with a rule below its head; none without rows."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return [*lines[:1], *("-" * len(line) for line in lines[:1]), *lines[1:]]


def _backward_rows(populations: Populations) -> list[tuple[str, ...]]:
    """The head, and a row for each population of which it was measured how the gradient passes; nothing if for none."""
    found = [
        (p.name, f"{p.participation:.2f}", _number(p.sharpness, ".3g"), _number(p.gradient_gain, ".2f"))
        for p in populations
        if p.participation is not None
    ]
    return [_BACKWARD, *found] if found else []


def rich_table(populations: Populations, notes: Sentences, warnings: Sentences, ran: str = "") -> "Table":
    """The table for a rich console of 80 columns or more, titled with what was run, notes and warnings below."""
    from rich import box
    from rich.markup import escape as literal
    from rich.table import Table

    caption = [literal(line) for line in aligned(_backward_rows(populations))]
    caption += [literal(note) for note in notes]
    caption += [f"[yellow]warning: {literal(warning)}[/yellow]" for warning in warnings]
    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=0,
        collapse_padding=True,
        title=ran or None,
        title_justify="left",
        caption="\n".join(caption) or None,
        caption_justify="left",
    )
    (first, *head), *rows = _rows(populations)
    table.add_column(first, overflow="fold", min_width=len(first))  # long names give way, numbers do not
    for name in head:
        table.add_column(name.replace(" ", "\n"), justify="right", no_wrap=True)
    for p, row in zip(populations, rows, strict=True):
        cells = [literal(cell) for cell in row]
        if p.silent_units is not None and p.silent_units > 0.5:
            cells[_SILENT] = f"[red]{cells[_SILENT]}[/red]"
        table.add_row(*cells)
    return table


def html_table(populations: Populations, notes: Sentences, warnings: Sentences, ran: str = "") -> str:
    """The table for a notebook; it takes the colours of the page, light or dark."""
    backward = _backward_rows(populations)
    said = [escape(f"note: {note}") for note in notes] + [f"<b>warning:</b> {escape(one)}" for one in warnings]
    return "".join(
        [f"<p>{escape(ran)}</p>" if ran else "", as_table(_rows(populations))]
        + ([as_table(backward)] if backward else [])
        + [f"<p>{sentence}</p>" for sentence in said]
    )


def as_table(cells: Sequence[Sequence[str]]) -> str:
    """Rows as an HTML table; the first is its head."""
    (first, *head), *rows = (tuple(map(escape, row)) for row in cells)
    cell = 'style="text-align:right;white-space:nowrap;padding:0 .4em"'
    names = f"<tr><th>{first}</th>{''.join(f'<th {cell}>{name}</th>' for name in head)}</tr>"
    body = [f"<tr><td>{name}</td>{''.join(f'<td {cell}>{x}</td>' for x in others)}</tr>" for name, *others in rows]
    table = f"<table><thead>{names}</thead><tbody>{''.join(body)}</tbody></table>"
    return f'<div style="overflow-x:auto">{table}</div>'


def _rows(populations: Populations) -> list[tuple[str, ...]]:
    """The head, and the cells of each population; with silent maps and gradient norms if there are any."""
    in_steps = {p.in_steps for p in populations}
    rates = {frozenset({True}): "per step (theory)", frozenset({False}): "Hz (theory)"}.get(frozenset(in_steps), "rate")
    head = tuple(rates if name == "Hz (theory)" else name for name in _HEAD)
    rows = [head, *(_cells(p, with_unit=len(in_steps) > 1) for p in populations)]
    more = {
        "silent maps": [_number(p.silent_maps, ".0%") for p in populations],
        "gradient": [_number(p.gradient_norm, ".3g") for p in populations],
    }
    for name, cells in more.items():
        if set(cells) - {"-"}:
            rows = [(*row, cell) for row, cell in zip(rows, [name, *cells], strict=True)]
    return rows


def _cells(p: PopulationState, with_unit: bool) -> tuple[str, ...]:
    form, unit = (".3f", "/step") if p.in_steps else (".1f", " Hz")
    rate = "-" if p.rate is None else f"{p.rate:{form}}{unit * with_unit} ({_number(p.rate_predicted, form)})"
    return (
        p.name,
        str(p.n),
        _with_target(p.mu_u, p.target_mu_u),
        _with_target(p.sigma_u, p.target_sigma_u),
        _potential(p.sigma_across),
        "-" if p.xi is None else _potential(p.xi),
        rate,
        "never" if p.latency is None and p.rate is not None else p.time_in_words(p.latency),
        _number(p.silent, ".0%"),
        _number(p.saturated, ".0%"),
    )


def _with_target(actual: float, target: float | None) -> str:
    return _potential(actual) if target is None else f"{_potential(actual)}/{_potential(target)}"


def _potential(value: float) -> str:
    return f"{value:.2f}".replace("-0.00", "0.00") if abs(value) < 1000 else f"{value:.3g}"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"
