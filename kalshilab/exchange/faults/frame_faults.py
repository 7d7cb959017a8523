"""Faults on the frames of one WebSocket connection.

Frames enter as the exchange makes them, in exchange time, and leave as the client gets them: dropped, duplicated,
reordered, delayed or damaged. A `FrameEvent` among them instructs the owner of the socket to kill or silence it.
Acknowledgements and errors pass unchanged.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from enum import Enum
from typing import Final

import msgspec

from kalshilab.exchange.faults.faults import Faults

__all__ = ["FrameEvent", "FrameFaults"]

_HEAD: Final = re.compile(rb'\{"type":"(\w+)","sid":(\d+)(?:,"seq":(\d+))?,')
PRIVATE: Final = frozenset((b"fill", b"user_order", b"market_position"))
"""Message types about the account, which `delayed_fills` holds back."""
DROP_LENGTHS: Final = (1, 3)
"""Range from which the number of consecutive dropped frames is drawn."""
GAP_SIZES: Final = (1, 99)
"""Range from which the jump of a sequence gap is drawn."""
OVERFLOW_CODE: Final = 25


class FrameEvent(Enum):
    """A change of the socket's state, in place of a frame."""

    DISCONNECT = "the connection dies"
    HALF_OPEN = "the connection falls silent and stays open"


class FrameFaults:
    """The faults of one connection.

    Args:
        faults: the faults of the exchange, which decide when one strikes.
        number: number of the connection, counted from 0; it seeds the connection's own random generator.
    """

    def __init__(self, faults: Faults, number: int) -> None:
        self._faults = faults
        self._draw = random.Random(f"{faults.seed} connection {number}")
        self._dead = False
        self._drops_left = 0
        self._overtaken: list[bytes] = []
        self._seq_jumps: dict[bytes, int] = {}
        self._ended_sids: set[bytes] = set()
        self._delayed: list[tuple[int, bytes]] = []
        self._delay_until = 0

    def frames(self, frames: Iterable[bytes], now: int) -> list[bytes | FrameEvent]:
        """Return what the client gets for frames made at exchange time `now`, after delayed frames that are due."""
        out: list[bytes | FrameEvent] = list(self.due(now))
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
        """Return the delayed account messages whose delay has ended at exchange time `now`."""
        if not self._delayed or self._dead:
            return []
        ready = [frame for at, frame in self._delayed if at <= now]
        del self._delayed[: len(ready)]
        return ready

    def finish(self) -> list[bytes]:
        """Return all delayed and reordered frames at the end of the tape."""
        rest = [frame for _, frame in self._delayed] + self._overtaken
        self._delayed, self._overtaken = [], []
        return [] if self._dead else rest

    def _data(self, frame: bytes, head: re.Match[bytes], now: int, out: list[bytes | FrameEvent]) -> None:
        kind, sid, seq = head.groups()
        strikes = self._faults.strikes
        if sid in self._ended_sids:
            return
        for name, event in (("disconnect", FrameEvent.DISCONNECT), ("half_open", FrameEvent.HALF_OPEN)):
            if strikes(name) is not None:
                self._dead = True
                out.append(event)
                return
        if self._delay(frame, kind, now):
            return
        if seq is not None:
            if strikes("sequence_gap") is not None:
                self._seq_jumps[sid] = self._seq_jumps.get(sid, 0) + self._draw.randint(*GAP_SIZES)
            jump = self._seq_jumps.get(sid)
            if jump:
                start, end = head.span(3)
                frame = b"%b%d%b" % (frame[:start], int(seq) + jump, frame[end:])
        if strikes("slow_consumer") is not None:
            self._ended_sids.add(sid)
            out.append(_overflow(sid, None if seq is None else int(seq) + self._seq_jumps.get(sid, 0), now))
            return
        if self._drops_left or strikes("drop_frames") is not None:
            self._drops_left = (self._drops_left or self._draw.randint(*DROP_LENGTHS)) - 1
            return
        if not self._overtaken and strikes("reorder_frames") is not None:
            self._overtaken.append(frame)
            return
        if strikes("malformed_frame") is not None:
            frame = frame[: len(frame) // 2]
        out.append(frame)
        if strikes("duplicate_frames") is not None:
            out.append(frame)
        if self._overtaken:
            out += self._overtaken
            self._overtaken = []

    def _delay(self, frame: bytes, kind: bytes, now: int) -> bool:
        """Hold an account message back while `delayed_fills` lasts; later messages never overtake it."""
        if kind not in PRIVATE:
            return False
        fault = self._faults.strikes("delayed_fills") if now >= self._delay_until else None
        if fault is not None:
            self._delay_until = now + max(fault.length_us, 1)
        if now < self._delay_until or self._delayed:
            self._delayed.append((self._delay_until, frame))
            return True
        return False


def _overflow(sid: bytes, seq: int | None, now: int) -> bytes:
    """Return the error frame that ends a subscription of a client that reads too slowly."""
    number = {} if seq is None else {"seq": seq}
    msg = {"code": OVERFLOW_CODE, "msg": "Buffer overflow"}
    sent = {"sending_ts_ms": now // 1000, "msg": msg}
    return msgspec.json.encode({"id": 0, "type": "error", "sid": int(sid), **number, **sent})
