"""A census of a million lines takes no more memory than one of ten thousand."""

from __future__ import annotations

import asyncio
import sys

import pytest

COUNT = """
import asyncio, pathlib, re, sys, time
from tests.support.madeup import row
from worker.backfill.census import Census

async def main(lines):
    spent_s = 0.0
    with Census(most_folded=1000) as census:
        for start in range(0, lines, 5000):
            numbers = range(start, start + 5000)
            batch = [row(line, f"app_{line // 3}", {"note": None, "room_id": line}) for line in numbers]
            began = time.process_time()
            census.add(batch)
            spent_s += time.process_time() - began
        began = time.process_time()
        counted = await census.counted(duplicates=5)
        spent_s += time.process_time() - began
    assert counted.lines == lines and counted.appointments == lines // 3 + 1
    status = pathlib.Path("/proc/self/status").read_text()  # what getrusage says begins with the parent's
    print(int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1]) // 1024, spent_s)

asyncio.run(main(int(sys.argv[1])))
"""


async def peak(lines: int) -> tuple[int, float]:
    """The most memory that a process takes that counts so many lines, in MB, and the seconds of a core for counting."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", COUNT, str(lines)), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    megabytes, spent_s = out.split()
    return int(megabytes), float(spent_s)


@pytest.mark.long
async def test_memory_stays_flat() -> None:
    """What is held grows by what is kept before it is written to disk, and by nothing else."""
    few, _ = await peak(10_000)
    many, spent_s = await peak(1_000_000)
    print(f"{few} MB for 10,000 lines, {many} MB for 1,000,000; counting these took {spent_s:.1f} s of a core")
    assert many - few < 30
