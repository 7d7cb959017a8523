"""Tests of captured data: every way to capture the future is detected, and honest strategies pass."""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable, Iterator
from datetime import time, timedelta
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pandas as pd
import polars as pl
import pytest

import kalshilab as kl
from kalshilab.edge.lookahead import audit
from kalshilab.edge.lookahead.captured_data import forbidden_capture

S = kl.signals
TAPE, MARKETS = kl.synth.martingale(n_markets=1_200, seed=11)
RULE = S.Rlm(min_trades=5, min_drop=1)
WHOLE = TAPE  # A notebook's variable, which a function uses in place of its argument.
LIFE = TAPE.group_by("ticker").agg(first=pl.col("price").first(), last=pl.col("price").last())
WON = frozenset(MARKETS.filter(pl.col("result") == "no")["ticker"])
LAST = dict(LIFE.select("ticker", "last").iter_rows())
BEGAN = TAPE.group_by("ticker").agg(pl.col("ts").first()).filter(pl.col("ticker").is_in(list(WON)))
TIMES = np.sort(BEGAN["ts"].dt.epoch("us").to_numpy())
GOOD = pd.DataFrame({"ticker": sorted(WON)})
MEMORY: dict[str, Any] = {}


def among(fires: pl.DataFrame, tickers: Any) -> pl.DataFrame:
    return fires.filter(pl.col("ticker").cast(pl.String).is_in(list(tickers)))


def features(tape: pl.DataFrame) -> pl.DataFrame:
    return among(RULE.run(tape), LIFE.filter(pl.col("last") < pl.col("first"))["ticker"])


def another_tape(tape: pl.DataFrame) -> pl.DataFrame:
    ended = WHOLE.group_by("ticker").agg(z=pl.col("price").last())
    fires = RULE.run(tape).join(ended, on="ticker", how="left", maintain_order="left")
    return fires.filter(pl.col("z") < pl.col("price"))


def memory(tape: pl.DataFrame) -> pl.DataFrame:
    if "z" not in MEMORY:
        MEMORY["z"] = tape.group_by("ticker").agg(z=pl.col("price").last())
    fires = RULE.run(tape).join(MEMORY["z"], on="ticker", how="left", maintain_order="left")
    return fires.filter(pl.col("z") < pl.col("price"))


@functools.lru_cache(None)
def ended(ticker: str) -> int:
    return int(LAST[ticker])


def cached(tape: pl.DataFrame) -> pl.DataFrame:
    fires = RULE.run(tape)
    below = [ended(t) < p for t, p in fires.select("ticker", "price").iter_rows()]
    return fires.filter(pl.Series(below, dtype=pl.Boolean))


def closure() -> Callable[[pl.DataFrame], pl.DataFrame]:
    winners = set(WON)
    return lambda tape: among(RULE.run(tape), winners)


def merged(tape: pl.DataFrame) -> pl.DataFrame:
    fires = RULE.run(tape).to_pandas().astype({"ticker": str})
    return pl.from_pandas(fires.merge(GOOD, on="ticker"))


def by_default(tape: pl.DataFrame, known: Any = WON) -> pl.DataFrame:
    return among(RULE.run(tape), known)


def given(known: Any, tape: pl.DataFrame) -> pl.DataFrame:
    return among(RULE.run(tape), known)


class Informed:
    """A strategy that keeps the winners in an attribute."""

    name = "informed"

    def __init__(self) -> None:
        self.won = dict.fromkeys(WON, True)

    def run(self, tape: pl.DataFrame) -> pl.DataFrame:
        return among(RULE.run(tape), self.won)


@kl.signal(state={"known": int}, buy="no")
def frozen(s, ts, price, size, taker_yes):  # type: ignore[no-untyped-def]
    if s.n == 1:
        i = np.searchsorted(TIMES, ts)
        s.known = 1 if i < len(TIMES) and TIMES[i] == ts else 0
    return s.known == 1 and s.n >= 5


def elsewhere(tape: pl.DataFrame) -> pl.DataFrame:
    import answers_elsewhere  # type: ignore[import-not-found]

    return among(RULE.run(tape), answers_elsewhere.WON)


def from_a_file(tape: pl.DataFrame) -> pl.DataFrame:
    return among(RULE.run(tape), pl.read_parquet("features.parquet")["ticker"])


DATED: Any = types.ModuleType("dated_elsewhere")
DATED.SEEN = TAPE.group_by("ticker").agg(pl.col("ts", "price").last())


def falling(tape: pl.DataFrame, seen: pl.DataFrame) -> pl.DataFrame:
    return among(RULE.run(tape), seen.filter(pl.col("price") < 5_000)["ticker"])


def dated_module(tape: pl.DataFrame) -> pl.DataFrame:
    return falling(tape, DATED.SEEN)


