"""Names of staged segments, and what they claim.

A download and a recorder put prints into a lake in two steps: a **segment** is staged, whole or not at all,
and later segments are committed.  Between the two a process may be killed, and the next one must know what
the segments it finds hold.  So the name says it: `KIND-SINCE-UNTIL-TAG`, instants in microseconds, and a
segment of the kinds in `CLAIMING` *claims* [SINCE, UNTIL): every public print of every market at those
instants is in it or already in the lake.  Claims become the lake's `covered` at the commit, in one swap with
the prints themselves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, ParamSpec, TypeVar

from kalshilab.tape.lake.intervals import Span, merge
from kalshilab.tape.lake.lake import Lake
from kalshilab.tape.lake.merge import Appended

__all__ = ["CLAIMING", "Segment", "commit_segments", "in_thread", "segments"]

P = ParamSpec("P")
R = TypeVar("R")
CLAIMING: Final = ("download", "record")
"""Kinds of segment that claim their stretch of time; the prints of a few series alone claim nothing."""


class Segment(NamedTuple):
    """A staged segment by its name.

    >>> Segment("download", 0, 5).name, Segment.parse("record-5-9-a7")
    ('download-0-5', Segment(kind='record', since=5, until=9, tag='a7'))
    >>> Segment.parse("import-2026") is None
    True
    """

    kind: str
    since: int
    until: int
    tag: str = ""

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.since}-{self.until}" + (f"-{self.tag}" if self.tag else "")

    @property
    def claim(self) -> tuple[Span, ...]:
        """What it claims: one stretch, or nothing."""
        return ((self.since, self.until),) if self.kind in CLAIMING and self.since < self.until else ()

    @classmethod
    def parse(cls, name: str) -> Segment | None:
        """From a name; None for a segment that somebody else staged."""
        kind, *rest = name.split("-", 3)
        if (
            kind not in (*CLAIMING, "series")
            or len(rest) < 2
            or not (rest[0].isdigit() and rest[1].isdigit())
        ):
            return None
        return cls(kind, int(rest[0]), int(rest[1]), rest[2] if len(rest) > 2 else "")


def segments(lake: Lake, *kinds: str) -> list[Segment]:
    """The staged segments of these kinds."""
    found = (Segment.parse(name) for name in lake.staged())
    return [s for s in found if s is not None and s.kind in kinds]


def commit_segments(lake: Lake, chosen: Sequence[Segment]) -> Appended | None:
    """Commit segments with what they claim; None when there are none.

    Prints that the lake has of an archive without trade ids are matched (`Lake.commit`), and come once.
    """
    if not chosen:
        return None
    return lake.commit(
        [s.name for s in chosen], covered=merge(c for s in chosen for c in s.claim), match=True
    )


async def in_thread(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call a function that writes in another thread; a cancelled caller still waits until it has returned."""
    call = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(call)
    except asyncio.CancelledError:
        # Half a write would go on behind the back of whoever opens the lake next.
        await asyncio.wait([call])
        raise
