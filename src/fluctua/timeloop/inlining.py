"""Write the bodies of functions into the text of one that calls them."""

import ast
from collections.abc import Sequence
from copy import deepcopy


def written_out(function: str, parts: Sequence[str]) -> str:
    """The text of a function with all calls of others written out.

    Args:
        function: calls the parts within assignments and expressions; shares no local name with a part, but for
            parameters.
        parts: functions that assign to no parameter and return at their end, if at all.
    """
    shell = ast.parse(function)
    found = [node for part in parts for node in ast.parse(part).body if isinstance(node, ast.FunctionDef)]
    return ast.unparse(_Statements({part.name: part for part in found}).visit(shell))


class _Statements(ast.NodeTransformer):
    """Puts what a part does before the statement that calls it."""

    def __init__(self, parts: dict[str, ast.FunctionDef]) -> None:
        self._parts = parts

    def _with_calls(self, statement: ast.stmt) -> list[ast.stmt]:
        calls = _Calls(self._parts)
        kept = calls.visit(statement)
        returns_nothing = isinstance(kept, ast.Expr) and isinstance(kept.value, ast.Constant)
        return calls.before if returns_nothing else [*calls.before, kept]

    def visit_Assign(self, node: ast.Assign) -> list[ast.stmt]:
        return self._with_calls(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> list[ast.stmt]:
        return self._with_calls(node)

    def visit_Expr(self, node: ast.Expr) -> list[ast.stmt]:
        return self._with_calls(node)


class _Calls(ast.NodeTransformer):
    """Replaces calls within a statement by what they return; `before` is what is done first."""

    def __init__(self, parts: dict[str, ast.FunctionDef]) -> None:
        self._parts = parts
        self.before: list[ast.stmt] = []

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)  # arguments first, as they are evaluated
        part = self._parts.get(node.func.id) if isinstance(node.func, ast.Name) else None
        if part is None:
            return node
        arguments = dict[str, ast.expr]()
        for parameter, value in zip(part.args.args, node.args, strict=True):
            if not isinstance(value, ast.Name | ast.Constant):  # computed once, however often it is used
                own = ast.Name(f"{part.name}_{parameter.arg}", ast.Store())
                self.before.append(ast.fix_missing_locations(ast.Assign([own], value, lineno=0)))
                value = ast.Name(own.id, ast.Load())
            arguments[parameter.arg] = value
        body = [_Arguments(arguments).visit(deepcopy(statement)) for statement in part.body]
        last = body.pop() if isinstance(body[-1], ast.Return) else None
        self.before += body
        return ast.Constant(None) if last is None or last.value is None else last.value


class _Arguments(ast.NodeTransformer):
    """Replaces parameters by what is given for them."""

    def __init__(self, arguments: dict[str, ast.expr]) -> None:
        self._arguments = arguments

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return deepcopy(self._arguments.get(node.id, node))
