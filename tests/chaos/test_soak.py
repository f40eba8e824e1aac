"""The soak: a bounded run of it, what it says, and what it makes of its arguments."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.seeds import seed_of_this_run
from tests.chaos.soak.flatness import Verdict, judge
from tests.chaos.soak.plan import Plan
from tests.chaos.soak.samples import MEMORY, RELATION, Quantity, table
from tests.chaos.soak.soaking import Soaked, main, soak


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_a_minute_at_a_steady_load(cluster: Path) -> None:
    """Nothing grows, everything is drained, no 429, and both services end as asked."""
    done = await soak(Plan(minutes=1.0, seed=seed_of_this_run()), cluster)
    print(done.report())
    assert done.wrong == []
    assert done.flat


@pytest.mark.parametrize(
    "argument",
    ["--minutes=0", "--minutes=-1", "--minutes=nan", "--minutes=inf", "--minutes=long", "--seed=x", "--seed=-1"],
)
def test_a_wrong_argument_is_told(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, and a line that names the argument and says what it may be."""
    with pytest.raises(SystemExit) as ended:
        main([argument])
    assert ended.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    name, _, value = argument.partition("=")
    assert f"argument {name}: {value!r} is not a" in line


def test_help_says_what_the_exit_code_means(capsys: pytest.CaptureFixture[str]) -> None:
    """--help tells how long it takes by itself, and what 0, 1 and 2 mean."""
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "how long (5" in said
    assert "exit codes: 0 all flat; 1 something grew" in said


def _verdict(growth: float) -> Verdict:
    return judge([(float(nth), 50 + growth * nth) for nth in range(100)], MEMORY)


def test_the_table_names_what_grew() -> None:
    """A row for each quantity, and below the table a line for each that grew; what is small is only counted."""
    flat, grown = Quantity("service 1: memory", "MB", MEMORY), Quantity("service 2: memory", "MB", MEMORY)
    small = Quantity("table worker", "MB", RELATION)
    tiny = judge([(float(nth), 0.01) for nth in range(100)], RELATION)
    lines = table({flat: _verdict(0), grown: _verdict(1), small: tiny}).splitlines()
    assert "| service 1: memory, MB | 50.00 | 50.00 | 50.00 | grow by 6 | flat |" in lines
    assert any(line.startswith("| service 2: memory, MB |") and line.endswith("| **no** |") for line in lines)
    assert not any("table worker" in line for line in lines)
    assert [line for line in lines if line.startswith("GREW")] == [
        "GREW: service 2: memory: grew by 49.5 in half a run"
    ]


def test_a_soak_is_flat_when_nothing_grew() -> None:
    """One quantity that grew is enough for it not to be; rules that did not hold are lines of the report."""
    one = Quantity("service 1: memory", "MB", MEMORY)
    assert Soaked({one: _verdict(0)}, [], "told").flat
    assert not Soaked({one: _verdict(1)}, [], "told").flat
    assert "WRONG: audit: 2 answers of 429" in Soaked({}, ["audit: 2 answers of 429"], "told").report()
