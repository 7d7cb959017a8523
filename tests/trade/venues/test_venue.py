"""The frames between the embedded exchange and a session: counted, and written off when a connection lost them."""

from __future__ import annotations

from kalshilab.trade.venues.venue import STALL, FrameCount


def test_frames_that_stay_missing_are_written_off_after_the_stall() -> None:
    sent = [10]
    count = FrameCount(lambda: sent[0])
    assert count.missing(7) == 3
    assert count.give_up_stalled(7, 100.0) == 0
    assert count.give_up_stalled(7, 100.0 + STALL) == 0
    assert count.give_up_stalled(7, 100.1 + STALL) == 3
    assert count.missing(7) == 0


def test_progress_restarts_the_stall() -> None:
    sent = [10]
    count = FrameCount(lambda: sent[0])
    count.give_up_stalled(7, 100.0)
    assert count.give_up_stalled(8, 104.0) == 0
    assert count.give_up_stalled(8, 104.0 + STALL) == 0


def test_frames_sent_after_a_quiet_time_are_not_written_off_at_once() -> None:
    sent = [10]
    count = FrameCount(lambda: sent[0])
    assert count.give_up_stalled(10, 100.0) == 0
    assert count.give_up_stalled(10, 200.0) == 0
    sent[0] = 12
    assert count.give_up_stalled(10, 200.1) == 0
    assert count.missing(10) == 2
