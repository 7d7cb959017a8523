"""Every strategy in a session against our own exchange: its fires are research's, and it trades what they say."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from kalshilab import signals
from kalshilab.config.settings import STRATEGIES, Settings
from kalshilab.errors import ConfigError, KalshilabError, SessionError, SignalError
from kalshilab.tape import sample
from kalshilab.tape.synth import Recipe, make
from kalshilab.trade.orders.journal import Journal
from kalshilab.trade.session.report import Report
from kalshilab.trade.session.session import PaperSession
from kalshilab.trade.status import read_status


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    # Written here, since a module that cannot be imported is not a file to leave among tests.
    (tmp_path / "broken_ideas.py").write_text("answer = 1 // 0")
    monkeypatch.syspath_prepend(str(tmp_path))
    # A module of a test before may have the name.
    monkeypatch.delitem(sys.modules, "ideas", raising=False)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> tuple[pl.DataFrame, dict[str, str]]:
    """A dozen markets with large prints, and the settings that play them."""
    recipe = Recipe(
        prints_log_median=float(np.log(40)), prints_log_sd=0.4, span_days=3.0, size_log_median=4.0
    )
    made, markets = make(12, np.random.default_rng(11), recipe)
    folder = tmp_path_factory.mktemp("tape")
    made.write_parquet(folder / "tape.parquet")
    markets.write_parquet(folder / "markets.parquet")
    return made, {"tape": str(folder / "tape.parquet"), "markets": str(folder / "markets.parquet")}


def research(strategy: str) -> Any:
    import ideas

    return {
        "rlm_no": signals.Rlm(rearm=True),
        "whale_fade": signals.WhaleFade(),
        "yes_80_90": signals.PriceBand(side="yes", low=80, high=90),
        "custom": ideas.three_in_a_row(),
        "rl_model": signals.RlModel(ideas.contrary),
    }[strategy]


EXTRA = {"custom": {"signal": "ideas:three_in_a_row"}, "rl_model": {"policy": "ideas:contrary"}}


async def run(settings: Settings) -> Report:
    async with PaperSession(settings) as session:
        return await session.run()


@pytest.mark.parametrize("strategy", STRATEGIES[1:])
async def test_live_is_research_and_is_traded_on_the_sample(settings: Settings, strategy: str) -> None:
    tape, _ = sample()
    report = await run(
        settings.replace(strategy=strategy, max_position=1e5, balance=1e6, **EXTRA.get(strategy, {}))
    )
    expected = research(strategy).run(tape)
    assert expected.height > 20
    assert report.signals.equals(expected)
    assert report.signals.schema == expected.schema
    counts = report.counts
    assert report.error is None and counts["account_differences"] == counts["left_resting"] == 0
    assert counts["orders"] > 0 and counts["fills"] > 0

    # Each order buys an outcome that a fire of its market named, at a price that leaves something to win.
    named = set(expected.select("ticker", pl.col("side").cast(pl.String)).rows())
    assert set(report.orders.select("ticker", "outcome").rows()) <= named
    assert report.orders["price"].is_between(0, 100, closed="none").all()
    sides = dict(report.orders.group_by("outcome").agg(pl.col("side").unique()).rows())
    assert sides.items() <= {"yes": ["bid"], "no": ["ask"]}.items()
    bought = set(report.fills["outcome"])
    wanted = {"rlm_no": {"no"}, "whale_fade": {"no"}, "yes_80_90": {"yes"}}.get(strategy, {"yes", "no"})
    assert bought == wanted
    assert_paid_out(report)
    assert_charged(report)
    # Orders inside the spread rest until they are met, at no fee; the reversal's best tier pays the ask.
    assert report.fills["is_taker"].any() == (strategy == "rlm_no")


def assert_paid_out(report: Report) -> None:
    """The ledger, worked out again from fills and results with nothing else: YES pays what YES is worth, NO the rest."""
    spent = report.fills.group_by("ticker").agg(
        pl.col("cost", "fee").sum(),
        yes=pl.col("size").filter(pl.col("outcome") == "yes").sum(),
        no=pl.col("size").filter(pl.col("outcome") == "no").sum(),
    )
    paid = report.settlements.join(spent, on="ticker", suffix="_spent").with_columns(
        back=(pl.col("yes") * pl.col("settlement") + pl.col("no") * (100 - pl.col("settlement"))) / 100
    )
    assert paid.height == report.settlements.height > 0
    assert paid["revenue"].to_list() == pytest.approx(paid["back"].to_list(), abs=1e-6)
    pnl = (paid["back"] - paid["cost_spent"] - paid["fee"]).to_list()
    # An exchange's settlement tells fees in cents.
    assert paid["pnl"].to_list() == pytest.approx(pnl, abs=0.011)
    first, last = report.equity.row(0, named=True), report.equity.row(-1, named=True)
    cash = first["cash"] - report.fills["cost"].sum() - report.fills["fee"].sum() + paid["back"].sum()
    assert last["cash"] == pytest.approx(cash, abs=1e-4)


def assert_charged(report: Report) -> None:
    """What takers paid is the published formula's 7 % of P·(1 − P), to the rounding of each fill; makers paid nothing
    else, as the sample's series are all of the type "quadratic"."""
    price = pl.col("price") / 100
    orders = report.fills.group_by("order_id").agg(
        pl.col("fee").sum(),
        due=(0.07 * pl.col("size") * price * (1 - price)).filter("is_taker").sum(),
        rounding=pl.len() * 0.0001,
    )
    over = orders["fee"] - orders["due"]
    assert (over > -1e-9).all() and (over <= orders["rounding"] + 1e-9).all()
    taken = report.fills.filter("is_taker")
    assert (taken["fee"] > 0).all()
    assert report.counts["fees_cents"] == round(100 * report.fills["fee"].sum())
    told = report.orders.filter(pl.col("filled") > 0).select("order_id", "fees").join(orders, on="order_id")
    assert told.height == orders.height and told["fees"].to_list() == pytest.approx(told["fee"].to_list())


