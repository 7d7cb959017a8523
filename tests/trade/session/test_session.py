"""Whole sessions against the local exchange over loopback sockets."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from pathlib import Path

import polars as pl
import pytest
from made_tapes import leaning

from kalshilab.clock import WallClock
from kalshilab.config.settings import Settings
from kalshilab.errors import (
    ApiError,
    CredentialsMissing,
    FeedLost,
    HostRefused,
    JournalError,
    ProtocolError,
    SessionError,
    TapeError,
)
from kalshilab.exchange import Exchange, serve
from kalshilab.signals import rlm
from kalshilab.tape import sample
from kalshilab.trade.core.decider import Decider
from kalshilab.trade.core.states import ALLOWED
from kalshilab.trade.orders.journal import Journal
from kalshilab.trade.session.report import FRAMES, Report
from kalshilab.trade.session.session import PaperSession
from kalshilab.trade.status import read_status
from kalshilab.trade.venues import venue as venues
from kalshilab.trade.venues.venue import FrameCount

PATIENCE_S = 100
"""Seconds that a session may take to end on a busy machine."""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Write a tape of a few dozen markets as Parquet files."""
    tape, markets = leaning(30)
    folder = tmp_path_factory.mktemp("tape")
    tape.write_parquet(folder / "tape.parquet")
    markets.write_parquet(folder / "markets.parquet")
    return folder / "tape.parquet", folder / "markets.parquet"


@pytest.fixture
def quick(settings: Settings, small: tuple[Path, Path]) -> Settings:
    """Return settings that play the small tape."""
    return settings.replace(tape=str(small[0]), markets=str(small[1]))


class LeapingClock(WallClock):
    """A wall clock that a test can set forward."""

    def __init__(self) -> None:
        super().__init__()
        self.leap_s = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.leap_s


def keep_lost_frames_while_disconnected(monkeypatch: pytest.MonkeyPatch, session: PaperSession) -> None:
    """Hold the embedded tape until the session has reconnected, however long that takes.

    The venue writes off the frames of a dead connection after `STALL` wall seconds, and then plays on.  A busy machine
    may need longer to reconnect; see `test_a_market_that_settles_while_the_feed_is_down_is_paid_out`.
    """
    write_off = FrameCount.give_up_stalled

    def when_connected(count: FrameCount, received: int, now: float) -> int:
        if session.state == "ERROR":
            count._since = now
            return 0
        return write_off(count, received, now)

    monkeypatch.setattr(FrameCount, "give_up_stalled", when_connected)


async def run(settings: Settings) -> Report:
    async with PaperSession(settings) as session:
        return await session.run()


async def test_live_fires_equal_research(quick: Settings) -> None:
    report = await run(quick)
    tape = pl.read_parquet(quick.tape)
    fires = report.raw("signals")
    assert fires.unique("ticker", keep="first", maintain_order=True).equals(rlm(tape))
    assert fires.equals(rlm(tape, rearm=True)), "all fires, re-arming included"
    assert report.counts["trades"] == tape.height
    assert report.stopped == "tape ended"
    assert report.error is None
    report.check()


