"""A whole session against our own exchange over loopback sockets."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from pathlib import Path

import polars as pl
import pytest
from made_tapes import leaning

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
from kalshilab.trade.orders.journal import Journal
from kalshilab.trade.orders.order_desk import Desk
from kalshilab.trade.session.report import FRAMES, Report
from kalshilab.trade.session.session import PaperSession
from kalshilab.trade.state_machine import ALLOWED
from kalshilab.trade.status import read_status


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tape of a few dozen markets as Parquet files."""
    tape, markets = leaning(30)
    folder = tmp_path_factory.mktemp("tape")
    tape.write_parquet(folder / "tape.parquet")
    markets.write_parquet(folder / "markets.parquet")
    return folder / "tape.parquet", folder / "markets.parquet"


@pytest.fixture
def quick(settings: Settings, small: tuple[Path, Path]) -> Settings:
    return settings.replace(tape=str(small[0]), markets=str(small[1]))


async def run(settings: Settings) -> Report:
    async with PaperSession(settings) as session:
        return await session.run()


async def test_live_fires_equal_research(quick: Settings) -> None:
    report = await run(quick)
    tape = pl.read_parquet(quick.tape)
    first = report.signals.unique("ticker", keep="first", maintain_order=True)
    assert first.equals(rlm(tape))
    assert report.signals.equals(rlm(tape, rearm=True)), "all fires, re-arming included"
    assert report.counts["trades"] == tape.height
    assert report.stopped == "tape ended"
    assert report.error is None
    report.check()


async def test_the_report_agrees_with_itself_and_with_the_disk(quick: Settings) -> None:
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
    filled = report.fills.group_by("order_id").agg(pl.col("size").sum().alias("got"))
    joined = report.orders.join(filled, on="order_id", how="left").with_columns(pl.col("got").fill_null(0.0))
    assert (joined["filled"] - joined["got"]).abs().max() < 1e-9
    assert report.equity["equity"][-1] - report.equity["equity"][0] == pytest.approx(
        counts["pnl_cents"] / 100, abs=0.01
    )
    again = Report.load(report.run_dir)
    assert again.counts == counts
    for name in FRAMES:
        assert getattr(again, name).equals(getattr(report, name)), name
    status = read_status(report.run_dir / "status.json")
    assert status is not None and status.finished and status.state == "SHUTDOWN"
    with Journal.open(report.journal) as journal:
        intents = [i.client_order_id for i in journal.values("intent")]
        outcomes = [o.client_order_id for o in journal.values("outcome")]
    assert intents == outcomes, "every intent has its one outcome"
    steps = report.transitions.select("source", "target").rows()
    assert all(target in ALLOWED[source] for source, target in steps)
    assert steps[-1][1] == "SHUTDOWN"
    summary = dict(report.summary().rows())
    assert summary["orders"] == str(counts["orders"])


async def test_two_runs_are_the_same(quick: Settings) -> None:
    one, two = await run(quick), await run(quick)
    assert one.run_dir != two.run_dir
    for name in ("signals", "fills", "settlements"):
        left, right = (getattr(r, name) for r in (one, two))
        drop = [c for c in ("client_order_id",) if c in left.columns]
        assert left.drop(drop).equals(right.drop(drop)), name


async def test_the_fast_transport_trades_the_same(quick: Settings) -> None:
    plain, fast = await run(quick), await run(quick.replace(fast=True))
    for name in ("orders", "fills", "decisions", "signals"):
        assert getattr(fast, name).drop("order_id", strict=False).height == getattr(plain, name).height
    assert fast.signals.equals(plain.signals) and fast.counts["pnl_cents"] == plain.counts["pnl_cents"]


async def test_hold_watches_and_trades_nothing(quick: Settings) -> None:
    report = await run(quick.replace(strategy="hold"))
    assert (report.counts["signals"], report.counts["orders"], report.counts["pnl_cents"]) == (0, 0, 0)
    assert report.counts["trades"] > 0


async def test_categories_not_wanted_are_filtered(quick: Settings) -> None:
    report = await run(quick.replace(categories="weather"))
    assert report.counts["filtered"] == report.counts["trades"] > 0
    assert report.counts["tracked"] == report.counts["signals"] == 0


