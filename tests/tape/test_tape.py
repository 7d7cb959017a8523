"""The `Tape` protocol: a frame, a lake and a file give the same results."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

import kalshilab as kl
from kalshilab.errors import TapeError
from kalshilab.tape import FrameTape, Lake, Tape, TapeFile, tape_of
from kalshilab.tape.tape import frame_in_memory

FRAME, MARKETS = kl.sample()
MIDDLE: datetime = FRAME["ts"][FRAME.height // 2]
COLUMNS = ("market", "ts", "price", "size", "taker")


@pytest.fixture(scope="module", params=["frame", "lake", "file"])
def tape(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tape:
    """Return the sample as each kind of tape."""
    folder: Path = tmp_path_factory.mktemp("tape")
    if request.param == "frame":
        return FrameTape.of(FRAME)
    if request.param == "file":
        FRAME.write_parquet(folder / "tape.parquet")
        return TapeFile(folder / "tape.parquet")
    lake = Lake.create(folder / "lake")
    lake.append(FRAME, MARKETS)
    return lake


def test_tape_of_returns_a_tape_unchanged(tape: Tape) -> None:
    assert isinstance(tape, Tape)
    assert tape_of(tape) is tape
    assert tape.rows == FRAME.height


def test_batches_contain_the_prints_in_order(tape: Tape) -> None:
    batches = list(tape.batches(COLUMNS))
    assert [b.first_row for b in batches] == [
        sum(b.frame.height for b in batches[:k]) for k in range(len(batches))
    ]
    assert pl.concat([b.frame for b in batches]).equals(FRAME.select(COLUMNS))


def test_tickers_are_indexed_by_market_code(tape: Tape) -> None:
    names = tape.tickers.cast(pl.String)
    assert names.gather(FRAME["market"]).to_list() == FRAME["ticker"].to_list()


def test_a_prefix_includes_the_prints_at_its_end(tape: Tape) -> None:
    prefix = tape.prefix(MIDDLE)
    assert prefix.frame["ts"].max() == MIDDLE
    assert prefix.rows == FRAME.filter(pl.col("ts") <= MIDDLE).height
    assert tape.prefix(FRAME["ts"][0] - timedelta(microseconds=1)).rows == 0


def test_a_replaced_future_leaves_the_past_unchanged(tape: Tape) -> None:
    end = 1_000
    other = tape.excerpt(FRAME.height).frame.slice(end).with_columns(price=pl.lit(5_000, pl.Int16))
    changed = tape.with_future(end, other)
    assert changed.rows == FRAME.height
    assert changed.frame["price"].head(end).to_list() == FRAME["price"].head(end).to_list()
    assert set(changed.frame["price"].slice(end)) == {5_000}


def test_first_prints_and_ends_equal_those_of_the_frame(tape: Tape) -> None:
    first = FRAME.group_by("ticker").agg(pl.col("ts").first()).sort("ticker")
    assert tape.first_prints().select("ticker", "ts").sort("ticker").equals(first)
    assert tape.ends() == (FRAME["ts"].min(), FRAME["ts"].max())


def test_a_tape_loaded_into_memory_equals_the_frame(tape: Tape) -> None:
    names = ("ts", "ticker", "price", "size", "taker")
    assert frame_in_memory(tape).select(names).equals(FRAME.select(names))
    assert tape.lazy().select(names).collect().equals(FRAME.select(names))


def test_the_digest_is_reproducible_and_not_that_of_empty_data(tape: Tape) -> None:
    digests = []
    for _ in range(2):
        digest = hashlib.sha256()
        tape.update_digest(digest)
        digests.append(digest.hexdigest())
    assert digests[0] == digests[1] != hashlib.sha256().hexdigest()


CALLS: dict[str, Callable[[object], object]] = {
    "run": lambda data: kl.signals.Rlm(min_trades=15).run(data),
    "scan": lambda data: kl.signals.scan(data, kl.signals.Rlm(min_trades=15)),
    "grid": lambda data: kl.signals.grid(data, kl.signals.Rlm, min_trades=[15, 25]),
    "rlm": lambda data: kl.signals.rlm(data, min_trades=15),
    "policy": lambda data: kl.signals.rl_model(
        data, policy=lambda seen: "buy" if seen.n_trades == 9 else "hold"
    ),
    "enter": lambda data: kl.edge.enter(kl.signals.rlm(FRAME, min_trades=15), data, MARKETS).drop("fire"),
    "half_spread": lambda data: kl.edge.entries.half_spread_of(data),
    "whole_life": lambda data: kl.audit.whole_life_edge(data, MARKETS).edge,
    "capacity": lambda data: (
        kl.edge.capacity.tape_capacity(
            kl.edge.enter(kl.signals.rlm(FRAME, min_trades=15), FRAME, MARKETS), data
        ).frame
    ),
    "prefix": lambda data: kl.audit.prefix_invariance(kl.signals.Rlm(), data, cuts=2).passed,
}


@pytest.mark.parametrize("name", CALLS)
def test_public_functions_accept_every_kind_of_tape(name: str, tape: Tape, tmp_path: Path) -> None:
    """A tape, its path, a frame, a lazy frame and a pandas frame give the same result."""
    call = CALLS[name]
    expected = call(FRAME)
    given = [tape, FRAME.lazy(), FRAME.to_pandas()]
    path = getattr(tape, "path", None)
    if path is not None:
        given += [path, str(path)]
    for data in given:
        answer = call(data)
        if isinstance(answer, pl.LazyFrame):
            answer = answer.collect()
        elif type(answer).__module__.startswith("pandas"):
            answer = pl.from_pandas(answer)
        if isinstance(expected, pl.DataFrame):
            assert isinstance(answer, pl.DataFrame)
            assert answer.to_dict(as_series=False) == expected.to_dict(as_series=False)
        else:
            assert answer == expected


def test_a_value_that_is_not_a_tape_is_refused_with_its_type() -> None:
    with pytest.raises(TapeError, match="tape must be a frame, a lake or a path, got int"):
        tape_of(3)  # type: ignore[arg-type]
    with pytest.raises(TapeError, match="does not exist"):
        tape_of("no/such/folder")
