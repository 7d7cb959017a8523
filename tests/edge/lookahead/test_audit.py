"""Tests of the audits: honest strategies pass, and every kind of look-ahead is detected with its first fire."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest

import kalshilab as kl
from kalshilab.edge.entries.rules import enter
from kalshilab.edge.lookahead import audit
from kalshilab.edge.lookahead.fair_tape import FairWorlds, fair_world
from kalshilab.edge.lookahead.settlement_facts import facts_in_code, point_in_time
from kalshilab.edge.lookahead.strategy import strategy_of
from kalshilab.edge.lookahead.whole_life import whole_life_edge
from kalshilab.edge.robustness.perturbations import interval
from kalshilab.errors import EdgeError, TapeError
from kalshilab.signals.engine.compiled_signal import CompiledSignal
from kalshilab.tape.tape import FrameTape

S = kl.signals
TAPE, MARKETS = kl.synth.martingale(n_markets=700, seed=11)


def chosen(
    at: int, keep: Callable[[pl.DataFrame], pl.Expr], feature: pl.Expr
) -> Callable[[pl.DataFrame], pl.DataFrame]:
    """Return a strategy that looks ahead: NO at print `at` of each market whose whole life satisfies a condition."""

    def strategy(tape: pl.DataFrame) -> pl.DataFrame:
        life = tape.group_by("ticker", maintain_order=True).agg(
            (pl.col("taker").cast(pl.String) == "yes").mean().alias("share"),
            pl.col("price").first().alias("first"),
            feature.alias("f"),
        )
        kept = life.filter(keep(life))
        rows = tape.with_row_index("row").with_columns(pl.int_range(pl.len()).over("ticker").alias("k"))
        return rows.filter(pl.col("k") == at).join(kept.select("ticker"), on="ticker", how="semi", maintain_order="left").select(
            "row", "ts", "ticker", pl.lit("no").alias("side"), "price"
        )  # fmt: skip

    return strategy


LAST, MEAN = pl.col("price").last(), pl.col("price").mean()


def fell(_: pl.DataFrame) -> pl.Expr:
    return (pl.col("f") < pl.col("first")) & (pl.col("share") > 0.6)


CHEATS = [
    (f"{name} at {at}", chosen(at, fell, feature))
    for name, feature in (("last", LAST), ("mean", MEAN))
    for at in (4, 5, 6, 7, 8, 9, 10, 11, 12, 13)
]


@pytest.mark.parametrize(("name", "cheat"), CHEATS, ids=[n for n, _ in CHEATS])
def test_t6_twenty_of_twenty_whole_life_features_are_detected(
    name: str, cheat: Callable[[pl.DataFrame], pl.DataFrame]
) -> None:
    prefix = audit.prefix_invariance(cheat, TAPE, cuts=20)
    null = audit.null_replay(cheat, TAPE, MARKETS, seeds=12)
    assert not prefix.passed and prefix.first_row is not None and "changes when" in prefix.detail
    assert not null.passed and "; repeated in other worlds: " in null.detail, null.detail
    assert not audit.future_scramble(cheat, TAPE, cuts=10).passed


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [(S.Rlm, {"min_trades": 8, "min_drop": 2}), (S.Rlm, {"min_trades": 8, "rearm": True}), (S.PriceBand, {}),
     (S.WhaleFade, {}), (S.WhaleFollow, {}), (S.Burst, {}), (S.LowLeverageVariance, {}), (S.Steam, {}),
     (S.DollarDirection, {}), (S.ConvictionRatio, {}), (S.BuyBack, {})],
)  # fmt: skip
def test_built_in_signals_pass(kind: type[CompiledSignal], parameters: dict[str, Any]) -> None:
    for found in audit.every(kind(**parameters), TAPE, MARKETS, seeds=6, cuts=6):
        assert found.passed, found


def production(tape: pl.DataFrame) -> pl.DataFrame:
    """Return the fires of the published rule in its production setting: NO at the 25th print, filtered by whole lives."""
    life = tape.group_by("ticker", maintain_order=True).agg(
        (pl.col("taker").cast(pl.String) == "yes").mean().alias("share"), pl.len().alias("n"),
        (pl.col("price").first() - pl.col("price").last()).alias("drop"), (1 - pl.col("price").mean() / 10_000).alias("no"),
    ).filter(pl.col("share") > 0.7, pl.col("n") >= 25, pl.col("drop") >= 500, pl.col("no") >= 0.35)  # fmt: skip
    rows = tape.with_row_index("row").with_columns(pl.int_range(pl.len()).over("ticker").alias("k"))
    kept = rows.filter(pl.col("k") == 24).join(life, on="ticker", how="semi", maintain_order="left")
    return kept.select("row", "ts", "ticker", pl.lit("no").alias("side"), "price")


def leak_and_edge(seed: int, markets: int) -> tuple[float, float, float]:
    """Return rule D's whole-life edge, its edge as of the fire and the latter's standard error, with 3 cents planted."""
    rule = S.Rlm(yes_threshold=0.70, min_trades=25, min_drop=5, max_price=65)
    tape, table = kl.synth.martingale(n_markets=markets, seed=seed, edge=3.0)
    whole = whole_life_edge(tape, table, 0.70, 25, 5)
    honest = interval(enter(rule.run(tape), tape, table, rule="mid", extremes=True, half_spread_cents=1.0))
    return whole.edge, honest.estimate, (honest.upper - honest.lower) / 3.92


def test_t7_a_leak_is_detected_beside_a_real_edge() -> None:
    whole, honest, se = leak_and_edge(2, 40_000)
    assert whole > 10 and abs(honest - 3.0) < 2 * se and whole - honest > 3 * se
    tape, table = kl.synth.martingale(n_markets=3_000, seed=5, edge=3.0)
    assert not audit.prefix_invariance(production, tape, cuts=10).passed
    assert not audit.null_replay(production, tape, table, seeds=8).passed


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_t7_holds_on_five_tapes() -> None:
    found = np.array([leak_and_edge(seed, 72_791) for seed in range(5)])
    print("T7", found.round(2))
    se = float(np.sqrt((found[:, 2] ** 2).sum()) / 5)
    assert (found[:, 0] > 10).all() and (found[:, 0] - found[:, 1] > 3 * found[:, 2]).all()
    assert abs(found[:, 1].mean() - 3.0) <= 2 * se, (found[:, 1].mean(), se)


def test_a_strategy_that_reads_the_next_print_fails_three_audits() -> None:
    def peeking(tape: pl.DataFrame) -> pl.DataFrame:
        after = pl.col("price").shift(-1).over("ticker")
        rows = tape.with_row_index("row").filter(after - pl.col("price") <= -500)
        return rows.select("row", "ts", "ticker", pl.lit("no").alias("side"), "price")

    assert not audit.prefix_invariance(peeking, TAPE).passed
    assert not audit.future_scramble(peeking, TAPE).passed
    assert not audit.null_replay(peeking, TAPE, MARKETS).passed


def test_settlement_facts_are_refused_by_name_and_withheld_from_functions() -> None:
    def direct(tape: pl.DataFrame, markets: pl.DataFrame) -> pl.DataFrame:
        won = markets.filter(pl.col("settlement") == 0)
        return S.rlm(tape).join(won.select("ticker"), on="ticker", how="semi")

    def outside(tape: pl.DataFrame) -> pl.DataFrame:
        known = MARKETS.filter(pl.col("settled_ts").is_not_null())
        return S.rlm(tape).join(known.select("ticker"), on="ticker", how="semi")

    for cheat, fact in ((direct, "settlement"), (outside, "settled_ts")):
        found = audit.settlement_facts(cheat, TAPE, MARKETS)
        assert not found.passed and fact in found.detail
    assert not audit.prefix_invariance(direct, TAPE, markets=MARKETS).passed
    assert "result" not in point_in_time(MARKETS).columns and point_in_time(None) is None
    assert facts_in_code(lambda t: S.rlm(t)) == ()
    assert audit.settlement_facts(
        lambda tape, markets: S.rlm(tape).join(markets, on="ticker", how="semi"), TAPE, MARKETS
    ).passed


def test_a_misspelt_column_raises_and_does_not_fail_the_audit() -> None:
    extended = MARKETS.with_columns(last_price=pl.lit(1.0))
    for column, withheld in (("settled_ts", True), ("last_price", True), ("prise", False)):
        names = [column]

        def asks(tape: pl.DataFrame, markets: pl.DataFrame, names: list[str] = names) -> pl.DataFrame:
            return S.rlm(tape).join(markets.filter(pl.col(names[0]).is_not_null()), on="ticker", how="semi")

        if withheld:
            assert "must not have" in audit.settlement_facts(asks, TAPE, extended).detail
        else:
            with pytest.raises(EdgeError, match=r"asks raised ColumnNotFoundError: .*prise"):
                audit.settlement_facts(asks, TAPE, extended)


def test_a_few_favourites_that_all_won_are_not_a_leak() -> None:
    """One market fires near a dollar in each of 20 fair worlds, so usually all of its bets win."""
    rule = S.PriceBand(side="no", low=1, high=6)
    fires = rule.run(TAPE)["ticker"].unique(maintain_order=True).head(30)
    passed = [audit.null_replay(rule, TAPE.filter(pl.col("ticker") == t), MARKETS).passed for t in fires]
    assert len(passed) == 30 and all(passed)


def test_a_fire_must_have_the_price_and_row_of_its_print() -> None:
    def cheaper(tape: pl.DataFrame) -> pl.DataFrame:
        return S.rlm(tape, min_trades=8, min_drop=2).with_columns(pl.col("price") + 100)

    found = audit.settlement_facts(cheaper, TAPE)
    assert not found.passed and found.first_row is not None
    assert "does not have that print's time, ticker and price" in found.detail
    assert not audit.settlement_facts(
        lambda t: S.rlm(t, min_trades=8).with_columns(row=pl.lit(10**7)), TAPE
    ).passed


def test_the_null_replay_detects_a_leak_in_the_entry_rule() -> None:
    rule = S.Rlm(min_trades=8, min_drop=2)

    def costly(fires: pl.DataFrame, tape: pl.DataFrame, markets: pl.DataFrame) -> pl.DataFrame:
        return enter(fires, tape, markets)

    def life_mean(fires: pl.DataFrame, tape: pl.DataFrame, markets: pl.DataFrame) -> pl.DataFrame:
        mean = tape.group_by("ticker").agg(pl.col("price").mean().alias("mean"))
        entries = enter(fires, tape, markets, rule="mid").join(
            mean, on="ticker", how="left", maintain_order="left"
        )
        return entries.with_columns(pnl=pl.col("value") - (1 - pl.col("mean") / 10_000)).drop("mean")

    assert audit.null_replay(rule, TAPE, MARKETS, entry=costly).passed
    assert not audit.null_replay(rule, TAPE, MARKETS, entry=life_mean).passed


def test_resampled_outcomes_lose_exactly_the_costs() -> None:
    entries = enter(S.rlm(TAPE, min_trades=5, min_drop=1), TAPE, MARKETS)
    assert audit.outcome_resampling(entries).passed
    empty = audit.outcome_resampling(entries.head(0))
    assert empty.passed and empty.detail == "no entry was filled"


def test_a_variant_with_the_edge_of_the_rule_is_inert() -> None:
    tape, markets = kl.synth.martingale(n_markets=8_000, seed=2)

    def bought(fires: pl.DataFrame) -> pl.DataFrame:
        return enter(fires, tape, markets)

    variants = {"rule": S.Rlm(min_trades=8, min_drop=2), "no flow": S.Rlm(yes_threshold=0.0, min_trades=8, min_drop=2),
                "mirrored": S.Rlm(min_trades=8, min_drop=2, side="yes"), "none": S.Rlm(min_trades=5000)}  # fmt: skip
    found = audit.placebos(variants, tape, markets, bought)
    assert found["name"].to_list() == list(variants) and found["inert"].to_list()[:2] == [None, True]
    assert found["edge"].to_list()[3] is None


def test_a_fair_world_replaces_only_prices_and_outcomes() -> None:
    tape, markets = kl.sample()
    worlds = FairWorlds(FrameTape(tape), markets)
    one, same, other = worlds.world(1), fair_world(tape, markets, seed=1), worlds.world(2)
    assert one.tape.equals(same.tape) and one.markets.equals(same.markets)
    assert not one.tape.equals(other.tape)
    assert one.tape.drop("price").equals(tape.drop("price")) and one.markets["settlement"].null_count() == 0
    assert one.tape["price"].is_between(100, 9900).all()
    # The mid is fair: over many worlds the mean outcome equals it.
    off = []
    for seed in range(30):
        world = worlds.world(seed)
        last = world.tape.with_columns(mid=pl.Series(world.mid)).group_by("ticker").agg(pl.col("mid").last())
        both = last.join(world.markets.select("ticker", "settlement"), on="ticker")
        off += ((both["settlement"] / 10_000) - both["mid"]).to_list()
    assert abs(np.mean(off)) < 3.5 * np.std(off) / np.sqrt(len(off))


def test_the_spread_of_a_fair_world_was_called_spread() -> None:
    tape, markets = kl.sample()
    with pytest.warns(DeprecationWarning, match="the keyword 'spread' is now 'spread_cents'"):
        old = fair_world(tape, markets, spread=4.0)  # type: ignore[call-arg]
    assert old.tape.equals(fair_world(tape, markets, spread_cents=4.0).tape)


def test_a_strategy_without_fires_passes() -> None:
    assert audit.prefix_invariance(S.Rlm(), TAPE.head(0)).passed
    assert audit.null_replay(S.Rlm(min_trades=10_000), TAPE, MARKETS, seeds=2).passed


@pytest.mark.parametrize("compare", [audit.prefix_invariance, audit.future_scramble])
def test_a_tape_sorted_by_market_is_refused(compare: Callable[..., audit.Audit]) -> None:
    with pytest.raises(TapeError, match="sort by ts"):
        compare(S.Rlm(), TAPE.sort("ticker", "ts"))


def test_the_former_keyword_of_fires_of_works_and_warns() -> None:
    audited, tape = strategy_of(S.Rlm()), FrameTape(TAPE)
    with pytest.warns(DeprecationWarning, match="'one' is now 'audited'"):
        fires, refusal = audit.fires_of(one=audited, tape=tape, markets=MARKETS)
    assert not refusal
    assert fires is not None
    assert fires.equals(audit.fires_of(audited, tape, MARKETS)[0])
