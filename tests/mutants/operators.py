"""Mutants of an SQL statement: copies in each of which one expression says something else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from pglast import ast, parse_sql
from pglast.enums import A_Expr_Kind, BoolExprType, LockWaitPolicy, MinMaxOp, NullTestType, SetOperation, SortByDir
from pglast.stream import RawStream

Edit = Callable[[], None]
"""Changes a tree in its place."""
Place = Callable[[Any], None]
"""Puts another node where one stands."""

# What is close enough that a slip of the hand, or an off by one, could have written it.
_OPERATORS = {
    "=": "<>",
    "<": "<=",
    "<=": "<",
    ">": ">=",
    ">=": ">",
    "+": "-",
    "-": "+",
    "*": "/",
    "/": "*",
}


@dataclass(frozen=True, slots=True)
class Mutant:
    """One of a statement's mutants."""

    what: str
    """The change, for a person."""
    sql: str


def mutants(sql: str) -> list[Mutant]:
    """All mutants of a file that holds one statement, in the order in which the statement says what they change.

    Raises pglast.parser.ParseError for what Postgres could not parse either.
    """
    plain = RawStream()(parse_sql(sql))
    made = []
    for nth in range(sum(1 for _ in _edits(parse_sql(sql)))):
        tree = parse_sql(sql)
        what, edit = next(islice(_edits(tree), nth, None))
        edit()
        mutated = RawStream()(tree)
        if mutated != plain:
            made.append(Mutant(what, mutated))
    return made


def _edits(tree: Any) -> Iterator[tuple[str, Edit]]:
    for node, place in _nodes(tree, lambda _: None):
        edits = _EDITS.get(type(node))
        if edits:
            yield from edits(node, place)


def _nodes(node: Any, place: Place) -> Iterator[tuple[Any, Place]]:
    """Every node below one, and itself, each with how to put another in its place."""
    if isinstance(node, tuple):
        for nth, item in enumerate(node):

            def put(other: Any, nth: int = nth) -> None:
                place((*node[:nth], other, *node[nth + 1 :]))

            yield from _nodes(item, put)
    elif isinstance(node, ast.Node):
        yield node, place
        for name in node:

            def set_(other: Any, name: str = name) -> None:
                setattr(node, name, other)

            yield from _nodes(getattr(node, name), set_)


def _says(node: Any) -> str:
    """A node as SQL, short enough for a line."""
    text = RawStream()(node)
    return text if len(text) <= 70 else f"{text[:67]}..."


def _of_operator(node: ast.A_Expr, _place: Place) -> Iterator[tuple[str, Edit]]:
    if node.kind == A_Expr_Kind.AEXPR_NOT_DISTINCT:
        yield f"equal, or both null, in: {_says(node)}", lambda: setattr(node, "kind", A_Expr_Kind.AEXPR_OP)
    elif node.kind == A_Expr_Kind.AEXPR_OP and node.lexpr is not None:
        other = _OPERATORS.get(node.name[-1].sval)
        if other:
            yield f"{other} in: {_says(node)}", lambda: setattr(node, "name", (ast.String(other),))


def _of_conditions(node: ast.BoolExpr, place: Place) -> Iterator[tuple[str, Edit]]:
    if node.boolop == BoolExprType.NOT_EXPR:
        yield f"no {_says(node)}", lambda: place(node.args[0])
        return
    for nth, arg in enumerate(node.args):
        rest = (*node.args[:nth], *node.args[nth + 1 :])

        def drop(rest: tuple[Any, ...] = rest) -> None:
            if len(rest) == 1:
                place(rest[0])
            else:
                node.args = rest

        yield f"without: {_says(arg)}", drop


def _of_select(node: ast.SelectStmt, place: Place) -> Iterator[tuple[str, Edit]]:
    if node.op == SetOperation.SETOP_UNION:
        yield f"without what follows UNION: {_says(node.rarg)}", lambda: place(node.larg)
        yield f"without what UNION follows: {_says(node.larg)}", lambda: place(node.rarg)
    if node.lockingClause:
        yield f"without its lock: {_says(node)}", lambda: setattr(node, "lockingClause", None)
        for clause in node.lockingClause:
            if clause.waitPolicy == LockWaitPolicy.LockWaitSkip:
                yield (
                    f"waits for its lock: {_says(node)}",
                    lambda clause=clause: setattr(clause, "waitPolicy", LockWaitPolicy.LockWaitBlock),
                )
    if node.limitCount is not None:
        yield f"without LIMIT {_says(node.limitCount)}", lambda: _unlimit(node)
    if node.sortClause:
        yield f"without the order of: {_says(node)}", lambda: setattr(node, "sortClause", None)
    if node.distinctClause:
        yield f"without DISTINCT: {_says(node)}", lambda: setattr(node, "distinctClause", None)
    yield from _of_where(node, place)


