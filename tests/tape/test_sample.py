"""The bundled sample equals the generator's output and covers the features of a tape."""

from __future__ import annotations

import sys
from pathlib import Path

import polars as pl

from kalshilab.signals import rlm
from kalshilab.tape import sample
from kalshilab.tape.sample.generate import build


def test_the_generator_reproduces_the_sample() -> None:
    for built, bundled in zip(build(), sample(), strict=True):
        assert built.equals(bundled)


def test_the_sample_covers_every_feature() -> None:
    tape, markets = sample()
    assert markets["category"].n_unique() >= 4
    assert set(markets["result"].unique()) == {"yes", "no", "scalar", None}
    assert (tape["price"] % 100 != 0).any(), "sub-cent prices"
    assert (tape["size"] % 100 != 0).any(), "fractional sizes"
    assert (markets["close_ts"] < markets["expected_close_ts"]).any(), "early closes"
    assert markets["price_structure"].n_unique() == 3
    assert rlm(tape).height >= 40
    assert set(tape["ticker"].unique()) == set(markets["ticker"])


def test_the_sample_is_small() -> None:
    folder = Path(sys.modules[build.__module__].__file__ or "").parent
    assert sum(f.stat().st_size for f in folder.glob("*.parquet")) < 400_000


def test_prices_are_on_the_grids_of_their_markets() -> None:
    from kalshilab.units import TickGrid

    tape, markets = sample()
    joined = tape.join(markets.select("ticker", "price_structure"), on="ticker")
    for structure, group in joined.group_by("price_structure"):
        grid = TickGrid.named(str(structure[0]))
        assert all(grid.valid(p) for p in group["price"].unique()), structure
    assert isinstance(tape, pl.DataFrame)
