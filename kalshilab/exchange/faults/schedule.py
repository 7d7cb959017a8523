"""Fault schedules: the names of faults, and the times at which they strike, drawn from a seed alone."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from kalshilab.deprecation import renamed_keywords
from kalshilab.errors import ExchangeError

__all__ = ["FAULTS", "Fault", "Occurrences", "check_names", "fault_names", "random_schedule"]

FAULTS: Final[dict[str, str]] = {
    "disconnect": "The WebSocket connection dies between two frames, without a closing handshake.",
    "half_open": "The WebSocket stays open but falls silent: no frames, no pings, no answers to pings.",
    "slow_consumer": "A subscription ends with error 25, buffer overflow, and sends nothing more.",
    "drop_frames": "One to three consecutive frames are lost; sequence numbers, where present, show the gap.",
    "duplicate_frames": "A frame arrives twice, with the same sequence number.",
    "reorder_frames": "A frame arrives after its successor.",
    "sequence_gap": "The sequence numbers of a subscription jump ahead, although no frame was lost.",
    "malformed_frame": "A frame arrives cut in half, so it is not valid JSON.",
    "answer_lost_before": "A write never reaches the exchange and the connection dies without an answer.",
    "answer_lost_after": "A write is carried out and the connection dies before the answer.",
    "storm_429": "For a while every request is answered 429.",
    "error_5xx_before": "A write is answered 503 and was not carried out.",
    "error_5xx_after": "A write is answered 503 but was carried out.",
    "stale_reads": "For a while after a cancel, reads of orders show their state before the cancel.",
    "clock_skew": "For a while the exchange's clock is wrong: signatures are answered 401, expired.",
    "exchange_pause": "For a while the exchange is paused: orders and cancels are rejected.",
    "trading_pause": "For a while trading is paused: orders are rejected, cancels pass.",
    "delayed_fills": "For a while account messages (fills, orders, positions) arrive late on the WebSocket.",
    "close_in_flight": "A market closes while an order for it is in flight.",
}
"""The effect of each fault on a client, one sentence per fault name."""


def fault_names(text: str) -> tuple[str, ...]:
    """Return the fault names in a comma-separated list.

    >>> fault_names("disconnect, storm_429")
    ('disconnect', 'storm_429')

    Raises:
        ExchangeError: a name is unknown; the message lists the known ones.
    """
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    check_names(names)
    return names


def check_names(names: Iterable[str]) -> None:
    """Check that every name is a fault.

    Raises:
        ExchangeError: a name is unknown; the message lists the known ones.
    """
    for name in names:
        if name not in FAULTS:
            raise ExchangeError(f"unknown fault {name!r}; choose from {', '.join(FAULTS)}")


class _FaultFields(NamedTuple):
    at_us: int
    name: str
    length_us: int = 10_000_000


class Fault(_FaultFields):
    """A fault at an instant.

    Args:
        at_us: microseconds; in a schedule they count from the exchange's present when the faults are attached,
            in `Faults.struck` they are exchange time.
        name: a key of `FAULTS`.
        length_us: duration of a lasting fault, in microseconds of exchange time.
    """

    __slots__ = ()

    @renamed_keywords(at="at_us", length="length_us")
    def __new__(cls, at_us: int, name: str, length_us: int = 10_000_000) -> Fault:
        return super().__new__(cls, at_us, name, length_us)

    @property
    def at(self) -> int:
        """Deprecated name of `at_us`."""
        warnings.warn("Fault.at is now Fault.at_us", DeprecationWarning, stacklevel=2)
        return self.at_us

    @property
    def length(self) -> int:
        """Deprecated name of `length_us`."""
        warnings.warn("Fault.length is now Fault.length_us", DeprecationWarning, stacklevel=2)
        return self.length_us


@renamed_keywords(over="over_us")
def random_schedule(
    seed: int, n: int, *, names: Sequence[str] = tuple(FAULTS), over_us: int = 3_600_000_000
) -> tuple[Fault, ...]:
    """Draw a schedule of faults at uniformly distributed instants; the same seed gives the same schedule.

    Args:
        seed: the only source of randomness.
        n: number of faults.
        names: faults to draw from, with replacement.
        over_us: length of the schedule, in microseconds of exchange time.

    >>> random_schedule(7, 2) == random_schedule(7, 3)[:2]
    False
    >>> random_schedule(7, 2) == random_schedule(7, 2)
    True

    Raises:
        ExchangeError: an argument is out of range, or a name is unknown.
    """
    check_names(names)
    if n < 0:
        raise ExchangeError(f"n must be >= 0, got {n}")
    if over_us <= 0:
        raise ExchangeError(f"over_us must be > 0, got {over_us}")
    if not names:
        raise ExchangeError(f"names must hold at least one fault, got {tuple(names)}")
    draw = random.Random(f"schedule {seed}")
    faults = [
        Fault(draw.randrange(over_us), draw.choice(names), draw.randrange(1_000_000, 30_000_000))
        for _ in range(n)
    ]
    return tuple(sorted(faults))


class Occurrences:
    """The times at which one named fault strikes, and the end of the current one if it lasts.

    Args:
        name: a key of `FAULTS`.
        seed: source of randomness, combined with the name.
        every_us: mean microseconds of exchange time between two strikes.
        length_us: mean duration of a strike, in microseconds of exchange time.
        listed: a fixed schedule to use instead of random times; None means random times.

    Attributes:
        draw: the random generator of this name alone.
        until: exchange time at which the current lasting fault ends.
        left: the number of requests the current lasting fault may still affect.
    """

    __slots__ = ("_every_us", "_length_us", "_listed", "_next", "draw", "left", "until")

    def __init__(
        self, name: str, seed: int, every_us: int, length_us: int, listed: Sequence[Fault] | None
    ) -> None:
        self.draw = random.Random(f"{seed} {name}")
        self._every_us, self._length_us = every_us, length_us
        self._listed: Iterator[Fault] | None = None if listed is None else iter(sorted(listed))
        self.until, self.left = 0, 0
        self._next: Fault | None = None

    def begin(self, now: int, name: str) -> None:
        """Start counting from exchange time `now`."""
        if self._listed is not None:
            self._listed = iter([fault._replace(at_us=fault.at_us + now) for fault in self._listed])
        self._schedule_next(now, name)

    def _schedule_next(self, now: int, name: str) -> None:
        if self._listed is not None:
            self._next = next(self._listed, None)
            return
        gap_us = round(self.draw.expovariate(1) * self._every_us)
        self._next = Fault(now + gap_us, name, round(self.draw.uniform(0.5, 1.5) * self._length_us))

    def due(self, now: int) -> Fault | None:
        """Return the fault that strikes at exchange time `now` and schedule its successor; None if it is early."""
        fault = self._next
        if fault is None or fault.at_us > now:
            return None
        self._schedule_next(now, fault.name)
        return fault
