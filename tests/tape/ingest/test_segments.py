"""Names of segments, and writes in another thread."""

from __future__ import annotations

import asyncio
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kalshilab.tape.ingest.segments import CLAIMING, Segment, in_thread


@given(st.sampled_from([*CLAIMING, "series"]), st.integers(0, 2**60), st.integers(0, 2**60),
       st.from_regex(r"[a-z0-9][a-z0-9-]{0,20}", fullmatch=True) | st.just(""))  # fmt: skip
def test_a_name_can_be_parsed(kind: str, since: int, until: int, tag: str) -> None:
    segment = Segment(kind, since, until, tag)
    assert Segment.parse(segment.name) == segment
    assert segment.claim == (((since, until),) if kind != "series" and since < until else ())


@pytest.mark.parametrize("name", ["", "import-1-2", "download", "download-1", "download-a-b", "series-1-x"])
def test_other_names_are_not_parsed(name: str) -> None:
    assert Segment.parse(name) is None


async def test_a_cancelled_caller_waits_for_the_write() -> None:
    started, go, done = threading.Event(), threading.Event(), threading.Event()

    def write() -> None:
        started.set()
        go.wait(60)
        done.set()

    task = asyncio.create_task(in_thread(write))
    assert await asyncio.to_thread(started.wait, 60)
    task.cancel()
    for _ in range(10):
        await asyncio.sleep(0)
    assert not task.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done.is_set()
