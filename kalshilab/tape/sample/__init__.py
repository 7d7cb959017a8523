"""The bundled sample: a few hundred synthetic markets that cover every feature of a tape.

Fair markets and a group with a planted edge, several categories, cent and sub-cent prices, whole and
fractional sizes, early closes, scalar settlements and a few unsettled markets.  `generate.py` builds it, and a test
rebuilds it and compares.
"""

from __future__ import annotations

from importlib import resources

import polars as pl

__all__ = ["sample"]


def sample() -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the bundled tape and markets.

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
