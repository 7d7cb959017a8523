"""Every strategy in a session against our own exchange: its fires are research's, and it trades what they say."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from kalshilab import signals
from kalshilab.config import STRATEGIES, Settings
from kalshilab.errors import ConfigError, SignalError
from kalshilab.tape.synth import Recipe, make
from kalshilab.trade.journal import Journal
from kalshilab.trade.report import Report
from kalshilab.trade.session import PaperSession


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    # A module of a test before may have the name.
    monkeypatch.delitem(sys.modules, "ideas", raising=False)


@pytest.fixture(scope="module")
def tape(tmp_path_factory: pytest.TempPathFactory) -> tuple[pl.DataFrame, dict[str, str]]:
    """Forty markets with dear prices and large prints, and the settings that play them."""
    recipe = Recipe(
        prints_log_median=float(np.log(60)), prints_log_sd=0.4, span_days=3.0, size_log_median=4.0
    )
    made, markets = make(40, np.random.default_rng(11), recipe)
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
async def test_live_is_research_and_is_traded(
    settings: Settings, tape: tuple[pl.DataFrame, dict[str, str]], strategy: str
) -> None:
    made, where = tape
    report = await run(
        settings.replace(strategy=strategy, max_position=1e5, **where, **EXTRA.get(strategy, {}))
    )
    expected = research(strategy).run(made)
    fires = report.signals
    assert fires.height == expected.height > 3
    common = ["row", "ts", "ticker", "side", "price", "n_trades"]
    assert fires.select(common).equals(expected.select(common))
    own = [c for c in expected.columns if c not in common]
    assert fires.columns == [*common, *own]
    for name in own:
        assert fires[name].cast(pl.String).to_list() == expected[name].cast(pl.String).to_list()
    assert report.error is None
    assert report.counts["orders"] > 0 and report.counts["fills"] > 0
    sides = (
        dict(zip(fires["ticker"], fires["side"].cast(pl.String), strict=True)) if strategy != "custom" else {}
    )
    for row in report.orders.iter_rows(named=True):
        assert row["outcome"] == sides.get(row["ticker"], row["outcome"]) or strategy in (
            "whale_fade",
            "rl_model",
        )
    if strategy in ("yes_80_90", "custom", "rl_model"):
        assert "yes" in report.fills["outcome"].to_list(), "YES is bought too"
    # What was paid and what came back is what the account has.
    paid = report.fills["cost"].sum() + report.fills["fee"].sum()
    back = report.settlements["revenue"].sum()
    last = report.equity.row(-1, named=True)
    held = report.positions["cost"].sum()
    assert last["cash"] == pytest.approx(10_000 - paid + back, abs=0.02)
    if not report.positions.height:
        assert report.settlements["pnl"].sum() == pytest.approx(back - paid, abs=0.02), held


async def test_a_policy_that_is_missing_holds_and_says_why(
    settings: Settings, tape: tuple[pl.DataFrame, dict[str, str]]
) -> None:
    report = await run(settings.replace(strategy="rl_model", **tape[1]))
    assert (report.counts["signals"], report.counts["orders"]) == (0, 0)
    with Journal.open(report.run_dir / "journal.sqlite") as journal:
        (start,) = [e.value for e in journal if e.kind == "note" and e.value["what"] == "start"]
    assert "KALSHILAB_POLICY" in start["why"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"strategy": "custom"}, "module:name"),
        ({"strategy": "custom", "signal": "ideas"}, "module:name"),
        ({"strategy": "custom", "signal": "no_such_module:x"}, "no_such_module"),
        ({"strategy": "custom", "signal": "ideas:nothing"}, "nothing"),
        ({"strategy": "custom", "signal": "ideas:not_a_signal"}, "it has no update"),
        ({"strategy": "rl_model", "policy": "ideas:not_a_signal"}, "act"),
        ({"strategy": "yes_80_90", "yes8090_low": 95}, "low"),
    ],
)
def test_what_cannot_be_traded_is_refused_before_anything_is_opened(
    settings: Settings, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises((ConfigError, SignalError), match=words):
        PaperSession(settings.replace(**changes))
    assert not Path(settings.out).exists()
