"""What can go wrong with the frames of one WebSocket connection.

Frames go in as the exchange makes them, in exchange time, and come out as the client is to get them: fewer,
more, in another order, late, damaged; or with an `Event` in their place, which tells the holder of the socket
what to do to it.  Acknowledgements and errors pass untouched.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from enum import Enum
from typing import Final

import msgspec

from kalshilab.exchange.faults.faults import Faults

__all__ = ["Event", "FrameFaults"]

_HEAD: Final = re.compile(rb'\{"type":"(\w+)","sid":(\d+)(?:,"seq":(\d+))?,')
PRIVATE: Final = frozenset((b"fill", b"user_order", b"market_position"))
LENGTHS: Final = (1, 3)
JUMPS: Final = (1, 99)
OVERFLOW: Final = 25


class Event(Enum):
    """What happens to the socket."""

    DISCONNECT = "the connection dies"
    HALF_OPEN = "the connection falls silent and stays open"


class FrameFaults:
    """The faults of one connection.

    Args:
        faults: what is due when.
        number: of the connection, counted from 0; it has its own chance.
    """

    def __init__(self, faults: Faults, number: int) -> None:
        self._faults = faults
        self._draw = random.Random(f"{faults.seed} connection {number}")
        self._dead = False
        self._dropping = 0
        self._late: list[bytes] = []
        self._ahead: dict[bytes, int] = {}
        self._ended: set[bytes] = set()
        self._held: list[tuple[int, bytes]] = []
        self._hold_until = 0

    def frames(self, frames: Iterable[bytes], now: int) -> list[bytes | Event]:
        """What the client gets of these frames, made at exchange time `now`; late ones that are due come first."""
        out: list[bytes | Event] = list(self.due(now))
        for frame in frames:
            if self._dead:
                break
            head = _HEAD.match(frame)
            if head is None:
                out.append(frame)
            else:
                self._data(frame, head, now, out)
        return out

    def due(self, now: int) -> list[bytes]:
        """Late news of the account whose time has come."""
        if not self._held or self._dead:
            return []
        ready = [frame for at, frame in self._held if at <= now]
        del self._held[: len(ready)]
        return ready

    def finish(self) -> list[bytes]:
        """The tape is over: whatever is late comes now."""
        rest = [frame for _, frame in self._held] + self._late
        self._held, self._late = [], []
        return [] if self._dead else rest

    def _data(self, frame: bytes, head: re.Match[bytes], now: int, out: list[bytes | Event]) -> None:
        kind, sid, seq = head.groups()
        strikes = self._faults.strikes
        if sid in self._ended:
            return
        for name, event in (("disconnect", Event.DISCONNECT), ("half_open", Event.HALF_OPEN)):
            if strikes(name) is not None:
                self._dead = True
                out.append(event)
                return
        if self._late_news(frame, kind, now):
            return
        if seq is not None:
            if strikes("sequence_gap") is not None:
                self._ahead[sid] = self._ahead.get(sid, 0) + self._draw.randint(*JUMPS)
            ahead = self._ahead.get(sid)
            if ahead:
                start, end = head.span(3)
                frame = b"%b%d%b" % (frame[:start], int(seq) + ahead, frame[end:])
        if strikes("slow_consumer") is not None:
            self._ended.add(sid)
            out.append(_overflow(sid, None if seq is None else int(seq) + self._ahead.get(sid, 0), now))
            return
        if self._dropping or strikes("drop_frames") is not None:
            self._dropping = (self._dropping or self._draw.randint(*LENGTHS)) - 1
            return
        if not self._late and strikes("reorder_frames") is not None:
            self._late.append(frame)
            return
        if strikes("malformed_frame") is not None:
            frame = frame[: len(frame) // 2]
        out.append(frame)
        if strikes("duplicate_frames") is not None:
            out.append(frame)
        if self._late:
            out += self._late
            self._late = []

    def _late_news(self, frame: bytes, kind: bytes, now: int) -> bool:
        """Hold news of the account back while it is late; what follows never overtakes it."""
        if kind not in PRIVATE:
            return False
        fault = self._faults.strikes("delayed_fills") if now >= self._hold_until else None
        if fault is not None:
            self._hold_until = now + max(fault.length, 1)
        if now < self._hold_until or self._held:
            self._held.append((self._hold_until, frame))
            return True
        return False


def _overflow(sid: bytes, seq: int | None, now: int) -> bytes:
    number = {} if seq is None else {"seq": seq}
    msg = {"code": OVERFLOW, "msg": "Buffer overflow"}
    sent = {"sending_ts_ms": now // 1000, "msg": msg}
    return msgspec.json.encode({"id": 0, "type": "error", "sid": int(sid), **number, **sent})
