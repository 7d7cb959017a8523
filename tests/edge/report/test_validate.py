"""`validate` from end to end: fair markets, planted edges, look-ahead, registries and invalid input."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import kalshilab as kl
from kalshilab.edge.prereg.hypothesis import hypothesis_of
from kalshilab.edge.prereg.registry import Registry
from kalshilab.edge.report.card import FIGURES, Card
from kalshilab.errors import EdgeError, RegistryError, TapeError
from kalshilab.market.fee_schedule import FeeSchedule
from kalshilab.signals.engine import compiled_signal
from kalshilab.tape import frame_checks
from kalshilab.tape import tape as tape_module
from kalshilab.tape.lake.lake import Lake

RULE = kl.signals.Rlm(yes_threshold=0.65, min_trades=8, min_drop=2)


@pytest.fixture(scope="module")
def fair() -> tuple[pl.DataFrame, pl.DataFrame]:
    return kl.synth.martingale(n_markets=12_000, seed=1)


@pytest.fixture(scope="module")
def card(fair: tuple[pl.DataFrame, pl.DataFrame]) -> Card:
    return kl.validate(RULE, *fair, claim=17.38, registry=registered(RULE), resamples=499)


def registered(*signals: Any, **more: Any) -> Registry:
    registry = Registry()
    for number, signal in enumerate(signals):
        registry.register(
            hypothesis_of(signal, id=f"H{number}", family="f", mechanism="somebody pays", author="us", **more)
        )
    return registry


def test_fair_markets_have_no_edge(card: Card) -> None:
    steps = {row["step"]: row["edge"] for row in card.waterfall.iter_rows(named=True)}
    assert steps["claimed"] == 17.38 and steps["whole life"] > 10
    assert abs(steps["mid"]) < 4 and steps["fills missed"] < 0.5
    assert card.verdict in ("REJECTED", "UNPROVEN") and card.criterion(1).passed and card.criterion(3).passed
    assert card.header.startswith("RLM: claimed +17.4 c; as of the fire ") and card.verdict in card.header
    assert (
        card.numbers["as_of_fire"] == pytest.approx(steps["as of the fire"])
        and abs(steps["as of the fire"]) < 4
    )
    assert 0 <= card.numbers["deflated_sharpe"] < 0.95
    assert [line.number for line in card.criteria] == list(range(1, 13))
    assert card.numbers["trials"] == 1 and card.criterion(12).value.endswith("(registered before its data)")


def test_a_planted_edge_is_valid() -> None:
    rule = kl.signals.Rlm()
    tape, markets = kl.synth.martingale(n_markets=30_000, seed=1, edge=12.0)
    found = kl.validate(rule, tape, markets, registry=registered(rule))
    assert found.verdict == "VALID", found.criteria
    assert found.numbers["per_fire"] > 5 and found.numbers["lower"] > 0
    assert {"latency", "heatmap"} <= found.frames.keys()
    assert 0 < found.numbers["stake"] <= 0.01
    assert 0 < found.numbers["drawdown"] < found.numbers["drawdown_at_lower"] < 1


def test_the_same_call_gives_the_same_card(card: Card, fair: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    with ThreadPoolExecutor(2) as pool:
        again = kl.validate(RULE, *fair, claim=17.38, registry=registered(RULE), resamples=499, executor=pool)
    assert again.to_json() == card.to_json()
    assert again == card and hash(again) == hash(card) and again != kl.validate(RULE, *kl.sample()) != 5


def test_the_card_is_complete_and_saved_as_json(card: Card, tmp_path: Path) -> None:
    decoded = json.loads(card.to_json())
    assert decoded["verdict"] == card.verdict and len(decoded["criteria"]) == 12 and decoded["spec"]["hash"]
    assert json.loads(card.save(tmp_path).read_text()) == decoded
    assert card.numbers["stake"] == 0, "without an edge the stake is zero"
    assert "nan" not in card.to_json().lower().replace("finance", "")
    assert card.summary()["failed"].split()[0] in "4567"
    assert card.verdict in card._repr_html_() and repr(card).startswith(f"<Card {card.verdict}")
    for name in FIGURES:
        if name in card.frames:
            assert card.figure(name).data, name
        else:
            with pytest.raises(EdgeError, match="was not measured for this card; choose from waterfall, "):
                card.figure(name)
    with pytest.raises(EdgeError, match="unknown figure 'pie'; choose from waterfall, "):
        card.figure("pie")
    for number, message in ((13, "with_live adds line 13"), (99, "1 to 12, got 99")):
        with pytest.raises(EdgeError, match=message):
            card.criterion(number)


def test_too_small_a_sample_states_the_detectable_edge() -> None:
    found = kl.validate(kl.signals.Rlm(), *kl.sample(), registry=registered(kl.signals.Rlm()))
    assert found.verdict == "INSUFFICIENT" and found.numbers["p"] is None and found.numbers["mde"] > 3
    assert "cannot detect less than" in found.header
    assert all(line.passed is None for line in found.criteria if line.number > 3)


def test_too_small_a_sample_shows_no_p_value_anywhere() -> None:
    """Neither numbers, JSON, HTML, summary and registry nor neighbouring settings have a p-value."""
    rule = kl.signals.Rlm(min_trades=15, min_drop=2)
    registry = registered(rule)
    found = kl.validate(rule, *kl.sample(), registry=registry)
    decoded = json.loads(found.to_json())
    assert found.verdict == "INSUFFICIENT" and found.numbers["events"] > 20

    def values(node: Any, path: str = "") -> list[tuple[str, Any]]:
        if isinstance(node, dict):
            return [x for k, v in node.items() for x in values(v, f"{path}.{k}")]
        if isinstance(node, list):
            return [x for v in node for x in values(v, path)]
        return [(path, node)]

    shown = [
        v
        for path, v in values(decoded) + values(found.summary())
        if path.split(".")[-1] in ("p", "p_adjusted", "p_mc")
    ]
    assert shown and all(v is None for v in shown)
    assert not any(v for path, v in values(decoded) if path.endswith(".star"))
    page = found._repr_html_() + repr(found) + "".join(f"{c.value} {c.detail}" for c in found.criteria)
    assert "p =" not in page and "p-value" not in page
    assert [e.trial.p for e in registry.evaluations()] == [None] and registry.board()["p"][0] is None
    assert found.figure("heatmap").data


def test_the_card_shows_audits_look_ahead_gap_and_placebos(card: Card) -> None:
    assert card.criterion(1).value == "5 of 5 audits passed"
    gap, se = card.numbers["look_ahead_gap"], card.numbers["look_ahead_gap_se"]
    assert gap > 3 * se > 0
    note = card.waterfall.filter(pl.col("step") == "whole life")["note"][0]
    assert note.startswith(f"looks ahead by {gap:+.1f} c")
    placebos = card.frames["placebos"]
    assert placebos["name"].to_list()[0] == "rule" and {"mirrored", "other side"} <= set(placebos["name"])
    assert placebos["inert"].null_count() == 1
    assert "placebos" in json.loads(card.to_json())["frames"]


def whole_life(tape: pl.DataFrame) -> pl.DataFrame:
    """Buy NO at the tenth print of markets that end below their first price."""
    life = tape.group_by("ticker").agg(pl.col("price").first().alias("a"), pl.col("price").last().alias("z"))
    rows = tape.with_row_index("row").with_columns(pl.int_range(pl.len()).over("ticker").alias("k"))
    kept = rows.join(life.filter(pl.col("z") < pl.col("a")), on="ticker", how="semi", maintain_order="left")
    return kept.filter(pl.col("k") == 9).select("row", "ts", "ticker", pl.lit("no").alias("side"), "price")


def informed(tape: pl.DataFrame, markets: pl.DataFrame) -> pl.DataFrame:
    """Buy NO in markets that NO is going to win."""
    rows = tape.with_row_index("row").join(markets.filter(pl.col("result") == "no"), on="ticker", how="semi")
    return rows.select("row", "ts", "ticker", pl.lit("no").alias("side"), "price")


@pytest.mark.parametrize("cheat", [whole_life, informed])
def test_strategies_that_look_ahead_are_invalid(cheat: Any, fair: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    found = kl.validate(cheat, *fair, registry=registered(cheat))
    assert found.verdict == "INVALID_LOOKAHEAD"
    finding = "asks for a column it must not have" if cheat is informed else "the fire at row"
    assert finding in found.criterion(1).detail and found.to_json() and found._repr_html_()


def test_a_lake_gives_the_same_verdict(tmp_path: Path) -> None:
    tape, markets = kl.synth.martingale(n_markets=1_500, seed=6)
    lake = Lake.create(tmp_path / "lake")
    lake.append(tape, markets)
    stored = lake.read()
    frame = kl.validate(RULE, stored, lake.markets, registry=registered(RULE), resamples=199)
    for source in (lake, str(lake.path)):
        found = kl.validate(RULE, source, registry=registered(RULE), resamples=199)
        # The whole life of a lake covers only markets with a fire.
        lake_numbers, frame_numbers = (
            {k: v for k, v in c.numbers.items() if "gap" not in k} for c in (found, frame)
        )
        assert lake_numbers == frame_numbers and found.verdict == frame.verdict
        assert found.waterfall.filter(pl.col("step") != "whole life").equals(
            frame.waterfall.filter(pl.col("step") != "whole life")
        )
    with pytest.raises(EdgeError, match="cannot read a lake"):
        kl.validate(whole_life, lake)


def test_pandas_frames_and_functions_are_accepted(fair: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    tape, markets = fair[0].head(40_000), fair[1]
    one = kl.validate(lambda t: RULE.run(t), tape, markets, registry=None, resamples=199)
    assert (
        one.criterion(9).passed is None and "pass grid=" in one.criterion(9).detail
    ) or one.verdict == "INSUFFICIENT"
    other = kl.validate(RULE, tape.to_pandas(), markets.to_pandas(), registry=registered(RULE), resamples=199)
    assert other.numbers["net"] == pytest.approx(one.numbers["net"])


def test_trials_are_counted_and_recorded_in_the_registry(
    fair: tuple[pl.DataFrame, pl.DataFrame], tmp_path: Path
) -> None:
    tape, markets = fair[0].head(25_000), fair[1]
    path = tmp_path / "registry.jsonl"
    with pytest.raises(RegistryError, match="is not registered"):
        kl.validate(RULE, tape, markets, registry=path)
    registry = Registry(path)
    other = kl.signals.Rlm(yes_threshold=0.6, min_trades=8, min_drop=2)
    for name, signal in (("A", RULE), ("B", other)):
        registry.register(
            hypothesis_of(signal, id=name, family="f", mechanism="m", author="us", contracts=10)
        )
    first = kl.validate(RULE, tape, markets, registry=path, resamples=199)
    assert first.numbers["trials"] == 1 and Registry(path).trials("f") == 1
    assert kl.validate(RULE, tape, markets, registry=path, resamples=199).numbers["trials"] == 1
    assert kl.validate(other, tape, markets, registry=path, resamples=199).numbers["trials"] == 2
    # Other terms make another hypothesis.
    with pytest.raises(RegistryError):
        kl.validate(RULE, tape, markets, registry=path, latency_s=60.0)
    assert (
        kl.validate(RULE, tape, markets, registry=path, trials=4212, resamples=199).numbers["trials"] == 4212
    )
    assert kl.validate(RULE, tape, markets, registry=path, trials=1, resamples=199).numbers["trials"] == 2, (
        "never fewer"
    )
    # Another fee schedule makes another hypothesis too.
    free = FeeSchedule(grid="cent")
    with pytest.raises(RegistryError):
        kl.validate(RULE, tape, markets, registry=path, schedule=free)
    registry.register(hypothesis_of(RULE, id="C", family="f", mechanism="m", author="us", schedule=free))
    assert (
        kl.validate(RULE, tape, markets, registry=path, schedule=free, resamples=199).numbers["trials"] == 3
    )


def test_each_cell_of_a_grid_is_a_trial(fair: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    grid = {"min_trades": [8, 12], "min_drop": [2, 4]}
    registry = registered(RULE, grid=grid)
    tape, markets = fair[0].head(50_000), fair[1]
    found = kl.validate(RULE, tape, markets, registry=registry, grid=grid, resamples=199)
    assert found.numbers["trials"] == 4 and registry.trials("f") == 4
    assert (
        kl.validate(RULE, tape, markets, registry=registry, grid=grid, resamples=199).numbers["trials"] == 4
    )
    assert "m = 4 trials" in found.header


@pytest.mark.soak
def test_a_lockbox_is_opened_on_request_and_only_for_what_passes(
    fair: tuple[pl.DataFrame, pl.DataFrame],
) -> None:
    often = kl.signals.Rlm(yes_threshold=0.6, min_trades=4, min_drop=1)
    shut = kl.validate(often, *fair, registry=registered(often), lockbox=True, resamples=199)
    assert shut.criterion(12).passed is None and "was not opened" in shut.criterion(12).detail
    assert not shut.frames["equity"]["lockbox"].any()
    rule = kl.signals.Rlm()
    planted = kl.synth.martingale(n_markets=40_000, seed=1, edge=15.0)
    registry = registered(rule)
    for look, budget in ((1, "0.03"), (2, "0.015")):
        found = kl.validate(rule, *planted, registry=registry, lockbox=True, resamples=199)
        assert found.verdict == "VALID", found.criteria
        assert (
            f"look {look}" in found.criterion(12).value and found.criterion(12).detail == f"budget {budget}"
        )
    assert found.frames["equity"]["lockbox"].any()


def test_invalid_input_is_rejected() -> None:
    tape, markets = kl.sample()
    with pytest.raises(EdgeError, match="no argument 'delay'"):
        kl.validate(RULE, tape, markets, delay=3)
    with pytest.raises(EdgeError, match="must be a signal or a function of a tape, got <class"):
        kl.validate(kl.signals.Rlm, tape, markets)
    with pytest.raises(EdgeError, match="markets must be given beside a tape"):
        kl.validate(RULE, tape)
    with pytest.raises(TapeError, match="pass event= to"):
        kl.validate(RULE, tape, markets.with_columns(event=pl.lit(None, pl.String)))
    with pytest.raises(EdgeError, match=r"grid must name parameters of rlm \(.*\), got 'flow_rate'"):
        kl.validate(
            RULE, tape, markets, grid={"flow_rate": [1]}, registry=registered(RULE, grid={"flow_rate": [1]})
        )
    with pytest.raises(EdgeError, match="min_trades must be a list of values, got 15"):
        kl.validate(RULE, tape, markets, grid={"min_trades": 15})  # type: ignore[dict-item]
    with pytest.raises(EdgeError, match="claim must be a number of cents, got '17'"):
        kl.validate(RULE, tape, markets, claim="17")  # type: ignore[arg-type]
    with pytest.raises(EdgeError, match="a function of a tape, got DataFrame"):
        kl.validate(tape, RULE, markets)
    with pytest.raises(EdgeError, match="no column 'row'"):
        kl.validate(lambda t: t.select("ts"), tape, markets)
    with pytest.raises(EdgeError, match="raised ZeroDivisionError"):
        kl.audit.prefix_invariance(lambda t: 1 / 0, tape)


def test_unsettled_markets_are_counted_and_cap_the_verdict() -> None:
    tape, markets = kl.synth.martingale(n_markets=4_000, seed=3)
    gone = pl.int_range(pl.len()) % 5 == 0
    open_ = markets.with_columns(
        [
            pl.when(gone).then(None).otherwise(pl.col(c)).alias(c)
            for c in ("result", "settlement", "settled_ts")
        ]
    )
    found = kl.validate(RULE, tape, open_, registry=registered(RULE), resamples=199)
    assert not found.criterion(2).passed and found.numbers["censored"] > 0.1
    assert "fires without an outcome" in found.criterion(2).detail


def test_a_frame_is_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """`validate` checks a frame when it opens it; audits, entries and stress tests reuse the opened tape."""
    tape, markets = kl.sample()
    checks: list[int] = []
    check = frame_checks.checked_columns

    def counted(data: Any, columns: Any) -> pl.DataFrame:
        checks.append(1)
        return check(data, columns)

    for module in (frame_checks, tape_module, compiled_signal):
        monkeypatch.setattr(module, "checked_columns", counted)
    kl.validate(kl.signals.Rlm(min_trades=15), tape, markets)
    assert len(checks) == 1


def test_the_card_states_its_trials_and_their_source(tmp_path: Path) -> None:
    tape, markets = kl.sample()
    rule = kl.signals.ConvictionRatio()
    first = kl.validate(rule, tape, markets, audits=False)
    kl.validate(rule.with_parameters(min_trades=77), tape, markets, audits=False)
    again = kl.validate(rule, tape, markets, audits=False)
    assert "(all of family conviction_ratio in this process)" in first.header
    assert first.trials_from in first.header and first.trials_from in first.to_json()
    assert again.numbers["trials"] == first.numbers["trials"] + 1
    own = kl.validate(rule, tape, markets, audits=False, registry=registered(rule))
    assert own.trials_from == "all of family f in the registry"
    assert kl.validate(rule, tape, markets, audits=False, trials=500).trials_from == "given by trials="