def dated_import(tape: pl.DataFrame) -> pl.DataFrame:
    from dated_elsewhere import SEEN  # type: ignore[import-not-found]

    return falling(tape, SEEN)


class Dated:
    """A strategy with a table with times as a class attribute."""

    seen: Any = DATED.SEEN

    def run(self, tape: pl.DataFrame) -> pl.DataFrame:
        return falling(tape, self.seen)


class DatedOutside:
    """A strategy that uses a global pandas table indexed by time."""

    def run(self, tape: pl.DataFrame) -> pl.DataFrame:
        return falling(tape, SEEN_BY_TIME.reset_index().pipe(pl.from_pandas))


SEEN_BY_TIME = DATED.SEEN.to_pandas().set_index("ts")


@numba.njit
def lengths(market: Any, n: int) -> Any:
    out = np.zeros(n, np.int64)
    for m in market:
        out[m] += 1
    return out


def life_share(tape: pl.DataFrame) -> pl.DataFrame:
    """Fire only in the second half of a market's prints, which is known only at its end."""
    market = tape["market"].to_numpy()
    fires = RULE.run(tape)
    n = lengths(market, int(market.max(initial=0)) + 1)[market[fires["row"].to_numpy().astype(np.int64)]]
    return fires.filter(pl.Series(fires["n_trades"].to_numpy() >= 0.5 * n, dtype=pl.Boolean))


CHEATS: dict[str, tuple[Any, str]] = {
    "a table of features": (features, "captures LIFE, which names"),
    "the tape by another name": (another_tape, "changes when"),
    "a memory of an earlier call": (memory, "changes when"),
    "a cache": (cached, "captures LAST, which names"),
    "a closure": (closure(), "captures winners, which names"),
    "a pandas join": (merged, "captures GOOD, which names"),
    "a default": (by_default, "a default of by_default"),
    "a partial": (functools.partial(given, WON), "which names"),
    "an object": (Informed(), "captures Informed.won, which names"),
    "a compiled step": (frozen(), "identifies prints by their time"),
    "a module": (elsewhere, "captures answers_elsewhere.WON, which names"),
    "a table with times in a module": (
        dated_module,
        "rows of DATED.SEEN count as known from their latest time on",
    ),
    "a table with times that is imported": (dated_import, "changes when"),
    "a table with times of a class": (Dated(), "rows of Dated.seen count as known from their latest time on"),
    "a pandas table by time that a class uses": (
        DatedOutside(),
        "rows of SEEN_BY_TIME count as known from their latest time on",
    ),
    "a file": (from_a_file, "reads data while it runs (read_parquet)"),
    "counts of a compiled function": (life_share, "changes when"),
}