async def test_the_report_is_consistent_and_equals_the_run_folder(quick: Settings) -> None:
    report = await run(quick)
    counts = report.counts
    assert counts["orders"] > 0 and counts["fills"] > 0 and counts["settlements"] > 0
    assert (
        counts["orders"]
        == report.decisions.filter(pl.col("action") == "placed").height
        == report.orders.height
    )
    assert counts["fills"] == report.fills.height
    assert counts["signals"] == report.signals.height
    assert counts["settlements"] == report.settlements.height
    assert counts["account_differences"] == counts["left_resting"] == 0
    assert not (report.orders["status"] == "resting").any()
    filled = report.fills.group_by("order_id").agg(pl.col("size").sum().alias("matched"))
    joined = report.orders.join(filled, on="order_id", how="left").with_columns(
        pl.col("matched").fill_null(0.0)
    )
    assert (joined["filled"] - joined["matched"]).abs().max() < 1e-9
    assert report.equity["equity"][-1] - report.equity["equity"][0] == pytest.approx(
        counts["pnl_cents"] / 100, abs=0.01
    )
    again = Report.load(report.run_dir)
    assert again.counts == counts
    for name in FRAMES:
        assert getattr(again, name).equals(getattr(report, name)), name
        assert again.raw(name).equals(report.raw(name)), name
    status = read_status(report.run_dir / "status.json")
    assert status is not None and status.finished and status.state == "SHUTDOWN"
    with Journal.open(report.journal) as journal:
        intents = [i.client_order_id for i in journal.values("intent")]
        outcomes = [o.client_order_id for o in journal.values("outcome")]
    assert intents == outcomes, "every intent has exactly one outcome"
    steps = report.transitions.select("source", "target").rows()
    assert all(target in ALLOWED[source] for source, target in steps)
    assert steps[-1][1] == "SHUTDOWN"
    summary = dict(report.summary().rows())
    assert summary["orders"] == str(counts["orders"])


async def test_two_runs_of_one_tape_are_equal(quick: Settings) -> None:
    one, two = await run(quick), await run(quick)
    assert one.run_dir != two.run_dir
    for name in ("signals", "fills", "settlements"):
        left, right = (getattr(r, name) for r in (one, two))
        drop = [c for c in ("client_order_id",) if c in left.columns]
        assert left.drop(drop).equals(right.drop(drop)), name


async def test_the_fast_transport_gives_the_same_trades(quick: Settings) -> None:
    plain, fast = await run(quick), await run(quick.replace(fast=True))
    for name in ("orders", "fills", "decisions", "signals"):
        assert getattr(fast, name).drop("order_id", strict=False).height == getattr(plain, name).height
    assert fast.signals.equals(plain.signals) and fast.counts["pnl_cents"] == plain.counts["pnl_cents"]


async def test_the_strategy_hold_places_no_order(quick: Settings) -> None:
    report = await run(quick.replace(strategy="hold"))
    assert (report.counts["signals"], report.counts["orders"], report.counts["pnl_cents"]) == (0, 0, 0)
    assert report.counts["trades"] > 0


async def test_trades_of_other_categories_are_filtered(quick: Settings) -> None:
    report = await run(quick.replace(categories="weather"))
    assert report.counts["filtered"] == report.counts["trades"] > 0
    assert report.counts["tracked"] == report.counts["signals"] == 0


async def test_limits_refuse_or_defer_orders(quick: Settings) -> None:
    report = await run(quick.replace(max_concurrent=1, min_cash=0))
    assert report.counts["orders"] >= 1
    assert "concurrent" in report.decisions["reason"].to_list()
    poor = await run(quick.replace(balance=100, min_cash=99.99, contracts=10))
    assert poor.counts["low_cash"] > 0
    slow = await run(quick.replace(attempts_per_minute=0.01))
    assert slow.counts["rate_limited"] > 0
    assert {"deferred", "expired"} <= set(slow.decisions["action"])
    deferred = slow.decisions.filter(pl.col("action") == "deferred").height
    resolved = slow.decisions.filter(pl.col("action").is_in(["expired", "placed"])).height
    assert resolved >= deferred, "no fire waits for ever"
    again = await run(quick.replace(attempts_per_minute=0.01))
    drop = ["client_order_id", "order_id"]
    assert again.decisions.drop(drop).equals(slow.decisions.drop(drop)), (
        "decisions do not depend on the speed of the machine"
    )


