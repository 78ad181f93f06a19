"""Files for numba: a function with its parts written out does what it does when it calls them."""

import ast

from fluctua.timeloop.cpu_source import written_out

SHELL = """
def shell(numbers, more):
    seen = []
    for j in range(len(numbers)):
        x, y = both(numbers[j], more)
        seen += doubled(x + y)
        show(seen, [doubled(j), doubled(doubled(j))])
        empty()
    return seen
"""
PARTS = [
    "def both(first, second):\n    inner = first * second\n    return inner, second",
    "def doubled(a):\n    return [a, a]",
    "def show(shown, what):\n    shown.append(len(what))\n    shown += what",
    "def empty():\n    return",
]


def result(*texts: str) -> object:
    known: dict[str, object] = {}
    for text in texts:
        exec(text, known)
    return known["shell"]([3, 5, 7], 2)  # type: ignore[operator]


def test_it_computes_the_same() -> None:
    assert result(written_out(SHELL, PARTS)) == result(*PARTS, SHELL)


def test_no_call_of_a_part_is_left_and_every_argument_is_computed_once() -> None:
    written = written_out(SHELL, PARTS)
    calls = [
        n.func.id for n in ast.walk(ast.parse(written)) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
    ]
    assert sorted(calls) == ["len", "len", "range"]
    assert written.count("x + y") == 1
