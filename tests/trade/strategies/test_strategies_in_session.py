"""Each strategy in a session on the local exchange: it fires as in research, and trades accordingly."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import kalshilab as kl
from kalshilab import signals
from kalshilab.config.settings import STRATEGIES, Settings
from kalshilab.errors import ConfigError, SessionError, SignalError
from kalshilab.tape import sample, to_markets, to_tape
from kalshilab.tape.synth import Recipe, make
from kalshilab.trade.orders.journal import Journal
from kalshilab.trade.session.report import Report
from kalshilab.trade.session.session import PaperSession
from kalshilab.trade.status import read_status
from kalshilab.trade.strategies.strategies import paper_rhythm


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Make `ideas` and a module that fails to import available."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    # Written here: a broken module among the tests would fail their collection.
    (tmp_path / "broken_ideas.py").write_text("answer = 1 // 0")
    monkeypatch.syspath_prepend(str(tmp_path))
    # An earlier test may have imported a module of this name.
    monkeypatch.delitem(sys.modules, "ideas", raising=False)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> tuple[pl.DataFrame, dict[str, str]]:
    """Write a dozen markets with large prints; return their tape and the settings that play them."""
    recipe = Recipe(
        prints_log_median=float(np.log(40)), prints_log_sd=0.4, span_days=3.0, size_log_median=4.0
    )
    made, markets = make(12, np.random.default_rng(11), recipe)
    folder = tmp_path_factory.mktemp("tape")
    made.write_parquet(folder / "tape.parquet")
    markets.write_parquet(folder / "markets.parquet")
    return made, {"tape": str(folder / "tape.parquet"), "markets": str(folder / "markets.parquet")}


def research(strategy: str) -> Any:
    """Return the signal of a strategy as research constructs it."""
    import ideas

    return {
        "rlm_no": signals.Rlm(rearm=True),
        "whale_fade": signals.WhaleFade(),
        "whale_follower": signals.WhaleFade(top=10),
        "paper_test": paper_rhythm(rearm="every"),
        "yes_80_90": signals.PriceBand(side="yes", low=80, high=90),
        "custom": ideas.three_in_a_row(),
        "rl_model": signals.RlModel(ideas.contrary),
    }[strategy]


EXTRA = {"custom": {"signal": "ideas:three_in_a_row"}, "rl_model": {"policy": "ideas:contrary"}}


async def run(settings: Settings) -> Report:
    async with PaperSession(settings) as session:
        return await session.run()


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> tuple[pl.DataFrame, dict[str, str]]:
    """Write half of the sample, which holds enough trades of each strategy; return its tape and the files."""
    tape, markets = sample()
    tape = tape.head(tape.height // 2)
    folder = tmp_path_factory.mktemp("half")
    tape.write_parquet(folder / "tape.parquet")
    markets.filter(pl.col("ticker").is_in(tape["ticker"].cast(pl.String).unique().to_list())).write_parquet(
        folder / "markets.parquet"
    )
    return tape, {"tape": str(folder / "tape.parquet"), "markets": str(folder / "markets.parquet")}


@pytest.mark.parametrize(
    "strategy",
    # `paper_test` trades every market again and again.
    [pytest.param(s, marks=pytest.mark.soak) if s == "paper_test" else s for s in STRATEGIES[1:]],
)
async def test_a_session_fires_as_in_research_and_trades_the_sample(
    settings: Settings, half: tuple[pl.DataFrame, dict[str, str]], strategy: str
) -> None:
    tape, files = half
    chosen = settings.replace(
        strategy=strategy, max_position=1e5, balance=1e6, **files, **EXTRA.get(strategy, {})
    )
    report = await run(chosen)
    assert_equal(report, kl.backtest(strategy, tape, pl.read_parquet(files["markets"]), settings=chosen))
    expected = research(strategy).run(tape)
    assert expected.height > 20
    assert report.raw("signals").equals(expected)
    assert report.raw("signals").schema == expected.schema
    counts = report.counts
    assert report.error is None and counts["account_differences"] == counts["left_resting"] == 0
    assert counts["orders"] > 0 and counts["fills"] > 0

    # Each order buys the side of a fire in its market, at a price with a possible gain.
    named = set(expected.select("ticker", pl.col("side").cast(pl.String)).rows())
    # paper_test also sells what it has bought.
    assert strategy == "paper_test" or set(report.orders.select("ticker", "outcome").rows()) <= named
    assert report.orders["price"].is_between(0, 100, closed="none").all()
    sides = dict(report.orders.group_by("outcome").agg(pl.col("side").unique()).rows())
    assert sides.items() <= {"yes": ["bid"], "no": ["ask"]}.items()
    bought = set(report.fills["outcome"])
    sides_bought = {"rlm_no": {"no"}, "whale_fade": {"no"}, "whale_follower": {"no"}, "yes_80_90": {"yes"}}
    assert bought == sides_bought.get(strategy, {"yes", "no"})
    if strategy == "paper_test":
        assert_sold(report)
    else:
        assert_paid_out(report)
    assert_charged(report)
    # Orders inside the spread rest and pay no fee; only the best tier of rlm_no pays the ask.
    assert report.fills["is_taker"].any() == (strategy == "rlm_no")


@pytest.mark.soak
async def test_four_strategies_on_recorded_trades_equal_their_backtest(
    settings: Settings, shared: Path
) -> None:
    files = {
        name: str(shared / "data" / f"{stem}_macro.parquet")
        for name, stem in (("tape", "trades"), ("markets", "markets"))
    }
    chosen = settings.replace(
        strategies="rlm_no,whale_fade,yes_80_90,custom", max_position=1e5, balance=1e6, result_column="result_released",
        **files, **EXTRA["custom"],
    )  # fmt: skip
    report = await run(chosen)
    markets = to_markets(pl.read_parquet(files["markets"]), result_column="result_released")
    simulated = kl.backtest(
        list(chosen.strategies), to_tape(pl.read_parquet(files["tape"])), markets, settings=chosen
    )
    assert_equal(report, simulated)
    assert report.raw("decisions").equals(
        simulated.raw("decisions").with_columns(report.raw("decisions")["client_order_id"])
    )
    assert report.counts["orders"] > 1_000 and report.counts["trades"] == 89_164
    assert report.raw("decisions")["strategy"].n_unique() == 4


def assert_equal(live: Report, simulated: Report) -> None:
    """Compare a session with a backtest on the same tape, row for row; the names of run and strategy differ."""
    for name in ("signals", "orders", "fills", "settlements", "positions"):
        one, two = (
            report.raw(name).drop("client_order_id", "strategy", strict=False) for report in (live, simulated)
        )
        if name == "positions":
            # A message about a moved close counts whole seconds; a session may have looked the exact time up since.
            one, two = (table.with_columns(pl.col("close").dt.truncate("1s")) for table in (one, two))
        assert two.equals(one), name
    for name in ("orders", "fills", "settlements", "pnl_cents", "fees_cents", "cash_cents"):
        assert simulated.counts[name] == live.counts[name], name


def assert_paid_out(report: Report) -> None:
    """Recompute the ledger from fills and settlements alone: a YES contract pays its value, a NO contract the rest."""
    spent = report.fills.group_by("ticker").agg(
        pl.col("cost", "fee").sum(),
        yes=pl.col("size").filter(pl.col("outcome") == "yes").sum(),
        no=pl.col("size").filter(pl.col("outcome") == "no").sum(),
    )
    paid = report.settlements.join(spent, on="ticker", suffix="_spent").with_columns(
        back=pl.when(pl.col("outcome") == "yes")
        .then(pl.col("yes") * pl.col("settlement") + pl.col("no") * (100 - pl.col("settlement")))
        .otherwise(pl.col("yes") * (100 - pl.col("settlement")) + pl.col("no") * pl.col("settlement"))
        / 100
    )
    assert paid.height == report.settlements.height > 0
    assert paid["revenue"].to_list() == pytest.approx(paid["back"].to_list(), abs=1e-6)
    pnl = (paid["back"] - paid["cost_spent"] - paid["fee"]).to_list()
    # The exchange reports the fees of a settlement in cents.
    assert paid["pnl"].to_list() == pytest.approx(pnl, abs=0.011)
    first, last = report.equity.row(0, named=True), report.equity.row(-1, named=True)
    cash = first["cash"] - report.fills["cost"].sum() - report.fills["fee"].sum() + paid["back"].sum()
    assert last["cash"] == pytest.approx(cash, abs=1e-4)


def assert_sold(report: Report) -> None:
    """Recompute cash from fills: a pair of YES and NO is worth a dollar at once, and the rest what it settles at."""
    signed = pl.when(pl.col("outcome") == "yes").then(pl.col("size")).otherwise(-pl.col("size"))
    signed = (signed * 100).round().cast(pl.Int64)  # whole hundredths, which add up without an error
    held = report.fills.sort("ts", maintain_order=True).with_columns(position=signed.cum_sum().over("ticker"))
    assert held["position"].abs().max() <= 500 and (held["position"] == 0).sum() > 10
    opening = held.filter(pl.col("position") * signed > 0)
    entries = kl.paper_entries(report, per_market=None).filter("filled")
    assert entries.height == opening["order_id"].n_unique(), "a sale is not an entry"
    assert sorted(entries["ticker"]) == sorted(opening.unique("order_id")["ticker"])
    markets = report.fills.group_by("ticker").agg(
        position=signed.sum() / 100, pairs=(signed.abs().sum() - signed.sum().abs()) / 200
    )
    ended = markets.filter(pl.col("position") != 0).join(report.settlements, on="ticker")
    # A settlement is that of the outcome that is held.
    assert ended["outcome"].to_list() == ["yes" if held > 0 else "no" for held in ended["position"]]
    paid = (ended["settlement"] * ended["position"].abs() / 100).to_list()
    assert ended["revenue"].to_list() == pytest.approx(paid, abs=1e-6)
    first, last = report.equity.row(0, named=True), report.equity.row(-1, named=True)
    spent = report.fills["cost"].sum() + report.fills["fee"].sum()
    back = markets["pairs"].sum() + ended["revenue"].sum()
    assert last["cash"] == pytest.approx(first["cash"] - spent + back, abs=1e-4)


def assert_charged(report: Report) -> None:
    """Check fees: takers paid 7 % of P·(1 − P), rounded per fill, and makers paid nothing.

    All series of the sample have the fee type "quadratic".
    """
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
    reported = (
        report.orders.filter(pl.col("filled") > 0).select("order_id", "fees").join(orders, on="order_id")
    )
    assert reported.height == orders.height and reported["fees"].to_list() == pytest.approx(
        reported["fee"].to_list()
    )


async def test_the_largest_whales_of_a_window_are_those_of_research(
    settings: Settings, few: tuple[pl.DataFrame, dict[str, str]]
) -> None:
    """This signal has state across markets, so the order of prints among markets matters."""
    tape, where = few
    report = await run(
        settings.replace(
            strategy="whale_fade",
            whale_min_value=20,
            whale_max_leverage=3,
            whale_top=2,
            whale_window_s=600,
            **where,
        )
    )
    signal = signals.WhaleFade(min_value=20, max_leverage=3, top=2, window=600)
    assert report.raw("signals").equals(signal.run(tape))
    assert 0 < report.signals.height < signal.with_parameters(top=None).run(tape).height


async def test_the_tier_determines_the_size(
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


async def test_without_a_policy_the_session_holds_and_reports_the_reason(
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


async def test_columns_of_custom_signals_keep_their_types(
    settings: Settings, few: tuple[pl.DataFrame, dict[str, str]]
) -> None:
    import ideas

    tape, where = few
    report = await run(settings.replace(strategy="custom", signal="ideas:rising", **where))
    expected = ideas.rising().run(tape)
    fires = report.raw("signals")
    assert fires.equals(expected) and fires.schema == expected.schema
    by_hand = await run(settings.replace(strategy="custom", signal="ideas:ByHand", **where))
    assert by_hand.signals.height > 0 and by_hand.counts["orders"] > 0
    assert by_hand.signals.select("row", "share", "count", "listed").row(0) == (7, 0.5, 3, "[1, 2]")


async def test_a_signal_that_never_fires_has_its_columns(
    settings: Settings, few: tuple[pl.DataFrame, dict[str, str]]
) -> None:
    report = await run(settings.replace(min_trades=10_000, **few[1]))
    assert report.signals.height == 0
    assert report.raw("signals").schema == signals.rlm(few[0]).schema
    assert Report.load(report.run_dir).signals.schema == report.signals.schema


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"strategy": "rl_model", "policy": "ideas:breaks"}, "rl_model.*ZeroDivisionError"),
        ({"strategy": "rl_model", "policy": "ideas:mumbles"}, "perhaps"),
        ({"strategy": "custom", "signal": "ideas:Sideless"}, 'with side "yes" or "no"'),
    ],
)
async def test_a_signal_that_fails_is_stopped_alone_and_reported(
    settings: Settings,
    few: tuple[pl.DataFrame, dict[str, str]],
    changes: dict[str, Any],
    words: str,
) -> None:
    report = await run(settings.replace(**changes, **few[1]))
    with pytest.raises(SessionError, match=words):
        report.check()
    assert report.stopped == "tape ended" and report.counts["trades"] == few[0].height
    with Journal.open(report.journal) as journal:
        (note,) = [e.value for e in journal if e.kind == "note" and e.value["what"] == "strategy failed"]
    assert "print of" in note["at"]
    assert report.counts["left_resting"] == report.counts["orders"] == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"strategy": "custom"}, "module:name"),
        ({"strategy": "custom", "signal": "ideas"}, "module:name"),
        ({"strategy": "custom", "signal": "no_such_module:x"}, "no_such_module"),
        ({"strategy": "custom", "signal": "ideas:nothing"}, "nothing"),
        ({"strategy": "custom", "signal": "ideas:not_a_signal"}, "update is missing"),
        ({"strategy": "custom", "signal": "ideas:Demanding"}, "without an error.*needed"),
        ({"strategy": "custom", "signal": "broken_ideas:answer"}, "without an error.*ZeroDivisionError"),
        ({"strategy": "rl_model", "policy": "ideas:not_a_signal"}, "act"),
        ({"strategy": "rl_model", "policy": "broken_ideas:answer"}, "without an error.*ZeroDivisionError"),
        ({"strategy": "yes_80_90", "yes8090_low": 95}, "low"),
        ({"strategy": "whale_fade", "max_spread_cents": 1}, "max_spread_cents"),
    ],
)
def test_an_unusable_strategy_is_refused_before_the_run_starts(
    settings: Settings, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises((ConfigError, SignalError), match=words):
        PaperSession(settings.replace(**changes))
    assert not Path(settings.out).exists()