@pytest.mark.parametrize("how", ["thread", "file", "minutes", "cancel"])
async def test_every_way_to_stop_is_clean(
    quick: Settings, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = LeapingClock()
    monkeypatch.setattr("kalshilab.trade.session.session.WallClock", lambda: clock)
    settings = quick.replace(
        speed=20_000.0, stop_file=str(tmp_path / "stop"), minutes=100.0 if how == "minutes" else None
    )
    async with PaperSession(settings) as session:
        task = asyncio.ensure_future(session.run())
        while session.snapshot().counts["trades"] < 20:
            await asyncio.sleep(0.05)
        if how == "thread":
            threading.Thread(target=session.request_stop, args=("stop button",)).start()
        elif how == "file":
            (tmp_path / "stop").write_text("SIGTERM")
        elif how == "cancel":
            task.cancel()
        else:
            clock.leap_s = 6_000.0
        report = await asyncio.wait_for(task, PATIENCE_S)
    reasons = {
        "thread": "stop button",
        "file": "SIGTERM",
        "minutes": "100 minutes are up",
        "cancel": "interrupted",
    }
    assert report.stopped == reasons[how]
    assert report.state == "SHUTDOWN"
    assert report.counts["left_resting"] == 0
    assert report.counts["account_differences"] == 0
    assert not (report.orders["status"] == "resting").any()
    assert 0 < report.counts["trades"] < pl.read_parquet(settings.tape).height


async def test_a_second_cancellation_skips_the_clean_end(
    quick: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with PaperSession(quick.replace(speed=20_000.0)) as session:
        task = asyncio.ensure_future(session.run())
        while session.snapshot().counts["trades"] < 5:
            await asyncio.sleep(0.05)

        async def hang(**_: object) -> list[object]:
            await asyncio.sleep(10 * PATIENCE_S)
            return []

        monkeypatch.setattr(session._orders, "positions", hang)
        task.cancel()
        await asyncio.sleep(0.2)
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, PATIENCE_S)


async def test_a_lost_connection_is_restored_and_no_fill_is_missed(
    quick: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with PaperSession(quick.replace(speed=100_000.0)) as session:
        keep_lost_frames_while_disconnected(monkeypatch, session)
        task = asyncio.ensure_future(session.run())
        while session.snapshot().counts["trades"] < 20:
            await asyncio.sleep(0.02)
        session._stream._socket.abort()
        while session.state != "ERROR":
            await asyncio.sleep(0.01)
        while session.state == "ERROR":
            await asyncio.sleep(0.05)
        report = await asyncio.wait_for(task, PATIENCE_S)
    assert report.stopped == "tape ended"
    assert report.counts["reconnects"] == 1
    assert report.counts["account_differences"] == 0


async def test_a_feed_that_cannot_be_restored_ends_the_session_cleanly(quick: Settings) -> None:
    async with PaperSession(quick.replace(speed=20_000.0, reconnect_attempts=1)) as session:
        task = asyncio.ensure_future(session.run())
        while session.snapshot().counts["trades"] < 5:
            await asyncio.sleep(0.02)
        session._stream._socket.abort()
        report = await asyncio.wait_for(task, PATIENCE_S)
    assert isinstance(report.error, FeedLost)
    assert report.stopped.startswith("FeedLost")
    assert report.state == "SHUTDOWN"
    with pytest.raises(FeedLost):
        report.check()


async def test_an_error_in_a_task_ends_the_session_and_is_reported(
    quick: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with PaperSession(quick) as session:

        def broken(*_: object) -> None:
            raise ZeroDivisionError("a bug")

        monkeypatch.setattr(Decider, "decide", broken)
        report = await asyncio.wait_for(session.run(), PATIENCE_S)
    assert isinstance(report.error, SessionError)
    assert "ZeroDivisionError: a bug" in report.stopped


async def test_snapshots_work_before_during_and_after_a_run(quick: Settings) -> None:
    session = PaperSession(quick)
    assert session.snapshot().state == "STARTUP"
    async with session:
        assert session.snapshot().state == "STARTUP"
        report = await session.run()
        shot = session.snapshot()
    assert shot.finished and shot.state == "SHUTDOWN" and shot.progress == 1.0
    assert shot.pnl == pytest.approx(report.counts["pnl_cents"] * 10_000, abs=10_000)
    assert shot.settlements and shot.markets and shot.trades
    with pytest.raises(SessionError, match="runs once"):
        await session.run()


async def test_a_session_that_cannot_start_raises_the_reason(
    settings: Settings, tmp_path: Path, small: tuple[Path, Path]
) -> None:
    for bad, error in (
        (settings.replace(venue="demo"), CredentialsMissing),
        (settings.replace(tape=str(tmp_path / "no.parquet"), markets=str(small[1])), TapeError),
        (settings.replace(tape=str(small[0])), TapeError),
        (settings.replace(tape=str(small[1]), markets=str(small[0])), TapeError),
    ):
        with pytest.raises(error):
            async with PaperSession(bad):
                pass
    from kalshilab.kalshi.auth import generate_key

    key = tmp_path / "key.pem"
    key.write_bytes(generate_key("ed25519")[0])
    production = settings.replace(
        venue="demo",
        rest_url="https://api.elections.kalshi.com/trade-api/v2",
        key_id="k",
        private_key_path=str(key),
    )
    with pytest.raises(HostRefused):
        async with PaperSession(production):
            pass


@pytest.mark.soak
async def test_the_bundled_sample_trades(settings: Settings) -> None:
    report = await run(settings)
    tape, markets = sample()
    assert report.counts["trades"] == tape.height
    assert report.counts["unsettled_markets"] == markets["result"].null_count()
    fires = report.raw("signals").unique("ticker", keep="first", maintain_order=True)
    assert fires.equals(rlm(tape))
    assert {"yes", "no", "scalar"} >= set(report.settlements["result"])


@pytest.mark.soak
async def test_recorded_trades_fire_as_in_research(settings: Settings, shared: Path) -> None:
    report = await run(
        settings.replace(
            tape=str(shared / "data" / "trades_macro.parquet"),
            markets=str(shared / "data" / "markets_macro.parquet"),
            result_column="result_released",
        )
    )
    from kalshilab.tape import to_tape

    tape = to_tape(pl.read_parquet(shared / "data" / "trades_macro.parquet"))
    assert report.counts["trades"] == 89_164
    fires = report.raw("signals").unique("ticker", keep="first", maintain_order=True)
    assert fires.equals(rlm(tape))
    assert report.counts["unsettled_markets"] == 62
    assert report.counts["account_differences"] == 0


async def test_a_refused_key_ends_the_start_with_a_clear_error(settings: Settings) -> None:
    async with serve(Exchange(*sample())) as venue:
        wrong = settings.replace(
            venue="demo",
            rest_url=venue.rest,
            ws_url=venue.ws,
            key_id="somebody-else",
            private_key_path=str(venue.private_key_path),
        )
        with pytest.raises(SessionError, match=r"refuses the key .*401") as refused:
            async with asyncio.timeout(PATIENCE_S), PaperSession(wrong) as session:
                (await session.run()).check()
    status = read_status(session.run_dir / "status.json")
    assert status is not None and status.finished and str(refused.value) in status.stopped
    assert "somebody-else" not in str(refused.value) and str(venue.private_key_path) not in str(refused.value)


FAILURES = ProtocolError("GET /portfolio: not JSON", b"<html>"), ApiError("GET", "/portfolio", 503, "", "")


@pytest.mark.parametrize("failure", FAILURES)
async def test_a_failed_request_is_repeated_and_ends_no_session(
    quick: Settings, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    """Settlements, the account (at intervals and after a reconnect) and open markets are requested again."""
    requests: Counter[tuple[str, object]] = Counter()

    def fail_at_first(client: object, name: str) -> None:
        call = getattr(client, name)

        async def request(**given: object) -> object:
            requests[name, given.get("ticker")] += 1
            if requests[name, given.get("ticker")] == 1:
                raise failure
            return await call(**given)

        monkeypatch.setattr(client, name, request)

    async with PaperSession(
        quick.replace(speed=100_000.0, sync_interval_s=1, discovery_interval_s=1)
    ) as session:
        keep_lost_frames_while_disconnected(monkeypatch, session)
        task = asyncio.ensure_future(session.run())
        while session.snapshot().counts["fills"] < 3:
            await asyncio.sleep(0.02)
        for name in ("fills", "positions", "settlements"):
            fail_at_first(session._orders, name)
        fail_at_first(session._data, "open_markets")
        session._stream._socket.abort()
        report = await asyncio.wait_for(task, PATIENCE_S)
    report.check()
    assert report.stopped == "tape ended"
    assert {name for name, _ in requests} == {"fills", "positions", "settlements", "open_markets"}
    assert report.counts["settlements"] == report.settlements.height > 0
    assert report.counts["account_differences"] == 0


async def test_a_market_that_settles_while_the_feed_is_down_is_paid_out(
    quick: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tape plays to its end while the session waits to reconnect, as a real exchange would go on."""
    monkeypatch.setattr(venues, "STALL", 0.2)
    monkeypatch.setattr("kalshilab.kalshi.stream.client.backoff", lambda failures: 3.0)
    async with PaperSession(quick.replace(speed=100_000.0)) as session:
        task = asyncio.ensure_future(session.run())
        while session.snapshot().counts["fills"] < 3:
            await asyncio.sleep(0.02)
        session._stream._socket.abort()
        report = await asyncio.wait_for(task, PATIENCE_S)
    assert report.counts["account_differences"] == 0


async def test_an_unreadable_answer_at_the_end_is_in_the_report(
    quick: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with PaperSession(quick.replace(speed=20_000.0)) as session:
        task = asyncio.ensure_future(session.run())
        while session.state != "READY":
            await asyncio.sleep(0.02)

        async def unreadable(**_: object) -> list[object]:
            raise FAILURES[0]

        monkeypatch.setattr(session._orders, "positions", unreadable)
        monkeypatch.setattr("kalshilab.trade.core.reconcile.CLOSE_US", 3_000_000)
        session.request_stop("enough")
        report = await asyncio.wait_for(task, PATIENCE_S)
    assert isinstance(report.error, SessionError) and "not JSON" in str(report.error)
    assert report.stopped == "enough"
    status = read_status(report.run_dir / "status.json")
    assert status is not None and status.finished


async def test_a_read_without_an_answer_does_not_delay_the_end(
    quick: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kalshilab.trade.live.driver.READ_WITHIN_S", 1.0)
    async with PaperSession(quick.replace(speed=20_000.0)) as session:
        task = asyncio.ensure_future(session.run())
        while session.state != "READY":
            await asyncio.sleep(0.02)
        positions, asked = session._orders.positions, 0

        async def silent_at_first(**given: object) -> list[object]:
            nonlocal asked
            asked += 1
            if asked == 1:
                await asyncio.sleep(10 * PATIENCE_S)
            return await positions(**given)

        monkeypatch.setattr(session._orders, "positions", silent_at_first)
        session.request_stop("enough")
        report = await asyncio.wait_for(task, PATIENCE_S)
    assert asked > 1 and report.error is None and report.counts["account_differences"] == 0


async def test_a_full_disk_ends_the_run_with_a_clear_error_and_no_resting_order(
    quick: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(journal: Journal, *_: object) -> bool:
        raise JournalError(f"{journal.path}: database or disk is full")

    async with PaperSession(quick.replace(speed=20_000.0)) as session:
        task = asyncio.ensure_future(session.run())
        while not session.snapshot().open_orders:
            await asyncio.sleep(0.02)
        monkeypatch.setattr(Journal, "write", full)
        with pytest.raises(JournalError, match="disk is full"):
            await asyncio.wait_for(task, PATIENCE_S)
        assert await session._orders.list(status="resting") == []
