"""Frames in, frames out: each fault of a connection, without the connection."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kalshilab.exchange import Exchange
from kalshilab.exchange.faults.faults import FAULTS, Fault, Faults
from kalshilab.exchange.faults.frame_faults import Event, FrameFaults
from kalshilab.tape import sample


def opened() -> Exchange:
    """An exchange whose first market trades."""
    exchange = Exchange(*sample())
    while exchange.prints_played < 3:
        exchange.step()
    return exchange


def once(name: str, at: int = 0, length: int = 10_000_000) -> Faults:
    return Faults(schedule=[Fault(at, name, length)])


def frame(n: int, sid: int = 1, kind: str = "trade") -> bytes:
    return b'{"type":"%b","sid":%d,"seq":%d,"msg":{"n":%d}}' % (kind.encode(), sid, n, n)


def pushed(name: str, n: int = 6, **more: Any) -> list[bytes | Event]:
    faults = once(name, **more)
    faults.attach(opened())
    return FrameFaults(faults, 0).frames([frame(i) for i in range(1, n + 1)], 0)


def test_frames_pass_where_nothing_is_due() -> None:
    exchange = opened()
    quiet = Faults([*FAULTS], every=10**15)
    quiet.attach(exchange)
    frames = [frame(i) for i in range(100)]
    assert FrameFaults(quiet, 0).frames(frames, exchange.now) == frames


def test_what_becomes_of_frames() -> None:
    frames = [frame(i) for i in range(1, 7)]
    assert pushed("disconnect") == [Event.DISCONNECT]
    assert pushed("half_open") == [Event.HALF_OPEN]
    assert pushed("duplicate_frames") == [frames[0], *frames]
    assert pushed("reorder_frames") == [frames[1], frames[0], *frames[2:]]
    assert pushed("malformed_frame") == [frames[0][: len(frames[0]) // 2], *frames[1:]]
    dropped = pushed("drop_frames")
    assert 3 <= len(dropped) <= 5 and dropped == frames[-len(dropped) :]
    (overflow,) = pushed("slow_consumer")
    assert json.loads(overflow)["msg"] == {"code": 25, "msg": "Buffer overflow"}
    ahead = [json.loads(f) for f in pushed("sequence_gap")]
    jump = ahead[0]["seq"] - 1
    assert jump > 0 and [f["seq"] for f in ahead] == [i + jump for i in range(1, 7)]
    assert [f["msg"]["n"] for f in ahead] == [1, 2, 3, 4, 5, 6]


def test_acknowledgements_are_left_alone() -> None:
    faults = Faults([n for n in FAULTS if "frame" in n or n in ("disconnect", "half_open")], every=0)
    faults.attach(opened())
    acks = [b'{"id":1,"type":"subscribed","sid":1,"seq":1,"msg":{}}', b'{"id":2,"type":"error"}']
    assert FrameFaults(faults, 0).frames(acks, 0) == acks


def test_late_news_of_the_account_keeps_its_order() -> None:
    exchange = opened()
    faults = once("delayed_fills", length=1000)
    faults.attach(exchange)
    link = FrameFaults(faults, 0)
    news = [b'{"type":"fill","sid":2,"msg":{"n":%d}}' % n for n in range(3)]
    assert link.frames([news[0], frame(1), news[1]], exchange.now) == [frame(1)]
    assert link.due(exchange.now + 999) == []
    exchange.now += 1000
    assert link.frames([news[2]], exchange.now) == news
    assert link.finish() == []


@given(st.integers(0, 2**32), st.lists(st.integers(0, 30), max_size=40))
def test_same_seed_and_calls_same_frames_however_they_are_cut(seed: int, cuts: list[int]) -> None:
    frames = [frame(i) for i in range(60)]

    def run(cuts: list[int]) -> list[bytes | Event]:
        exchange = opened_once()
        faults = Faults(["drop_frames", "duplicate_frames", "reorder_frames", "sequence_gap"], seed, every=0)
        faults.attach(exchange)
        link = FrameFaults(faults, 0)
        out, at = [], 0
        for cut in [*cuts, len(frames)]:
            out += link.frames(frames[at : at + cut], exchange.now)
            at += cut
        return out + link.finish()

    assert run(cuts) == run([])


_OPENED: list[Exchange] = []


def opened_once() -> Exchange:
    if not _OPENED:
        _OPENED.append(opened())
    return _OPENED[0]
