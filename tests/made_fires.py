"""Small tapes, markets and fires, written out row by row."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

import kalshilab as kl
from kalshilab.tape.schema import MARKETS_SCHEMA, TAKER

BEGIN = datetime(2025, 6, 1, tzinfo=UTC)


def tape_of(rows: list[tuple[float, str, int, str]]) -> pl.DataFrame:
    """Return a tape of rows (seconds, ticker, YES price in cents, taker)."""
    frame = pl.DataFrame(rows, schema=["s", "ticker", "price", "taker_side"], orient="row")
    return kl.to_tape(
        frame.select(
            (pl.lit(BEGIN) + pl.duration(milliseconds=(pl.col("s") * 1000).cast(pl.Int64))).alias("created_time"),
            "ticker", pl.col("price").alias("yes_price"), "taker_side", pl.lit(1).alias("count"),
        ),
        price_unit="cents",
    )  # fmt: skip


def markets_of(results: dict[str, str | None], **more: Any) -> pl.DataFrame:
    """Return markets with these results by ticker; A-1 and A-2 belong to event A."""
    names = list(results)
    value = {"yes": 10_000, "no": 0, "scalar": 4_200, None: None}
    table = pl.DataFrame(
        {
            "ticker": names, "event": [n.split("-")[0] for n in names], "series": ["KXS"] * len(names),
            "category": ["c"] * len(names), "result": list(results.values()),
            "settlement": [value[r] for r in results.values()],
            "settled_ts": [BEGIN + timedelta(days=1) if r else None for r in results.values()],
            "fee_multiplier": [1.0] * len(names), "fee_type": ["quadratic"] * len(names), **more,
        },
        schema_overrides=MARKETS_SCHEMA,
    )  # fmt: skip
    return table.select(
        (pl.col(n) if n in table.columns else pl.lit(None).alias(n)).cast(d)
        for n, d in MARKETS_SCHEMA.items()
    )


def fires_of(tape: pl.DataFrame, fired: list[tuple[int, str]]) -> pl.DataFrame:
    picked = tape.with_row_index("row")[[row for row, _ in fired]]
    return picked.select("row", "ts", "ticker", pl.Series("side", [s for _, s in fired]).cast(TAKER), "price")