async def test_the_largest_whales_of_a_window_are_the_same_live(
    settings: Settings, few: tuple[pl.DataFrame, dict[str, str]]
) -> None:
    """The one signal that remembers across markets, so that the order of prints among markets matters."""
    tape, where = few
    report = await run(
        settings.replace(
            strategy="whale_fade",
            whale_min_value=20,
            whale_max_leverage=3,
            whale_top=2,
            whale_window=600,
            **where,
        )
    )
    signal = signals.WhaleFade(min_value=20, max_leverage=3, top=2, window=600)
    assert report.signals.equals(signal.run(tape))
    assert 0 < report.signals.height < signal.with_parameters(top=None).run(tape).height


async def test_the_tier_decides_the_size(
    settings: Settings, few: tuple[pl.DataFrame, dict[str, str]]
) -> None:
    report = await run(
        settings.replace(
            strategy="yes_80_90", yes8090_low=60, yes8090_contracts=20, yes8090_tier_a_contracts=30, **few[1]
        )
    )
    tiers = dict(report.signals.select("ticker", pl.col("tier").cast(pl.String)).rows())
    for ticker, size in report.orders.select("ticker", "initial").rows():
        assert size == {"A": 30, "B": 20}[tiers[ticker]]
    assert report.orders.height > 0


async def test_a_policy_that_is_missing_holds_and_says_why(
    settings: Settings, few: tuple[pl.DataFrame, dict[str, str]]
) -> None:
    async with PaperSession(settings.replace(strategy="rl_model", **few[1])) as session:
        report = await session.run()
        shot = session.snapshot()
    assert (report.counts["signals"], report.counts["orders"]) == (0, 0)
    assert report.counts["trades"] == few[0].height
    assert "KALSHILAB_POLICY" in shot.note
    status = read_status(report.run_dir / "status.json")
    assert status is not None and status.note == shot.note
    with Journal.open(report.run_dir / "journal.sqlite") as journal:
        (start,) = [e.value for e in journal if e.kind == "note" and e.value["what"] == "start"]
    assert start["why"] == shot.note


async def test_columns_of_every_sort_are_kept(
    settings: Settings, few: tuple[pl.DataFrame, dict[str, str]]
) -> None:
    import ideas

    tape, where = few
    report = await run(settings.replace(strategy="custom", signal="ideas:rising", **where))
    expected = ideas.rising().run(tape)
    assert report.signals.equals(expected) and report.signals.schema == expected.schema
    by_hand = await run(settings.replace(strategy="custom", signal="ideas:ByHand", **where))
    assert by_hand.signals.height > 0 and by_hand.counts["orders"] > 0
    assert by_hand.signals.select("row", "share", "count", "listed").row(0) == (7, 0.5, 3, "[1, 2]")


async def test_a_signal_that_never_fires_has_its_columns_all_the_same(
    settings: Settings, few: tuple[pl.DataFrame, dict[str, str]]
) -> None:
    report = await run(settings.replace(min_trades=10_000, **few[1]))
    assert report.signals.height == 0
    assert report.signals.schema == signals.rlm(few[0]).schema
    assert Report.load(report.run_dir).signals.schema == report.signals.schema


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"strategy": "rl_model", "policy": "ideas:breaks"}, SessionError, "rl_model.*ZeroDivisionError"),
        ({"strategy": "rl_model", "policy": "ideas:mumbles"}, SignalError, "hold, buy or sell, got 'perhaps'"),
        ({"strategy": "custom", "signal": "ideas:Sideless"}, SignalError, 'says "yes" or "no"'),
    ],
)
async def test_one_that_fails_on_the_way_ends_the_session_cleanly(
    settings: Settings,
    few: tuple[pl.DataFrame, dict[str, str]],
    changes: dict[str, Any],
    kind: type[KalshilabError],
    words: str,
) -> None:
    report = await run(settings.replace(**changes, **few[1]))
    assert isinstance(report.error, kind)
    with pytest.raises(kind, match=words):
        report.check()
    assert report.state == "SHUTDOWN"
    assert report.counts["left_resting"] == report.counts["orders"] == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"strategy": "custom"}, "module:name"),
        ({"strategy": "custom", "signal": "ideas"}, "module:name"),
        ({"strategy": "custom", "signal": "no_such_module:x"}, "no_such_module"),
        ({"strategy": "custom", "signal": "ideas:nothing"}, "nothing"),
        ({"strategy": "custom", "signal": "ideas:not_a_signal"}, "it has no update"),
        ({"strategy": "custom", "signal": "ideas:Demanding"}, "without an error.*needed"),
        ({"strategy": "custom", "signal": "broken_ideas:answer"}, "without an error.*ZeroDivisionError"),
        ({"strategy": "rl_model", "policy": "ideas:not_a_signal"}, "act"),
        ({"strategy": "rl_model", "policy": "broken_ideas:answer"}, "without an error.*ZeroDivisionError"),
        ({"strategy": "yes_80_90", "yes8090_low": 95}, "low"),
        ({"strategy": "whale_fade", "max_spread": 1}, "max_spread"),
    ],
)
def test_what_cannot_be_traded_is_refused_before_anything_is_opened(
    settings: Settings, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises((ConfigError, SignalError), match=words):
        PaperSession(settings.replace(**changes))
    assert not Path(settings.out).exists()
