"""Splits of event time: training sees no later event, and testing sees no earlier one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kalshilab.edge.robustness.walk_forward import (
    embargo_of,
    folds,
    mix_of,
    poststratify,
    spans,
    split,
    walk_forward,
)
from kalshilab.edge.schema import ENTRIES_SCHEMA
from kalshilab.errors import EdgeError

START = datetime(2025, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def at(hours: float) -> datetime:
    return START + hours * HOUR


def row(
    event: str, fired: float, settled: float | None, pnl: float | None = 0.1, **more: Any
) -> dict[str, Any]:
    """Return an entry, with the hours of its fire and its settlement and its profit in dollars."""
    base = {
        "fire": 0, "ts": at(fired), "ticker": f"{event}-T", "event": event, "series": event.split("-")[0],
        "category": "Economics", "side": "no", "fired_at": 0.7, "mid": 0.7, "filled": True, "entry_ts": at(fired),
        "price": 0.7, "fee": 0.01, "cost": 0.71, "value": None, "exclusive": False,
        "settled_ts": None if settled is None else at(settled), "pnl": pnl,
    }  # fmt: skip
    return base | more


def entries(*rows: dict[str, Any]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=ENTRIES_SCHEMA)


def daily(n: int, pnl: Any, *, held: float = 5, series: str = "S") -> pl.DataFrame:
    """Return one event per day, with a profit that depends on its number."""
    return entries(*(row(f"{series}-{i:04}", 24 * i, 24 * i + held, pnl(i)) for i in range(n)))


def events(frame: pl.DataFrame) -> list[str]:
    return sorted(frame["event"].unique())


def test_spans_run_from_the_first_fire_to_the_last_settlement() -> None:
    frame = entries(
        row("A", 1, 5), row("A", 3, 9), row("B", 2, None, None), row("B", 4, 6),
        row("C", 7, None, 0.0, filled=False, entry_ts=None), row("C", 6, 8),
    )  # fmt: skip
    assert spans(frame).rows() == [("A", at(1), at(9)), ("B", at(2), None), ("C", at(6), at(8))]
    first = pl.DataFrame({"event": ["C", "C", "A"], "ts": [at(0.5), at(0.7), at(2)]})
    assert spans(frame, first).rows() == [("C", at(0.5), at(8)), ("A", at(1), at(9)), ("B", at(2), None)]


def test_a_split_counts_purged_and_embargoed_events() -> None:
    frame = entries(
        row("past", 1, 5), row("just", 2, 10), row("span", 9, 11), row("open", 3, None, None),
        row("soon", 10, 12), row("soon2", 11.9, 30), row("later", 12, 13), row("far", 40, None, None),
    )  # fmt: skip
    part = split(frame, at(10), embargo=2 * HOUR)
    assert events(part.train) == ["past"], "an event settled at the boundary is not settled before it"
    assert events(part.test) == ["far", "later"]
    assert (part.purged, part.embargoed) == (3, 2)
    short = split(frame, at(10), embargo=2 * HOUR, stop=at(40))
    assert events(short.test) == ["later"]
    early = pl.DataFrame({"event": ["later"], "ts": [at(9.5)]})
    assert events(split(frame, at(10), embargo=2 * HOUR, first_prints=early).test) == ["far"]


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 100), st.none() | st.integers(0, 60)), min_size=1),
    st.integers(0, 120),
    st.integers(0, 30),
)
def test_each_event_is_on_one_side_or_counted_as_dropped(
    rows: list[tuple[int, int, int | None]], boundary: int, embargo: int
) -> None:
    frame = entries(*(row(f"E{e}", f, None if h is None else f + h) for e, f, h in rows))
    part = split(frame, at(boundary), embargo=embargo * HOUR)
    train, test = set(part.train["event"]), set(part.test["event"])
    assert not train & test
    assert len(train) + len(test) + part.purged + part.embargoed == frame["event"].n_unique()
    # Events stay whole and unchanged, strictly on their side of the boundary.
    assert part.train.equals(frame.filter(pl.col("event").is_in(train)))
    assert part.train["settled_ts"].null_count() == 0
    assert part.train.filter(pl.col("settled_ts") >= at(boundary)).is_empty()
    assert part.test.filter(pl.col("ts") < at(boundary + embargo)).is_empty()


def test_the_embargo_is_the_longer_of_holding_time_and_period() -> None:
    frame = daily(40, lambda i: 0.1, held=5)
    assert embargo_of(frame) == timedelta(days=1), "one event per day"
    assert embargo_of(frame, period=HOUR) == timedelta(hours=5)
    long = pl.concat([frame, entries(*(row(f"X{i}", i, i + 100) for i in range(3)))])
    assert embargo_of(long, period=HOUR) == timedelta(hours=100), "3 of 43 are above the 95 % quantile"
    assert embargo_of(frame.head(0)) == timedelta(0)


def test_folds_expand_and_do_not_overlap() -> None:
    frame = daily(100, lambda i: 0.1)
    found = folds(frame, 4)
    assert [f.number for f in found] == [1, 2, 3, 4]
    # Each part has twenty events; none is open at a split, and one begins within the embargo of a day.
    assert [f.train["event"].n_unique() for f in found] == [20, 40, 60, 80]
    assert [f.test["event"].n_unique() for f in found] == [19, 19, 19, 19]
    assert [f.split.embargoed for f in found] == [1, 1, 1, 1] and [f.split.purged for f in found] == [0] * 4
    tested = [e for f in found for e in f.test["event"]]
    assert len(tested) == len(set(tested))
    assert found[-1].stop is None and found[0].stop == found[1].split.boundary
    slow = folds(daily(100, lambda i: 0.1, held=30), 4)
    # The embargo is thirty hours: one event is open at each split, and two begin within the embargo.
    assert [f.split.purged for f in slow] == [1] * 4 and [f.split.embargoed for f in slow] == [2] * 4


@pytest.mark.parametrize(
    ("frame", "options", "message"),
    [
        (daily(9, lambda i: 0.1), {}, "needs at least 10 events, got 9"),
        (daily(100, lambda i: 0.1), {"folds": 1}, "folds must be >= 2, got 1"),
        (daily(100, lambda i: 0.1), {"embargo": timedelta(days=50)}, "no test events"),
        (daily(100, lambda i: 0.1, held=24 * 90), {"embargo": HOUR}, "no training events"),
        (entries(*(row(f"E{i}", 1, 2) for i in range(50))), {}, "too many events begin at 2025-01-01 01:00"),
    ],
)
def test_impossible_folds_are_rejected_with_the_reason(
    frame: pl.DataFrame, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(EdgeError, match=message):
        folds(frame, **options)


def test_walk_forward_chooses_on_the_past_only() -> None:
    """One cell earns in the first half of the period and the other in the second, so the walk switches late."""
    rng = np.random.default_rng(1)
    noise = rng.normal(0, 0.02, 200)
    cells = {
        "early": daily(200, lambda i: (0.10 if i < 100 else -0.10) + noise[i]),
        "late": daily(200, lambda i: (-0.10 if i < 100 else 0.10) + noise[i]),
    }
    found = walk_forward(lambda which: cells[which], [{"which": "early"}, {"which": "late"}], folds=4)
    assert found.folds["chosen"].to_list()[:3] == ["which=early"] * 3
    # Parts have forty events: the second part and half of the third earn, the following ones lose.
    test = found.folds["test_edge"].to_list()
    assert test[0] == pytest.approx(10, abs=1) and test[2] == pytest.approx(-10, abs=1)
    assert found.folds["train_edge"][0] == pytest.approx(10, abs=1)
    assert found.positive in (0.25, 0.5)
    assert found.events == found.folds["test_events"].sum() == found.entries["event"].n_unique()
    weights = found.folds["test_events"].to_numpy()
    assert found.edge == pytest.approx(np.average(test, weights=weights))


def test_the_best_of_many_random_cells_earns_nothing_out_of_sample() -> None:
    """The chosen cell looks good in training; its test edge is centred on zero."""
    rng = np.random.default_rng(2)
    tested, trained = [], []
    for _ in range(12):
        fair = rng.choice([0.3, -0.7], 150, p=[0.7, 0.3])
        whole = daily(150, lambda i, fair=fair: float(fair[i]))
        cells = [whole.filter(pl.Series(rng.random(150) < 0.6)) for _ in range(15)]
        found = walk_forward(
            lambda i, cells=cells: cells[i], [{"i": i} for i in range(15)], folds=3, min_events=15
        )
        tested.append(found.edge)
        trained.append(found.folds["train_edge"].mean())
    assert np.mean(trained) > 4
    assert abs(np.mean(tested)) < 3 * np.std(tested, ddof=1) / np.sqrt(len(tested))


def test_walk_forward_accepts_a_score_and_needs_enough_events() -> None:
    good = daily(100, lambda i: 0.05 + 0.01 * (i % 2))
    lucky = daily(100, lambda i: 3.0 if i == 3 else 0.0)
    kept = walk_forward(lambda n: (good, lucky)[n], [{"n": 0}, {"n": 1}], min_events=10)
    assert kept.folds["cell"].to_list() == [0] * 4, "one lucky event does not win"
    swayed = walk_forward(
        lambda n: (good, lucky)[n], [{"n": 0}, {"n": 1}], min_events=10, score=lambda e: e["pnl"].max()
    )
    assert swayed.folds["cell"].to_list() == [1] * 4
    with pytest.raises(EdgeError, match="no cell has 30 settled events"):
        walk_forward(lambda: good, [{}])
    with pytest.raises(EdgeError, match="parameters must not be empty"):
        walk_forward(lambda: good, [])
    plain = walk_forward(lambda: good, [{}], min_events=10)
    assert plain.folds["chosen"].to_list() == [""] * 4 and plain.positive == 1.0


def test_poststratify_removes_the_effect_of_the_mix() -> None:
    def year(sports: int, politics: int) -> pl.DataFrame:
        rows = [row(f"S{i}", i, i + 1, -0.02 + 0.001 * (i % 2), category="Sports") for i in range(sports)]
        rows += [row(f"P{i}", i, i + 1, 0.04 + 0.001 * (i % 2), category="Politics") for i in range(politics)]
        return entries(*rows)

    before, after = year(10, 90), year(90, 10)
    mix = mix_of(before)
    assert mix == {"Politics": 0.9, "Sports": 0.1}
    one, two = poststratify(before, mix), poststratify(after, mix)
    assert one.edge == pytest.approx(two.edge) == pytest.approx(0.9 * 4.05 + 0.1 * -1.95)
    assert one.covered == 1.0 and two.frame["n_events"].to_list() == [10, 90]
    se = np.sqrt(0.81 * 0.05**2 * (10 / 9) / 10 + 0.01 * 0.05**2 * (90 / 89) / 90)
    assert two.se == pytest.approx(se)
    assert poststratify(after, {"Sports": 2.0}).edge == pytest.approx(-1.95)


def test_poststratify_reports_the_covered_fraction() -> None:
    frame = entries(row("A", 1, 2, 0.1), row("B", 1, 2, 0.3), row("B", 2, 3, 0.5), row("C", 1, None, None))
    found = poststratify(frame, {"Economics": 0.6, "Sports": 0.2})
    assert found.covered == pytest.approx(0.75) and found.edge == pytest.approx(25)
    assert found.frame.rows()[1] == ("Sports", 0.2, 0, None, None)
    with pytest.raises(EdgeError, match="a category with settled events, got"):
        poststratify(frame, {"Sports": 1.0})
    with pytest.raises(EdgeError, match="mix must have weights >= 0"):
        poststratify(frame, {"Economics": -1.0})
