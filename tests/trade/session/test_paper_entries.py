"""Paper trades as entries: exact cash, the replay of the same days, and criterion 13 of a card."""

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
from kalshilab.errors import EdgeError, SessionError
from kalshilab.tape.schema import MARKETS_SCHEMA, check_markets
from kalshilab.trade.session.paper_entries import paper_entries
from kalshilab.trade.session.report import Report
from kalshilab.trade.session.session import PaperSession


def late_in(tape: pl.DataFrame) -> list[str]:
    """Return the two markets that fire last."""
    return kl.signals.rlm(tape, min_trades=10, min_drop=1)["ticker"].tail(2).to_list()  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, pl.DataFrame, pl.DataFrame]]:
    """Write a tape and its markets, two of which have fired but not settled; return the complete markets."""
    tape, markets = leaning(40)
    folder = tmp_path_factory.mktemp("world")
    tape.write_parquet(folder / "tape.parquet")
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
def played(settings: Settings, world: tuple[Path, pl.DataFrame, pl.DataFrame]) -> Settings:
    folder = world[0]
    return settings.replace(
        tape=str(folder / "tape.parquet"), markets=str(folder / "markets.parquet"), min_trades=10, min_drop=1
    )


async def test_entries_account_for_all_cash(played: Settings) -> None:
    report = await run(played)
    entries = check_entries(paper_entries(report, per_market=None))
    assert entries.drop("signal").schema == ENTRIES_SCHEMA and entries.height == report.signals.height > 20
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


async def test_markets_open_at_the_end_settle_by_the_later_table(
    played: Settings, world: tuple[Path, pl.DataFrame, pl.DataFrame]
) -> None:
    report = await run(played)
    late = late_in(world[1])
    then = paper_entries(report.run_dir)
    assert then.filter(pl.col("ticker").is_in(late))["value"].null_count() == 2
    now = paper_entries([report], world[2])
    assert now["value"].null_count() == now["pnl"].null_count() == 0
    own = world[2].select("ticker", "settlement")
    for row in now.join(own, on="ticker").iter_rows(named=True):
        yes = row["settlement"] / 10_000
        assert row["value"] == (yes if row["side"] == "yes" else 1 - yes)
    # Over two runs of a market only the first fire counts; per_market=None counts all.
    again = await run(played)
    both = paper_entries([again, report.run_dir], per_market=None)
    assert both.height == report.signals.height + again.signals.height
    assert both["fire"].to_list() == list(range(both.height)) and both["ts"].is_sorted()
    assert paper_entries([again, report]).height == then.height


async def test_a_replay_matches_every_paper_entry(
    played: Settings, world: tuple[Path, pl.DataFrame, pl.DataFrame]
) -> None:
    paper = paper_entries(await run(played), world[2])
    fires = kl.signals.rlm(world[1], min_trades=10, min_drop=1)
    replay = enter(fires, world[1], world[2], extremes=True)
    gap = replay_gap(paper, replay)
    assert gap.matched == gap.n_paper == gap.n_replay == paper.height
    assert gap.price.clusters > 5


async def test_paper_entries_become_criterion_13(
    played: Settings, world: tuple[Path, pl.DataFrame, pl.DataFrame]
) -> None:
    card = kl.validate(kl.signals.Rlm(min_trades=10, min_drop=1), world[1], world[2], audits=False)
    with_live = card.with_live(paper_entries(await run(played), world[2]))
    line = with_live.criterion(13)
    assert line.name == "live" and line.label in kl.edge.live.STATES
    assert with_live.verdict == card.verdict and with_live.header.startswith(card.header[:-1])
    assert with_live.summary()["live"] == line.label
    assert with_live.figure("live").data and "live" in with_live._repr_html_()
    assert with_live.with_live(paper_entries(await run(played))).criteria[-1].number == 13, (
        "newer entries replace it"
    )
    assert len(with_live.criteria) == len(card.criteria) + 1


async def test_a_card_takes_no_trades_of_another_signal(
    played: Settings, world: tuple[Path, pl.DataFrame, pl.DataFrame]
) -> None:
    card = kl.validate(kl.signals.Rlm(min_trades=10, min_drop=1), world[1], world[2], audits=False)
    whales = paper_entries(await run(played.replace(strategy="whale_fade", whale_min_value=1)), world[2])
    with pytest.raises(
        EdgeError, match=r"must be trades of rlm\(.*min_trades=10.*, got trades of whale_fade\("
    ):
        card.with_live(whales)
    other = paper_entries(await run(played.replace(min_drop=2)), world[2])
    with pytest.raises(EdgeError, match=r"min_drop=1,.*got trades of rlm\(.*min_drop=2,"):
        card.with_live(pl.concat([paper_entries(await run(played), world[2]), other]))
    nameless = other.with_columns(signal=pl.lit(None, pl.String))
    with pytest.raises(EdgeError, match="older version"):
        card.with_live(nameless)
    assert card.with_live(nameless.drop("signal")).criterion(13).name == "live"


async def test_a_report_keeps_its_markets(played: Settings) -> None:
    report = await run(played)
    markets = check_markets(report.markets)
    assert markets.schema == MARKETS_SCHEMA and markets["ticker"].is_unique().all()
    assert set(report.signals["ticker"]) <= set(markets["ticker"])
    assert markets.filter(pl.col("settled_ts").is_not_null()).height == markets.height - 2
    assert Report.load(report.run_dir).markets.equals(report.markets)


def test_a_call_without_a_finished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SessionError, match="got no run"):
        paper_entries([])
    with pytest.raises(SessionError, match="no finished run"):
        paper_entries(tmp_path)
