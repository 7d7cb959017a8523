"""Paper trades as entries: cash to the cent, the replay beside them, and line 13 of a card."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from made_tapes import leaning

import kalshilab as kl
from kalshilab.config.settings import Settings
from kalshilab.edge import ENTRIES_SCHEMA, enter
from kalshilab.edge.live.replay_gap import replay_gap
from kalshilab.edge.schema import check_entries
from kalshilab.errors import SessionError
from kalshilab.tape.schema import MARKETS_SCHEMA, check_markets
from kalshilab.trade.session.paper_entries import paper_entries
from kalshilab.trade.session.report import Report
from kalshilab.trade.session.session import PaperSession


def late_in(tape: pl.DataFrame) -> list[str]:
    return kl.signals.rlm(tape, min_trades=10, min_drop=1)["ticker"].tail(2).to_list()  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, pl.DataFrame, pl.DataFrame]]:
    tape, markets = leaning(40)
    folder = tmp_path_factory.mktemp("world")
    tape.write_parquet(folder / "tape.parquet")
    # Two that fire have not settled by the end of the tape, and will.
    late = markets["ticker"].is_in(late_in(tape))
    known = markets.with_columns(
        pl.when(~late).then(pl.col(name)).alias(name) for name in ("result", "settlement", "settled_ts")
    )
    known.write_parquet(folder / "markets.parquet")
    yield folder, tape, markets


async def run(settings: Settings) -> Report:
    async with PaperSession(settings) as session:
        return await session.run()


@pytest.fixture
def on_it(settings: Settings, world: tuple[Path, pl.DataFrame, pl.DataFrame]) -> Settings:
    folder = world[0]
    return settings.replace(
        tape=str(folder / "tape.parquet"), markets=str(folder / "markets.parquet"), min_trades=10, min_drop=1
    )


async def test_every_cent_is_in_them(on_it: Settings) -> None:
    report = await run(on_it)
    entries = check_entries(paper_entries(report, per_market=None))
    assert entries.schema == ENTRIES_SCHEMA and entries.height == report.signals.height > 20
    sizes = report.fills.group_by("order_id").agg(pl.col("size").sum(), pl.col("ts").min())
    filled = entries.filter("filled")
    assert filled.height == sizes.height
    joined = filled.join(
        sizes.join(report.orders.select("order_id", "ticker"), on="order_id"),
        left_on=["ticker", "entry_ts"],
        right_on=["ticker", "ts"],
    )
    assert joined.height == filled.height
    settled = joined.filter(pl.col("pnl").is_not_null())
    earned = (settled["pnl"] * settled["size"]).sum()
    assert earned == pytest.approx(report.settlements["pnl"].sum(), abs=1e-6)
    paid = (joined["cost"] * joined["size"]).sum()
    assert paid == pytest.approx(report.fills["cost"].sum() + report.fills["fee"].sum(), abs=1e-6)
    assert (entries.filter(~pl.col("filled"))["pnl"] == 0).all()


async def test_what_settles_later_settles_by_todays_table(
    on_it: Settings, world: tuple[Path, pl.DataFrame, pl.DataFrame]
) -> None:
    report = await run(on_it)
    late = late_in(world[1])
    then = paper_entries(report.run_dir)
    assert then.filter(pl.col("ticker").is_in(late))["value"].null_count() == 2
    now = paper_entries([report], world[2])
    assert now["value"].null_count() == now["pnl"].null_count() == 0
    own = world[2].select("ticker", "settlement")
    for row in now.join(own, on="ticker").iter_rows(named=True):
        yes = row["settlement"] / 10_000
        assert row["value"] == (yes if row["side"] == "yes" else 1 - yes)
    # Of two runs over the same market the first fire counts, and all of both where all are asked for.
    again = await run(on_it)
    both = paper_entries([again, report.run_dir], per_market=None)
    assert both.height == report.signals.height + again.signals.height
    assert both["fire"].to_list() == list(range(both.height)) and both["ts"].is_sorted()
    assert paper_entries([again, report]).height == then.height


async def test_the_replay_has_the_same_signals(
    on_it: Settings, world: tuple[Path, pl.DataFrame, pl.DataFrame]
) -> None:
    paper = paper_entries(await run(on_it), world[2])
    fires = kl.signals.rlm(world[1], min_trades=10, min_drop=1)
    replay = enter(fires, world[1], world[2], extremes=True)
    gap = replay_gap(paper, replay)
    assert gap.matched == gap.n_paper == gap.n_replay == paper.height
    assert gap.price.clusters > 5


async def test_a_card_hears_of_them(on_it: Settings, world: tuple[Path, pl.DataFrame, pl.DataFrame]) -> None:
    card = kl.validate(kl.signals.Rlm(min_trades=10, min_drop=1), world[1], world[2], audits=False)
    told = card.with_live(paper_entries(await run(on_it), world[2]))
    line = told.criterion(13)
    assert line.name == "live" and line.label in kl.edge.live.STATES
    assert told.verdict == card.verdict and told.header.startswith(card.header[:-1])
    assert told.summary()["live"] == line.label
    assert told.figure("live").data and "live" in told._repr_html_()
    assert told.with_live(paper_entries(await run(on_it))).criteria[-1].number == 13, (
        "the newer takes its place"
    )
    assert len(told.criteria) == len(card.criteria) + 1


async def test_a_report_keeps_its_markets(on_it: Settings) -> None:
    report = await run(on_it)
    markets = check_markets(report.markets)
    assert markets.schema == MARKETS_SCHEMA and markets["ticker"].is_unique().all()
    assert set(report.signals["ticker"]) <= set(markets["ticker"])
    assert markets.filter(pl.col("settled_ts").is_not_null()).height == markets.height - 2
    assert Report.load(report.run_dir).markets.equals(report.markets)


def test_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(SessionError, match="no run"):
        paper_entries([])
    with pytest.raises(SessionError, match="no finished run"):
        paper_entries(tmp_path)
