"""When faults are due: their names, a schedule of them, and chance that depends on nothing but a seed."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from kalshilab.errors import ExchangeError

__all__ = ["FAULTS", "Fault", "Occurrences", "fault_names", "known", "random_schedule"]

FAULTS: Final[dict[str, str]] = {
    "disconnect": "The WebSocket connection dies between two frames, without a closing handshake.",
    "half_open": "The WebSocket stays open and says nothing more: no frame, no ping, no answer to a ping.",
    "slow_consumer": "A subscription ends with error 25, buffer overflow, and sends nothing more.",
    "drop_frames": "One to three frames in a row never come; where frames are numbered, numbers are missing.",
    "duplicate_frames": "A frame comes twice, with the same number.",
    "reorder_frames": "A frame comes after the one that follows it.",
    "sequence_gap": "The numbers of a subscription jump ahead, although nothing was lost.",
    "malformed_frame": "A frame comes cut in half: it is not JSON.",
    "answer_lost_before": "A write never reaches the exchange and the connection dies without an answer.",
    "answer_lost_after": "A write is carried out and the connection dies before the answer.",
    "storm_429": "For a while every request is answered 429.",
    "error_5xx_before": "A write is answered 503 and was not carried out.",
    "error_5xx_after": "A write is answered 503 and was carried out all the same.",
    "stale_reads": "For a while after a cancel, reads of orders show them as they were before it.",
    "clock_skew": "For a while the exchange's clock is wrong: signatures are answered 401, expired.",
    "exchange_pause": "For a while the exchange is paused: no orders and no cancels.",
    "trading_pause": "For a while trading is paused: no orders; cancels pass.",
    "delayed_fills": "For a while news of the account (fills, orders, positions) is late on the WebSocket.",
    "close_in_flight": "A market closes while an order for it is under way.",
}
"""Each fault's name, and in a sentence what a client sees of it."""


def fault_names(text: str) -> tuple[str, ...]:
    """The names in a comma-separated list.

    >>> fault_names("disconnect, storm_429")
    ('disconnect', 'storm_429')

    Raises:
        ExchangeError: an unknown name; the sentence lists the known ones.
    """
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    known(names)
    return names


def known(names: Iterable[str]) -> None:
    """Nothing, if all of these are faults.

    Raises:
        ExchangeError: one is not; the sentence lists those there are.
    """
    for name in names:
        if name not in FAULTS:
            raise ExchangeError(f"no fault is called {name!r}; there are: {', '.join(FAULTS)}")


class Fault(NamedTuple):
    """A fault at an instant, in microseconds.

    In a schedule `at` counts from the first moment of the exchange; in `Faults.struck` it is exchange time.
    `length` is how long it lasts, in microseconds of exchange time, where it lasts.
    """

    at: int
    name: str
    length: int = 10_000_000


def random_schedule(
    seed: int, n: int, *, names: Sequence[str] = tuple(FAULTS), over: int = 3_600_000_000
) -> tuple[Fault, ...]:
    """`n` faults at instants drawn evenly from `over` microseconds of exchange time; the same for the same seed.

    >>> random_schedule(7, 2) == random_schedule(7, 3)[:2]
    False
    >>> random_schedule(7, 2) == random_schedule(7, 2)
    True

    Raises:
        ExchangeError: an unknown name, or nothing to draw from.
    """
    known(names)
    if not names or over <= 0 or n < 0:
        raise ExchangeError(f"{n} faults of {len(names)} names over {over} microseconds cannot be drawn")
    draw = random.Random(f"schedule {seed}")
    made = [
        Fault(draw.randrange(over), draw.choice(names), draw.randrange(1_000_000, 30_000_000))
        for _ in range(n)
    ]
    return tuple(sorted(made))


class Occurrences:
    """One fault by name: when it is due next, and until when it lasts.

    Args:
        every, length: mean microseconds of exchange time between two of them, and that one lasts.
        listed: where given, these and no others.

    Attributes:
        draw: the chance of this name alone.
        until, left: the exchange time at which one that lasts ends, and how often it may still strike.
    """

    __slots__ = ("_every", "_length", "_listed", "_next", "draw", "left", "until")

    def __init__(self, name: str, seed: int, every: int, length: int, listed: Sequence[Fault] | None) -> None:
        self.draw = random.Random(f"{seed} {name}")
        self._every, self._length = every, length
        self._listed: Iterator[Fault] | None = None if listed is None else iter(sorted(listed))
        self.until, self.left = 0, 0
        self._next: Fault | None = None

    def begin(self, now: int, name: str) -> None:
        """Count from `now`."""
        if self._listed is not None:
            self._listed = iter([fault._replace(at=fault.at + now) for fault in self._listed])
        self._after(now, name)

    def _after(self, now: int, name: str) -> None:
        if self._listed is not None:
            self._next = next(self._listed, None)
            return
        gap = round(self.draw.expovariate(1) * self._every)
        self._next = Fault(now + gap, name, round(self.draw.uniform(0.5, 1.5) * self._length))

    def due(self, now: int) -> Fault | None:
        """The fault that strikes now, if one does; it will not strike again."""
        fault = self._next
        if fault is None or fault.at > now:
            return None
        self._after(now, fault.name)
        return fault
