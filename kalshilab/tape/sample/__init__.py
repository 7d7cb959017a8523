"""The bundled sample: a few hundred made markets with everything a tape can hold.

Fair markets and a group with a planted edge, several categories, cent and sub-cent prices, whole and
fractional sizes, early closes, scalar settlements and a few markets still unsettled.  `generate.py` makes it,
and a test makes it again and compares.
"""

from __future__ import annotations

from importlib import resources

import polars as pl

__all__ = ["sample"]


def sample() -> tuple[pl.DataFrame, pl.DataFrame]:
    """The bundled tape and markets.

    >>> tape, markets = sample()
    >>> tape.schema["price"], sorted(markets["category"].unique())[:2]
    (Int16, ['crypto', 'economics'])
    """
    folder = resources.files(__name__)
    with (
        resources.as_file(folder / "trades.parquet") as trades,
        resources.as_file(folder / "markets.parquet") as markets,
    ):
        return pl.read_parquet(trades), pl.read_parquet(markets)