@pytest.fixture(autouse=True)
def modules_and_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Provide the modules that strategies import, and the file that one reads."""
    module = types.ModuleType("answers_elsewhere")
    module.WON = set(WON)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "answers_elsewhere", module)
    monkeypatch.setitem(sys.modules, "dated_elsewhere", DATED)
    honest = types.ModuleType("honest_elsewhere")
    honest.load = lambda path: pl.read_parquet(path)  # type: ignore[attr-defined]
    honest.thin = lambda fires: fires.filter(pl.col("n_trades") > 0)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "honest_elsewhere", honest)
    pl.DataFrame({"ticker": sorted(WON)}).write_parquet(tmp_path / "features.parquet")
    monkeypatch.chdir(tmp_path)
    yield


@pytest.mark.parametrize("name", CHEATS)
def test_the_future_is_detected_in_every_place(name: str) -> None:
    cheat, message = CHEATS[name]
    failed = [a for a in audit.every(cheat, TAPE, MARKETS, seeds=2, cuts=12) if not a.passed]
    assert failed and any(message in a.detail for a in failed), failed
    assert all(a.first_row is not None and a.first_row["ticker"] for a in failed if a.name != "null replay")


def test_the_verdict_names_the_first_fire() -> None:
    found = kl.validate(features, TAPE, MARKETS, resamples=99)
    assert found.verdict == "INVALID_LOOKAHEAD"
    assert "its first fire is at row" in found.criterion(1).detail


def test_unknown_columns_and_the_row_order_of_the_markets_are_withheld() -> None:
    def asks(tape: pl.DataFrame, markets: pl.DataFrame) -> pl.DataFrame:
        return among(RULE.run(tape), markets.filter(pl.col("outcome") == "no")["ticker"])

    extended = MARKETS.with_columns(outcome=pl.col("result"))
    assert "must not have" in audit.settlement_facts(asks, TAPE, extended).detail

    def looks(tape: pl.DataFrame, markets: pl.DataFrame) -> pl.DataFrame:
        if markets["ticker"].to_list() != sorted(markets["ticker"]):
            raise AssertionError("the markets are not sorted by ticker")
        return RULE.run(tape)

    assert audit.settlement_facts(looks, TAPE, MARKETS.sort("result", "settled_ts")).passed


SCORES = TAPE.gather_every(7).select("ts", "ticker", rating=pl.col("price") / 10_000)
SERIES = {"KXSYN": 1.0, "KXOTHER": 0.5}
WEIGHTS = np.linspace(0.0, 1.0, 37)
COUNTED = [0]


def scored(tape: pl.DataFrame) -> pl.DataFrame:
    """Return fires confirmed by a captured table with times, joined backward."""
    fires = RULE.run(tape).sort("ts")
    known = SCORES.sort("ts").with_columns(pl.col("ticker").cast(fires.schema["ticker"]))
    both = fires.join_asof(known, on="ts", by="ticker", strategy="backward", check_sortedness=False)
    return both.filter(pl.col("rating") < 0.9).sort("row")


def plain(tape: pl.DataFrame) -> pl.DataFrame:
    COUNTED[0] += 1
    fires = RULE.run(tape)
    return fires.filter(pl.col("price") > 10 * SERIES["KXSYN"] * WEIGHTS.sum())


def through_a_module(tape: pl.DataFrame) -> pl.DataFrame:
    import honest_elsewhere  # type: ignore[import-not-found]

    return honest_elsewhere.thin(RULE.run(tape))


class Fitted:
    """A class that can read a file when it is created, but does not read while it runs."""

    @classmethod
    def load(cls, path: str) -> pl.DataFrame:
        return pl.read_parquet(path)

    def run(self, tape: pl.DataFrame) -> pl.DataFrame:
        return RULE.run(tape)


EVENTS = dict(MARKETS.select("ticker", "event").iter_rows())
KINDS = MARKETS.select("ticker", "category").to_pandas()
TICKERS = sorted(EVENTS)
CENTS = range(100)
SCALE = [p / 1_200 for p in range(1_200)]
BARS = pd.DataFrame({"open": [1.0]})


def by_event(tape: pl.DataFrame) -> pl.DataFrame:
    """Use metadata of every market, a scale as long as the list of markets, and a column called open."""
    fires = among(RULE.run(tape), TICKERS).with_columns(event=pl.col("ticker").replace_strict(EVENTS))
    return fires.filter(pl.lit(len(KINDS) + SCALE[0] + BARS.open.iloc[0] > 0)).drop("event")


HOURS = TAPE.select(pl.datetime_range(pl.col("ts").min(), pl.col("ts").max(), "5h", eager=False).alias("due"))
CALENDAR = HOURS.with_columns(at=pl.lit(time(8, 30)), lasts=timedelta(hours=1), known_ts=pl.col("due").min())


def before_a_release(tape: pl.DataFrame) -> pl.DataFrame:
    """Return fires shortly before a release of a calendar that was announced in advance."""
    fires = RULE.run(tape).sort("ts")
    due = fires.join_asof(CALENDAR, left_on="ts", right_on="due", strategy="forward", check_sortedness=False)
    return due.filter(pl.col("due") - pl.col("ts") < timedelta(hours=2)).sort("row")


def recursive(tape: pl.DataFrame, depth: int = 2) -> pl.DataFrame:
    return recursive(tape, depth - 1) if depth else RULE.run(tape)


@pytest.mark.parametrize(
    "honest",
    [
        scored,
        plain,
        recursive,
        through_a_module,
        Fitted(),
        by_event,
        before_a_release,
        lambda tape: RULE.run(tape),
    ],
)
def test_honest_functions_pass(honest: Any) -> None:
    for found in audit.every(honest, TAPE, MARKETS, seeds=3, cuts=8):
        assert found.passed, found
    assert COUNTED == [0], "an audit leaves no trace in the state of a function"


def test_a_forward_join_with_a_table_with_times_is_detected() -> None:
    def peeks(tape: pl.DataFrame) -> pl.DataFrame:
        fires = RULE.run(tape).sort("ts")
        later = SCORES.sort("ts").with_columns(pl.col("ticker").cast(fires.schema["ticker"]))
        both = fires.join_asof(later, on="ts", by="ticker", strategy="forward", check_sortedness=False)
        return both.filter(pl.col("rating") * 10_000 < pl.col("price")).sort("row")

    assert not audit.prefix_invariance(peeks, TAPE, cuts=20).passed


def test_outcomes_and_numbers_per_print_are_refused_and_one_market_is_allowed() -> None:
    found = forbidden_capture(lambda tape: among(RULE.run(tape), MARKETS["ticker"]), TAPE, MARKETS)
    assert found is not None and "result, settlement" in found.reason and len(found.tickers) > 1_000
    one = next(iter(WON))
    assert forbidden_capture(lambda tape: RULE.run(tape).filter(pl.col("ticker") == one), TAPE) is None
    numbers = np.arange(TAPE.height) % 7
    found = forbidden_capture(lambda tape: numbers, TAPE)
    assert found is not None and "one number per market or print" in found.reason
