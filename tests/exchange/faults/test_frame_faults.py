"""Frames in, frames out: each fault of a connection, without a socket."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from kalshilab.exchange import Exchange
from kalshilab.exchange.faults.faults import FAULTS, Fault, Faults
from kalshilab.exchange.faults.frame_faults import FrameEvent, FrameFaults
from kalshilab.tape import sample


def opened() -> Exchange:
    """Return an exchange whose first market is active."""
    exchange = Exchange(*sample())
    while exchange.prints_played < 3:
        exchange.step()
    return exchange


def once(name: str, at_us: int = 0, length_us: int = 10_000_000) -> Faults:
    return Faults(schedule=[Fault(at_us, name, length_us)])


def frame(n: int, sid: int = 1, kind: str = "trade") -> bytes:
    return b'{"type":"%b","sid":%d,"seq":%d,"msg":{"n":%d}}' % (kind.encode(), sid, n, n)


def passed(name: str, n: int = 6) -> list[bytes | FrameEvent]:
    """Return the frames delivered after `n` frames were sent while this fault struck once."""
    faults = once(name)
    faults.attach(opened())
    return FrameFaults(faults, 0).frames([frame(i) for i in range(1, n + 1)], 0)


def test_frames_pass_unchanged_while_no_fault_is_due() -> None:
    exchange = opened()
    quiet = Faults([*FAULTS], every_us=10**15)
    quiet.attach(exchange)
    frames = [frame(i) for i in range(100)]
    assert FrameFaults(quiet, 0).frames(frames, exchange.now) == frames


def test_each_fault_changes_the_frames_as_documented() -> None:
    frames = [frame(i) for i in range(1, 7)]
    assert passed("disconnect") == [FrameEvent.DISCONNECT]
    assert passed("half_open") == [FrameEvent.HALF_OPEN]
    assert passed("duplicate_frames") == [frames[0], *frames]
    assert passed("reorder_frames") == [frames[1], frames[0], *frames[2:]]
    assert passed("malformed_frame") == [frames[0][: len(frames[0]) // 2], *frames[1:]]
    dropped = passed("drop_frames")
    assert 3 <= len(dropped) <= 5 and dropped == frames[-len(dropped) :]
    (overflow,) = passed("slow_consumer")
    assert json.loads(overflow)["msg"] == {"code": 25, "msg": "Buffer overflow"}
    ahead = [json.loads(f) for f in passed("sequence_gap")]
    jump = ahead[0]["seq"] - 1
    assert jump > 0 and [f["seq"] for f in ahead] == [i + jump for i in range(1, 7)]
    assert [f["msg"]["n"] for f in ahead] == [1, 2, 3, 4, 5, 6]


def test_acknowledgements_pass_unchanged() -> None:
    faults = Faults([n for n in FAULTS if "frame" in n or n in ("disconnect", "half_open")], every_us=0)
    faults.attach(opened())
    acks = [b'{"id":1,"type":"subscribed","sid":1,"seq":1,"msg":{}}', b'{"id":2,"type":"error"}']
    assert FrameFaults(faults, 0).frames(acks, 0) == acks


def test_delayed_account_messages_keep_their_order() -> None:
    exchange = opened()
    faults = once("delayed_fills", length_us=1000)
    faults.attach(exchange)
    connection = FrameFaults(faults, 0)
    fills = [b'{"type":"fill","sid":2,"msg":{"n":%d}}' % n for n in range(3)]
    assert connection.frames([fills[0], frame(1), fills[1]], exchange.now) == [frame(1)]
    assert connection.due(exchange.now + 999) == []
    exchange.now += 1000
    assert connection.frames([fills[2]], exchange.now) == fills
    assert connection.finish() == []


@given(st.integers(0, 2**32), st.lists(st.integers(0, 30), max_size=40))
def test_the_faults_do_not_depend_on_how_frames_are_grouped(seed: int, cuts: list[int]) -> None:
    frames = [frame(i) for i in range(60)]

    def run(cuts: list[int]) -> list[bytes | FrameEvent]:
        exchange = opened_once()
        faults = Faults(
            ["drop_frames", "duplicate_frames", "reorder_frames", "sequence_gap"], seed, every_us=0
        )
        faults.attach(exchange)
        connection = FrameFaults(faults, 0)
        out, at = [], 0
        for cut in [*cuts, len(frames)]:
            out += connection.frames(frames[at : at + cut], exchange.now)
            at += cut
        return out + connection.finish()

    assert run(cuts) == run([])


_OPENED: list[Exchange] = []


def opened_once() -> Exchange:
    if not _OPENED:
        _OPENED.append(opened())
    return _OPENED[0]
