"""What a mutant of a statement is: one expression changed, and nothing besides."""

from __future__ import annotations

import pytest
from pglast import parse_sql

from tests.mutants.operators import mutants
from tests.mutants.selection import stages
from worker.sqlfiles import query, sql_dir


@pytest.mark.parametrize(
    ("sql", "made"),
    [
        ("SELECT a <= b", ["SELECT a < b"]),
        ("SELECT a > b", ["SELECT a >= b"]),
        ("SELECT a || b", []),
        ("SELECT NOT a", ["SELECT a"]),
        ("SELECT 7", ["SELECT 8"]),
        ("SELECT true", ["SELECT false"]),
        ("SELECT a IS NULL", ["SELECT a IS NOT NULL"]),
        ("SELECT a IS NOT DISTINCT FROM b", ["SELECT a = b"]),
        ("SELECT coalesce(a, b)", ["SELECT a", "SELECT b"]),
        ("SELECT greatest(a, b)", ["SELECT LEAST(a, b)", "SELECT GREATEST(b)", "SELECT GREATEST(a)"]),
        ("SELECT CASE WHEN a THEN b ELSE c END", ["SELECT b", "SELECT CASE WHEN a THEN b END"]),
        (
            "SELECT CASE WHEN a THEN b WHEN c THEN d END",
            ["SELECT CASE WHEN c THEN d END", "SELECT b", "SELECT CASE WHEN a THEN b END", "SELECT d"],
        ),
        ("SELECT FROM t WHERE a AND b AND c", ["SELECT FROM t WHERE b AND c", "SELECT FROM t WHERE a AND c",
                                               "SELECT FROM t WHERE a AND b"]),
        ("SELECT FROM t WHERE a OR b", ["SELECT FROM t WHERE b", "SELECT FROM t WHERE a"]),
        ("SELECT FROM t WHERE a", ["SELECT FROM t"]),
        ("SELECT FROM t ORDER BY a DESC", ["SELECT FROM t", "SELECT FROM t ORDER BY a ASC"]),
        ("SELECT FROM t LIMIT a", ["SELECT FROM t"]),
        ("SELECT DISTINCT a FROM t", ["SELECT a FROM t"]),
        ("SELECT FROM t FOR UPDATE", ["SELECT FROM t"]),
        ("SELECT FROM t FOR UPDATE SKIP LOCKED", ["SELECT FROM t", "SELECT FROM t FOR UPDATE"]),
        ("SELECT a UNION ALL SELECT b", ["SELECT a", "SELECT b"]),
        ("UPDATE t SET a = b, c = d", ["UPDATE t SET c = d", "UPDATE t SET a = b"]),
        ("DELETE FROM t WHERE a", ["DELETE FROM t"]),
        ("WITH x AS (DELETE FROM t), y AS (SELECT a) SELECT b", ["WITH y AS (SELECT a) SELECT b"]),
    ],
)  # fmt: skip
def test_each_changes_one_expression(sql: str, made: list[str]) -> None:
    """In the order in which the statement says them; what says the same is none."""
    assert [parse_sql(mutant.sql) for mutant in mutants(sql)] == [parse_sql(one) for one in made]


@pytest.mark.parametrize("statement", ["take_in", "take_slot"])
def test_of_each_statement_there_are_many_and_no_two_are_the_same(statement: str) -> None:
    """Nor is any of them the statement itself."""
    made = mutants(query(statement))
    texts = {mutant.sql for mutant in made}
    assert len(made) > 30
    assert len(texts) == len(made)
    assert all(parse_sql(text) != parse_sql(query(statement)) for text in texts)


def test_the_tests_that_look_for_them_are_there() -> None:
    """Whoever renames one hears of it."""
    for path in (argument for stage in stages() for argument in stage):
        assert (sql_dir().parent / path).is_file(), path
