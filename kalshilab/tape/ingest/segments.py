"""Names of staged segments, and the time that they cover.

A download or a recorder adds prints to a lake in two steps: it stages a **segment** atomically, and commits segments
later.  If it is killed in between, the next process must know what the staged segments contain.  Therefore the name
holds it: `KIND-SINCE-UNTIL-TAG`, in microseconds.  A segment of a kind in `CLAIMING` *claims* [SINCE, UNTIL): it
contains, or the lake contains, every public print of every market in that interval.  A commit adds claims to the lake's
`covered` in the same transaction as the prints.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, ParamSpec, TypeVar

from kalshilab.tape.intervals import Interval, merge
from kalshilab.tape.lake.lake import Lake
from kalshilab.tape.lake.merge import Appended

__all__ = ["CLAIMING", "Segment", "commit_segments", "in_thread", "segments"]

P = ParamSpec("P")
R = TypeVar("R")
CLAIMING: Final = ("download", "record")
"""Kinds of segment that claim their interval; prints of a few series alone claim nothing."""


class Segment(NamedTuple):
    """The name of a staged segment; `since` and `until` are microseconds.

    >>> Segment("download", 0, 5).name, Segment.parse("record-5-9-a7")
    ('download-0-5', Segment(kind='record', since=5, until=9, tag='a7'))
    >>> print(Segment.parse("import-2026"))
    None
    """

    kind: str
    since: int
    until: int
    tag: str = ""

    @property
    def name(self) -> str:
        """The name in the lake."""
        return f"{self.kind}-{self.since}-{self.until}" + (f"-{self.tag}" if self.tag else "")

    @property
    def claim(self) -> tuple[Interval, ...]:
        """The claimed interval; empty if the segment claims nothing."""
        return ((self.since, self.until),) if self.kind in CLAIMING and self.since < self.until else ()

    @classmethod
    def parse(cls, name: str) -> Segment | None:
        """Parse a name; return None for a segment that another command staged."""
        kind, *rest = name.split("-", 3)
        if (
            kind not in (*CLAIMING, "series")
            or len(rest) < 2
            or not (rest[0].isdigit() and rest[1].isdigit())
        ):
            return None
        return cls(kind, int(rest[0]), int(rest[1]), rest[2] if len(rest) > 2 else "")


def segments(lake: Lake, *kinds: str) -> list[Segment]:
    """List the staged segments of some kinds."""
    parsed = (Segment.parse(name) for name in lake.staged())
    return [s for s in parsed if s is not None and s.kind in kinds]


def commit_segments(lake: Lake, chosen: Sequence[Segment]) -> Appended | None:
    """Commit segments with their claims; return None if the list is empty.

    Prints that the lake has from an archive without trade ids are matched by content (`Lake.commit`).
    """
    if not chosen:
        return None
    return lake.commit(
        [s.name for s in chosen], covered=merge(c for s in chosen for c in s.claim), match=True
    )


async def in_thread(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call a writing function in another thread; if the caller is cancelled, wait until the function returns."""
    call = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(call)
    except asyncio.CancelledError:
        # Otherwise the write would continue after the lake has been closed or reopened.
        await asyncio.wait([call])
        raise