def _unlimit(node: ast.SelectStmt) -> None:
    node.limitCount = None


def _of_where(node: Any, _place: Place) -> Iterator[tuple[str, Edit]]:
    """What has one condition only; several are dropped one by one."""
    condition = node.whereClause
    if condition is not None and not isinstance(condition, ast.BoolExpr):
        yield f"without: WHERE {_says(condition)}", lambda: setattr(node, "whereClause", None)


def _of_update(node: ast.UpdateStmt | ast.OnConflictClause, place: Place) -> Iterator[tuple[str, Edit]]:
    targets = node.targetList or ()
    for nth, target in enumerate(targets):
        rest = (*targets[:nth], *targets[nth + 1 :])
        if rest:
            yield (
                f"without: SET {target.name} = {_says(target.val)}",
                lambda rest=rest: setattr(node, "targetList", rest),
            )
    yield from _of_where(node, place)


def _of_order(node: ast.SortBy, _place: Place) -> Iterator[tuple[str, Edit]]:
    down = node.sortby_dir == SortByDir.SORTBY_DESC
    other = SortByDir.SORTBY_ASC if down else SortByDir.SORTBY_DESC
    yield f"the other way round: {_says(node.node)}", lambda: setattr(node, "sortby_dir", other)


def _of_extreme(node: ast.MinMaxExpr, _place: Place) -> Iterator[tuple[str, Edit]]:
    greatest = node.op == MinMaxOp.IS_GREATEST
    other = MinMaxOp.IS_LEAST if greatest else MinMaxOp.IS_GREATEST
    yield f"{'least' if greatest else 'greatest'} in: {_says(node)}", lambda: setattr(node, "op", other)
    for nth, arg in enumerate(node.args):
        rest = (*node.args[:nth], *node.args[nth + 1 :])
        yield f"without {_says(arg)} in: {_says(node)}", lambda rest=rest: setattr(node, "args", rest)


def _of_coalesce(node: ast.CoalesceExpr, place: Place) -> Iterator[tuple[str, Edit]]:
    for arg in node.args:
        yield f"only {_says(arg)} of: {_says(node)}", lambda arg=arg: place(arg)


def _of_case(node: ast.CaseExpr, place: Place) -> Iterator[tuple[str, Edit]]:
    for nth, when in enumerate(node.args):
        rest = (*node.args[:nth], *node.args[nth + 1 :])
        if rest:
            yield f"without WHEN {_says(when.expr)}", lambda rest=rest: setattr(node, "args", rest)
        yield f"always WHEN {_says(when.expr)}", lambda when=when: place(when.result)
    if node.defresult is not None:
        yield f"without ELSE {_says(node.defresult)}", lambda: setattr(node, "defresult", None)


def _of_null(node: ast.NullTest, _place: Place) -> Iterator[tuple[str, Edit]]:
    null = node.nulltesttype == NullTestType.IS_NULL
    other = NullTestType.IS_NOT_NULL if null else NullTestType.IS_NULL
    yield f"the contrary of: {_says(node)}", lambda: setattr(node, "nulltesttype", other)


def _of_constant(node: ast.A_Const, _place: Place) -> Iterator[tuple[str, Edit]]:
    value = node.val
    if isinstance(value, ast.Integer):
        number = value.ival or 0
        yield f"{number + 1} for {number}", lambda: setattr(value, "ival", number + 1)
    elif isinstance(value, ast.Boolean):
        other = not value.boolval
        yield f"{str(other).lower()} for {str(not other).lower()}", lambda: setattr(value, "boolval", other)


def _of_with(node: ast.WithClause, _place: Place) -> Iterator[tuple[str, Edit]]:
    """What writes, and is asked by nobody."""
    for nth, cte in enumerate(node.ctes):
        if not isinstance(cte.ctequery, ast.SelectStmt):
            rest = (*node.ctes[:nth], *node.ctes[nth + 1 :])
            yield f"without {cte.ctename}", lambda rest=rest: setattr(node, "ctes", rest)


_EDITS: dict[type, Callable[[Any, Place], Iterator[tuple[str, Edit]]]] = {
    ast.A_Expr: _of_operator,
    ast.BoolExpr: _of_conditions,
    ast.SelectStmt: _of_select,
    ast.UpdateStmt: _of_update,
    ast.DeleteStmt: _of_where,
    ast.OnConflictClause: _of_update,
    ast.SortBy: _of_order,
    ast.MinMaxExpr: _of_extreme,
    ast.CoalesceExpr: _of_coalesce,
    ast.CaseExpr: _of_case,
    ast.NullTest: _of_null,
    ast.A_Const: _of_constant,
    ast.WithClause: _of_with,
}
