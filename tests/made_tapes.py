"""Tapes for tests.

Arbitrary prints have ties in time, a few markets, and prices on and off the cent.  In the markets of `leaning`, takers
lean to YES, so that sessions over them trade.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl
from hypothesis import strategies as st

from kalshilab.tape.schema import TAKER, TAPE_SCHEMA, TIME, with_codes
from kalshilab.tape.synth import Recipe, make

Print = tuple[int, str, int, int, str]
"""Microseconds since the previous print, ticker, YES price, size, taker."""
Past = list[tuple[int, int, int, str]]
"""A market's prints so far: time, price, size, taker."""

START_US = 1_700_000_000_000_000

TICKERS = ["A-B-1", "A-B-2", "C-D-1"]
TAKERS = ["yes", "yes", "no"]
ROUND_SIZES = [100, 200, 1_000, 2_000, 20_000]


def prints(
    most: int = 100, gaps: tuple[int, ...] = (0, 1, 500_000, 30_000_000)
) -> st.SearchStrategy[list[Print]]:
    """Return a strategy for lists of prints.

    Times tie, as they do in sweeps.  Round prices and sizes are frequent, because the bounds of a rule are round and
    most errors are at a bound.  Half of the lists are drawn print by print: they are short (five prints on average) and
    shrink well.  The other half is generated from a seed, because most rules need many prints to fire.

    Args:
        most: the maximum number of prints.
        gaps: microseconds between consecutive prints, to choose from.
    """
    short = st.lists(
        st.tuples(
            st.sampled_from(gaps),
            st.sampled_from(TICKERS),
            st.one_of(
                st.integers(0, 20).map(lambda c: c * 500),
                st.integers(1, 99).map(lambda c: c * 100),
                st.integers(0, 10_000),
            ),
            st.one_of(st.sampled_from(ROUND_SIZES), st.integers(1, 5_000), st.integers(1, 60_000)),
            st.sampled_from(TAKERS),
        ),
        max_size=most,
    )
    return st.one_of(short, st.builds(_from_seed, st.integers(0, 2**32), st.integers(0, most), st.just(gaps)))


def _from_seed(seed: int, count: int, gaps: tuple[int, ...]) -> list[Print]:
    rng = random.Random(seed)
    return [
        (
            rng.choice(gaps),
            rng.choice(TICKERS),
            rng.choice([500 * rng.randint(0, 20), 100 * rng.randint(1, 99), rng.randint(0, 10_000)]),
            rng.choice([rng.choice(ROUND_SIZES), rng.randint(1, 5_000), rng.randint(1, 60_000)]),
            rng.choice(TAKERS),
        )
        for _ in range(count)
    ]


def leaning(markets: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Generate markets of a few days, each with about sixty prints, three quarters of them by YES takers."""
    recipe = Recipe(
        prints_log_median=float(np.log(60)),
        prints_log_sd=0.4,
        taker=(6.0, 2.0),
        span_days=3.0,
        category="sports",
    )
    return make(markets, np.random.default_rng(3), recipe)


def tape_of(rows: list[Print]) -> pl.DataFrame:
    """Return a tape of prints."""
    ts, out = START_US, []
    for gap, *rest in rows:
        ts += gap
        out.append((ts, *rest))
    frame = pl.DataFrame(
        out,
        schema={"ts": pl.Int64, "ticker": pl.String, "price": pl.Int16, "size": pl.UInt32, "taker": TAKER},
        orient="row",
    ).with_columns(pl.col("ts").cast(pl.Datetime("us")).dt.replace_time_zone("UTC").cast(TIME), trade_id=None)
    return with_codes(frame.cast({"trade_id": pl.String})).select(TAPE_SCHEMA.names())


def plain_rows(tape: pl.DataFrame) -> list[tuple[str, int, int, int, str]]:
    """Return the tape's rows as arguments of `update`."""
    plain = tape.with_columns(pl.col("ts").dt.epoch("us"), pl.col("taker").cast(pl.String))
    return plain.select("ticker", "ts", "price", "size", "taker").rows()


def live(signal: Any, tape: pl.DataFrame) -> list[tuple[Any, ...]]:
    """Feed a signal print by print and return its fires as rows."""
    fires = [fire for row in plain_rows(tape) if (fire := signal.update(*row)) is not None]
    return [tuple(getattr(fire, name) for name in type(fire).__struct_fields__) for fire in fires]


def as_rows(fires: pl.DataFrame) -> list[tuple[Any, ...]]:
    """Return a frame of fires as rows of plain values, with times in microseconds."""
    return fires.with_columns(pl.col("ts").dt.epoch("us"), pl.col(pl.Enum).cast(pl.String)).rows()


def by_market(tape: pl.DataFrame) -> Iterator[tuple[int, Past]]:
    """Yield each row with its market's prints up to and including it."""
    history: dict[str, Past] = {}
    for row, (ticker, *rest) in enumerate(plain_rows(tape)):
        history.setdefault(ticker, []).append(tuple(rest))
        yield row, history[ticker]