async def test_limits_hold(quick: Settings) -> None:
    report = await run(quick.replace(max_concurrent=1, min_cash=0))
    assert report.counts["orders"] >= 1
    assert "concurrent" in report.decisions["reason"].to_list()
    poor = await run(quick.replace(balance=100, min_cash=99.99, contracts=10))
    assert poor.counts["low_cash"] > 0
    slow = await run(quick.replace(attempts_per_minute=0.01))
    assert slow.counts["rate_limited"] > 0
    assert {"deferred", "expired"} <= set(slow.decisions["action"])
    waited = slow.decisions.filter(pl.col("action") == "deferred").height
    done = slow.decisions.filter(pl.col("action").is_in(["expired", "placed"])).height
    assert done >= waited, "no fire waits for ever"
    again = await run(quick.replace(attempts_per_minute=0.01))
    drop = ["client_order_id", "order_id"]
    assert again.decisions.drop(drop).equals(slow.decisions.drop(drop)), "the same at any speed"


@pytest.mark.parametrize("how", ["thread", "file", "minutes", "cancel"])
async def test_every_way_to_stop_is_clean(quick: Settings, how: str, tmp_path: Path) -> None:
    settings = quick.replace(
        speed=20_000.0, stop_file=str(tmp_path / "stop"), minutes=0.1 if how == "minutes" else None
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
        report = await asyncio.wait_for(task, 15)
    reasons = {
        "thread": "stop button",
        "file": "SIGTERM",
        "minutes": "0.1 minutes are up",
        "cancel": "interrupted",
    }
    assert report.stopped == reasons[how]
    assert report.state == "SHUTDOWN"
    assert report.counts["left_resting"] == 0
    assert report.counts["account_differences"] == 0
    assert not (report.orders["status"] == "resting").any()
    assert 0 < report.counts["trades"] < pl.read_parquet(settings.tape).height


async def test_a_second_cancellation_cuts_short(quick: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with PaperSession(quick.replace(speed=20_000.0)) as session:
        task = asyncio.ensure_future(session.run())
        while session.snapshot().counts["trades"] < 5:
            await asyncio.sleep(0.05)

        async def hang(rounds: int = 5) -> list[object]:
            await asyncio.sleep(60)
            return []

        monkeypatch.setattr(session._execution, "cancel_all", hang)
        task.cancel()
        await asyncio.sleep(0.2)
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 5)


async def test_a_lost_connection_is_mended_and_nothing_is_missed(quick: Settings) -> None:
    async with PaperSession(quick.replace(speed=100_000.0)) as session:
        task = asyncio.ensure_future(session.run())
        while session.snapshot().counts["trades"] < 20:
            await asyncio.sleep(0.02)
        session._stream._socket.abort()
        while session.state != "ERROR":
            await asyncio.sleep(0.01)
        assert not session._machine.may_trade
        while session.state == "ERROR":
            await asyncio.sleep(0.05)
        report = await asyncio.wait_for(task, 60)
    assert report.stopped == "tape ended"
    assert report.counts["reconnects"] == 1
    assert report.counts["account_differences"] == 0


async def test_a_feed_that_stays_away_ends_the_session_cleanly(quick: Settings) -> None:
    async with PaperSession(quick.replace(speed=20_000.0, reconnect_attempts=1)) as session:
        task = asyncio.ensure_future(session.run())
        while session.snapshot().counts["trades"] < 5:
            await asyncio.sleep(0.02)
        session._stream._socket.abort()
        report = await asyncio.wait_for(task, 15)
    assert isinstance(report.error, FeedLost)
    assert report.stopped.startswith("FeedLost")
    assert report.state == "SHUTDOWN"
    with pytest.raises(FeedLost):
        report.check()


async def test_a_failing_part_is_heard(quick: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with PaperSession(quick) as session:

        async def broken(desk: Desk, fire: object) -> None:
            raise ZeroDivisionError("a bug of ours")

        monkeypatch.setattr(Desk, "act", broken)
        report = await asyncio.wait_for(session.run(), 30)
    assert isinstance(report.error, SessionError)
    assert "ZeroDivisionError: a bug of ours" in report.stopped


async def test_snapshots_before_during_and_after(quick: Settings) -> None:
    session = PaperSession(quick)
    assert session.snapshot().state == "STARTUP"
    async with session:
        assert session.snapshot().state == "INITIALIZING"
        report = await session.run()
        shot = session.snapshot()
    assert shot.finished and shot.state == "SHUTDOWN" and shot.progress == 1.0
    assert shot.pnl == pytest.approx(report.counts["pnl_cents"] * 10_000, abs=10_000)
    assert shot.settlements and shot.markets and shot.trades
    with pytest.raises(SessionError, match="runs once"):
        await session.run()


async def test_what_cannot_start_says_why(
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


async def test_the_sample_trades(settings: Settings) -> None:
    report = await run(settings)
    tape, markets = sample()
    assert report.counts["trades"] == tape.height
    assert report.counts["unsettled_markets"] == markets["result"].null_count()
    assert report.signals.unique("ticker", keep="first", maintain_order=True).equals(rlm(tape))
    assert {"yes", "no", "scalar"} >= set(report.settlements["result"])


async def test_real_prints_over_the_sockets(settings: Settings, shared: Path) -> None:
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
    assert report.signals.unique("ticker", keep="first", maintain_order=True).equals(rlm(tape))
    assert report.counts["unsettled_markets"] == 62
    assert report.counts["account_differences"] == 0


async def test_a_key_that_the_exchange_refuses_ends_the_start_in_words(settings: Settings) -> None:
    async with serve(Exchange(*sample())) as venue:
        wrong = settings.replace(
            venue="demo",
            rest_url=venue.rest,
            ws_url=venue.ws,
            key_id="somebody-else",
            private_key_path=str(venue.private_key_path),
        )
        with pytest.raises(SessionError, match=r"the exchange refuses the key .*401") as refused:
            async with asyncio.timeout(10), PaperSession(wrong) as session:
                (await session.run()).check()
    status = read_status(session.run_dir / "status.json")
    assert status is not None and status.finished and str(refused.value) in status.stopped
    assert "somebody-else" not in str(refused.value) and str(venue.private_key_path) not in str(refused.value)


PAGE = ProtocolError("GET /portfolio: not JSON", b"<html>"), ApiError("GET", "/portfolio", 503, "", "")


@pytest.mark.parametrize("failure", PAGE)
async def test_a_question_without_an_answer_ends_no_session(
    quick: Settings, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    """Settlements, the account at intervals and after a reconnect, open markets: each is asked for again."""
    asked: Counter[tuple[str, object]] = Counter()

    def fail_at_first(client: object, name: str) -> None:
        call = getattr(client, name)

        async def answer(**given: object) -> object:
            asked[name, given.get("ticker")] += 1
            if asked[name, given.get("ticker")] == 1:
                raise failure
            return await call(**given)

        monkeypatch.setattr(client, name, answer)

    async with PaperSession(
        quick.replace(speed=100_000.0, sync_interval_s=1, discovery_interval_s=1)
    ) as session:
        task = asyncio.ensure_future(session.run())
        while session.snapshot().counts["fills"] < 3:
            await asyncio.sleep(0.02)
        for name in ("fills", "positions", "settlements"):
            fail_at_first(session._orders, name)
        fail_at_first(session._data, "open_markets")
        session._stream._socket.abort()
        report = await asyncio.wait_for(task, 60)
    report.check()
    assert report.stopped == "tape ended"
    assert {name for name, _ in asked} == {"fills", "positions", "settlements", "open_markets"}
    assert report.counts["settlements"] == report.settlements.height > 0
    assert report.counts["account_differences"] == 0


async def test_a_page_at_the_very_end_is_in_the_report(
    quick: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with PaperSession(quick.replace(speed=20_000.0)) as session:
        task = asyncio.ensure_future(session.run())
        while session.state != "READY":
            await asyncio.sleep(0.02)

        async def page(**_: object) -> list[object]:
            raise PAGE[0]

        monkeypatch.setattr(session._orders, "positions", page)
        session.request_stop("enough")
        report = await asyncio.wait_for(task, 60)
    assert report.error is PAGE[0] and report.stopped == "enough"
    status = read_status(report.run_dir / "status.json")
    assert status is not None and status.finished


async def test_a_full_disk_ends_the_run_in_words_and_leaves_nothing_resting(
    quick: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(journal: Journal, *_: object) -> bool:
        raise JournalError(f"{journal.path}: database or disk is full")

    async with PaperSession(quick.replace(speed=20_000.0)) as session:
        task = asyncio.ensure_future(session.run())
        while not session.snapshot().open_orders:
            await asyncio.sleep(0.02)
        monkeypatch.setattr(Journal, "_append", full)
        with pytest.raises(JournalError, match="disk is full"):
            await asyncio.wait_for(task, 60)
        assert await session._orders.list(status="resting") == []
