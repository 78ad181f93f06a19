"""Is a figure legible? Laws that hold for every figure, whatever it shows."""

from itertools import combinations
from typing import Any

from matplotlib.figure import Figure
from matplotlib.text import Text


def texts(figure: Figure) -> list[Text]:
    """All that is written in the figure and within the limits of its axes."""
    found = [t for t in figure.findobj(Text) if isinstance(t, Text) and t.get_text().strip() and t.get_visible()]
    ticks = {id(t): axis for axis in figure.axes for t in (*axis.get_xticklabels(), *axis.get_yticklabels())}
    return [t for t in found if id(t) not in ticks or _shown(t, ticks[id(t)])]


def assert_legible(figure: Figure) -> None:
    """No text lies on another, none leaves the figure, every number on an axis has a label, no panel is empty."""
    figure.draw_without_rendering()  # lays everything out
    boxes = [(t.get_text(), t.get_window_extent()) for t in texts(figure)]
    for (a, box_a), (b, box_b) in combinations(boxes, 2):
        # The box of a line has some air above and below: a pixel of overlap is none to the eye.
        assert not box_a.padded(-1).overlaps(box_b.padded(-1)), f"{a!r} lies on {b!r}"
    page = figure.bbox.padded(2)
    for text, box in boxes:
        assert page.contains(box.x0, box.y0), text
        assert page.contains(box.x1, box.y1), text
    for axis in figure.axes:
        assert axis.has_data() or axis.texts or not axis.axison, "an empty panel"
        assert not (axis.axison and axis.get_xticks().size and not _column_label(figure, axis)), "no label for x"


def _shown(tick: Text, axis: Any) -> bool:
    x, y = tick.get_position()
    low, high = sorted(axis.get_xlim() if tick in axis.get_xticklabels() else axis.get_ylim())
    value = x if tick in axis.get_xticklabels() else y
    return bool(axis.axison and low <= value <= high)


def _column_label(figure: Figure, axis: Any) -> str:
    """Label of the x axis, or of the one that ends the column."""
    column = [other for other in figure.axes if abs(other.get_position().x0 - axis.get_position().x0) < 1e-3]
    return "".join(other.get_xlabel() for other in column)
