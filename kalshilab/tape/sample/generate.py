"""Build the bundled sample: ``python -m kalshilab.tape.sample.generate`` writes it beside this file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from kalshilab.tape.schema import MARKETS_SCHEMA, TAPE_SCHEMA, check_markets, check_tape, with_codes
from kalshilab.tape.synth import Recipe, make

__all__ = ["build", "main"]

SEED = 20_250_601
PLANTED_EDGE_CENTS = 12.0
"""Large enough to show in the few dozen fires of the planted group."""

_GROUPS: tuple[tuple[str, str, int, float, str, int, bool], ...] = (
    # series, category, markets, planted edge (cents), price structure, tick, fractional sizes
    ("KXSAMPLEGAME", "sports", 84, 0.0, "linear_cent", 100, False),
    ("KXSAMPLESHOW", "entertainment", 44, 0.0, "linear_cent", 100, True),
    ("KXSAMPLECOIN", "crypto", 44, 0.0, "deci_cent", 10, True),
    ("KXSAMPLEWORD", "media_mentions", 56, PLANTED_EDGE_CENTS, "tapered_deci_cent", 10, False),
    ("KXSAMPLERATE", "economics", 24, 0.0, "linear_cent", 100, False),
)


def build() -> tuple[pl.DataFrame, pl.DataFrame]:
    """Build the sample's tape and markets, identically on every machine."""
    rng = np.random.default_rng(SEED)
    tapes, tables = [], []
    for series, category, count, edge, structure, tick, fractional in _GROUPS:
        recipe = Recipe(
            prints_log_median=float(np.log(50)),
            prints_log_sd=0.6,
            most_prints=400,
            taker=(5.0, 2.2),
            tick=tick,
            fractional=fractional,
            span_days=6.0,
            life_log_median_days=float(np.log(0.8)),
            series=series,
            category=category,
            structure=structure,
        )
        tape, markets = make(count, rng, recipe, edge=edge)
        tapes.append(tape.drop("market"))
        tables.append(markets)
    tape = pl.concat(tapes).sort("ts", "trade_id")
    markets = _special_cases(pl.concat(tables), rng)
    tape = with_codes(tape).select(TAPE_SCHEMA.names())
    return check_tape(tape), check_markets(markets.sort("open_ts", "ticker").select(MARKETS_SCHEMA.names()))


def _special_cases(markets: pl.DataFrame, rng: np.random.Generator) -> pl.DataFrame:
    """Add titles, early closes, scalar settlements and unsettled markets."""
    markets = markets.with_columns(
        (pl.lit("Will it happen in ") + pl.col("event") + "?").alias("title"),
        # Two in seven close half a day early.
        pl.when(pl.int_range(pl.len()) % 7 < 2)
        .then(pl.col("close_ts") + pl.duration(hours=12))
        .otherwise("close_ts")
        .alias("expected_close_ts"),
    )
    scalar = (pl.col("category") == "economics") & (pl.int_range(pl.len()) % 8 == 0)
    value = pl.Series(rng.integers(5, 95, markets.height) * 100, dtype=pl.Int16)
    unsettled = (pl.col("category") == "entertainment") & (pl.int_range(pl.len()) % 11 == 0)
    nothing = pl.lit(None)
    return markets.with_columns(
        pl.when(scalar).then(pl.lit("scalar")).otherwise("result").alias("result"),
        pl.when(scalar).then(value).otherwise("settlement").alias("settlement"),
    ).with_columns(
        *(
            pl.when(unsettled).then(nothing).otherwise(name).alias(name)
            for name in ("result", "settlement", "settled_ts")
        )
    )


def main() -> None:
    """Write both files beside this module."""
    folder = Path(__file__).parent
    for name, frame in zip(("trades", "markets"), build(), strict=True):
        frame.write_parquet(folder / f"{name}.parquet", compression="zstd", compression_level=15)


if __name__ == "__main__":
    main()
