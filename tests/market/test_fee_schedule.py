"""Fee schedule: it matches the published table to the cent, and API changes override it."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kalshilab.errors import ConfigError
from kalshilab.market.fee_schedule import FeeSchedule
from kalshilab.market.fees import fill_fee

NOW = datetime(2025, 12, 5, tzinfo=UTC)
CENT = FeeSchedule(grid="cent")
# Cents per contract: price, taker at 100, maker at 100, taker at 1.
GOLDEN = [
    (0.50, 1.75, 0.44, 2), (0.67, 1.55, 0.39, 2), (0.73, 1.38, 0.35, 2), (0.75, 1.32, 0.33, 2),
    (0.90, 0.63, 0.16, 1), (0.95, 0.34, 0.09, 1), (0.97, 0.21, 0.06, 1),
]  # fmt: skip


@pytest.mark.parametrize(("price", "taker", "maker", "single"), GOLDEN)
def test_t12_fees_match_the_published_table(price: float, taker: float, maker: float, single: int) -> None:
    def cents(contracts: int, **how: object) -> float:
        return 100 * CENT.fee("KXFED", price, contracts=contracts, ts=NOW, **how)  # type: ignore[arg-type]

    assert cents(100) == pytest.approx(taker)
    assert cents(100, role="maker", fee_type="quadratic_with_maker_fees") == pytest.approx(maker)
    assert cents(1) == pytest.approx(single)
    assert cents(100, role="maker") == 0


@pytest.mark.parametrize(
    ("series", "when", "factor"),
    [
        ("KXFED", datetime(2021, 7, 31, 23, 59, tzinfo=UTC), 2.0),
        ("KXFED", datetime(2021, 8, 1, tzinfo=UTC), 1.0),
        ("KXINX", NOW, 0.5),
        ("INXD", NOW, 0.5),
        ("NASDAQ100", datetime(2021, 7, 1, tzinfo=UTC), 1.0),
    ],
)
def test_taker_fees_follow_series_and_date(series: str, when: datetime, factor: float) -> None:
    fee = FeeSchedule().fee(series, 0.5, contracts=100, ts=when, multiplier=1.0)
    assert fee == pytest.approx(factor * 0.0175)


@pytest.mark.parametrize(
    ("when", "fee"),
    [
        (datetime(2025, 5, 12, 23, tzinfo=UTC), 0.0),
        (datetime(2025, 5, 13, tzinfo=UTC), 0.0025),
        (datetime(2025, 7, 7, 23, tzinfo=UTC), 0.0025),
        (datetime(2025, 7, 8, tzinfo=UTC), 0.0175 / 4),
    ],
)
def test_maker_fees_of_enumerated_series_follow_the_date(when: datetime, fee: float) -> None:
    found = FeeSchedule().fee(
        "KXNFLGAME", 0.5, contracts=100, ts=when, role="maker", fee_type="quadratic_with_maker_fees"
    )
    assert found == pytest.approx(fee, abs=1e-6)


def test_changes_override_the_table_and_the_fee_terms_of_markets() -> None:
    changes = pl.DataFrame(
        {
            "series": ["KXA", "KXA"],
            "from_ts": [datetime(2025, 1, 1, tzinfo=UTC), datetime(2025, 6, 1, tzinfo=UTC)],
            "fee_type": ["quadratic", "quadratic_with_maker_fees"],
            "fee_multiplier": [0.5, 3.0],
        }
    )
    schedule = FeeSchedule(changes)

    def taker(series: str, *when: int) -> float:
        return schedule.fee(series, 0.5, contracts=100, ts=datetime(*when, tzinfo=UTC), multiplier=2.0)  # type: ignore[misc,arg-type]

    assert [taker("KXA", 2024, 12, 31), taker("KXA", 2025, 1, 1), taker("KXA", 2025, 6, 1)] == pytest.approx(
        [0.035, 0.00875, 0.0525]
    )
    assert taker("KXB", 2025, 6, 1) == pytest.approx(0.035)


@given(
    st.lists(
        st.tuples(st.integers(1, 9999), st.sampled_from([0.5, 1.0, 1.7, None])), min_size=1, max_size=30
    ),
    st.integers(1, 300),
)
def test_fees_of_many_fills_equal_the_fee_of_each(
    fills: list[tuple[int, float | None]], contracts: int
) -> None:
    frame = pl.DataFrame(
        {"series": ["KXS"] * len(fills), "ts": [NOW] * len(fills), "fee_type": [None] * len(fills),
         "fee_multiplier": [m for _, m in fills]},
        schema_overrides={"fee_type": pl.String, "fee_multiplier": pl.Float64, "ts": pl.Datetime("us", "UTC")},
    )  # fmt: skip
    found = FeeSchedule().fees(frame, np.array([p / 10_000 for p, _ in fills]), contracts=contracts)
    for fee, (price, multiplier) in zip(found, fills, strict=True):
        exact = fill_fee(price, contracts * 100, multiplier=multiplier or 1.0)
        assert fee == exact / 1e6 / contracts


def test_invalid_changes_and_contracts_are_rejected() -> None:
    good = {"series": ["A"], "from_ts": [NOW], "fee_type": ["quadratic"], "fee_multiplier": [1.0]}
    for bad in ({"fee_type": ["flat"]}, {"fee_multiplier": [None]}):
        with pytest.raises(ConfigError):
            FeeSchedule(pl.DataFrame({**good, **bad}))
    with pytest.raises(ConfigError):
        FeeSchedule(pl.DataFrame(good).drop("series"))
    with pytest.raises(ConfigError):
        CENT.fee("A", 0.5, contracts=0, ts=NOW)
