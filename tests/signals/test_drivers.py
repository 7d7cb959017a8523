"""All drivers produce the same fires: a whole tape, chunks, single prints, shards and grids."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from itertools import chain, pairwise
from typing import Any

import cloudpickle
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_tapes import Print, as_rows, live, plain_rows, prints, tape_of

import kalshilab as kl
from kalshilab import signals
from kalshilab.errors import SignalError, UsageError
from kalshilab.signals.engine.state_pass import columns_of
from kalshilab.signals.grid import cells_of


@kl.signal(state={"first": int, "up": "i4", "_last": float}, buy=None)
def drift(s, ts, price, size, taker_yes, quorum=3, share=0.5):  # type: ignore[no-untyped-def]
    if s.n == 1:
        s.first = price
    s.up += price > s._last
    s._last = price
    if s.n < quorum or s.up <= share * s.n:
        return signals.NOTHING
    return signals.BUY_YES if price > s.first else signals.BUY_NO


# Made when a test asks, because every worker imports this module, and making a signal compiles its step.
MAKERS: list[Callable[[], Any]] = [
    partial(signals.Rlm, yes_threshold=0.5, min_trades=2, min_drop=1),
    partial(signals.Rlm, yes_threshold=0.4, min_trades=3, min_drop=2, rearm=True, flow="contracts"),
    partial(
        signals.Rlm, yes_threshold=0.4, min_trades=2, min_drop=0, rearm="stronger", side="yes", max_price=80
    ),
    partial(signals.PriceBand, low=40, high=70, rearm=True),
    partial(signals.WhaleFade, min_value=20),
    partial(signals.WhaleFollow, min_value=5, max_leverage=5, top=2, window=1),
    partial(signals.LowLeverageVariance, max_std=3, min_no_ratio=0.2, min_trades=2, rearm=True),
    partial(signals.Steam, min_trades=2, min_move=1, rearm=True),
    partial(signals.Burst, min_trades=2, min_ratio=0.4, rearm=True),
    partial(signals.DollarDirection, min_gap=0.0, min_trades=2, rearm=True),
    partial(signals.ConvictionRatio, min_ratio=1.0, min_trades=2, rearm=True),
    partial(signals.BuyBack, half=1, first_ratio=0.4, second_ratio=0.6, rearm=True),
    partial(drift),
    partial(drift, quorum=2, share=0.2, rearm=True),
    partial(drift, quorum=1, rearm="every"),
]


@cache
def made(index: int) -> Any:
    return MAKERS[index]()


@pytest.fixture(scope="module", params=range(len(MAKERS)))
def signal(request: pytest.FixtureRequest) -> Any:
    return made(request.param)


def fresh(signal: Any) -> Any:
    return signal.with_parameters()


def chunks(tape: pl.DataFrame, cuts: list[int]) -> Iterator[pl.DataFrame]:
    edges = sorted({0, *(c % (tape.height + 1) for c in cuts), tape.height})
    for low, high in pairwise(edges):
        yield tape.slice(low, high - low)


cut_lists = st.lists(st.integers(0, 200), max_size=6)


def swept(seed: int) -> list[Print]:
    """Return random prints with ties in time across markets, and takers that sweep several prices."""
    rng = np.random.default_rng(seed)
    rows: list[Print] = []
    while len(rows) < rng.integers(20, 80):
        gap = int(rng.choice([0, 1, 400_000, 30_000_000]))
        ticker = str(rng.choice(["A-B-1", "A-B-2", "C-D-1"]))
        price, taker = int(rng.integers(5, 95)) * 100, str(rng.choice(["yes", "yes", "no"]))
        for step in range(int(rng.choice([1, 1, 1, 4]))):
            at = price + 100 * step * (1 if taker == "yes" else -1)
            rows.append((gap if step == 0 else 0, ticker, at, int(rng.integers(1, 60_000)), taker))
    return rows


@pytest.mark.parametrize("tapes", [250, pytest.param(1_000, marks=pytest.mark.soak)])
def test_t14_live_fires_equal_those_of_run(tapes: int) -> None:
    fired = tied = 0
    for seed in range(tapes):
        tape, signal = tape_of(swept(seed)), fresh(made(seed % len(MAKERS)))
        whole = as_rows(signal.run(tape))
        assert live(signal, tape) == whole, (seed, signal)
        fired += len(whole)
        tied += tape["ts"].is_duplicated().sum()
    assert fired > tapes and tied > 10 * tapes, "tapes without fires and ties would prove nothing"


@settings(max_examples=30)
@given(rows=prints(), cuts=cut_lists)
def test_chunks_produce_the_fires_of_the_whole_tape(signal: Any, rows: list[Print], cuts: list[int]) -> None:
    tape = tape_of(rows)
    whole, fed = signal.run(tape), fresh(signal)
    parts = [fed.feed(chunk.drop("market")) for chunk in chunks(tape, cuts)]
    assert pl.concat([whole.head(0), *parts]).equals(whole)
    pushed = signal.begin()
    rows_by_chunk = [
        pushed.push(columns_of(chunk, signal.reads), first).row.tolist()
        for chunk, first in _with_rows(chunks(tape, cuts))
    ]
    if signal.fire_filter() is None:
        assert list(chain(*rows_by_chunk)) == whole["row"].to_list()


def _with_rows(parts: Iterator[pl.DataFrame]) -> Iterator[tuple[pl.DataFrame, int]]:
    first = 0
    for part in parts:
        yield part, first
        first += part.height


@settings(max_examples=25)
@given(rows=prints(), cuts=cut_lists, kinds=st.lists(st.integers(0, 2), min_size=7, max_size=7))
def test_alternating_live_drivers_produce_the_fires_of_run(
    signal: Any, rows: list[Print], cuts: list[int], kinds: list[int]
) -> None:
    tape = tape_of(rows)
    s, found = fresh(signal), []
    for kind, chunk in zip(kinds, chunks(tape, cuts[:5]), strict=False):
        if kind == 0:
            found += as_rows(s.feed(chunk))
        elif kind == 1:
            found += live(s, chunk)
        else:
            plain = plain_rows(chunk)
            fires = s.batch(
                s.codes([r[0] for r in plain]),
                np.array([r[1] for r in plain], np.int64),
                np.array([r[2] for r in plain], np.int16),
                np.array([r[3] for r in plain], np.uint32),
                np.array([r[4] == "no" for r in plain], np.uint8),
            )
            found += [tuple(getattr(f, name) for name in f.__struct_fields__) for f in fires]
    assert found == as_rows(signal.run(tape))


@settings(max_examples=25)
@given(rows=prints(), shards=st.integers(1, 6))
def test_shards_produce_the_fires_of_one_pass(signal: Any, rows: list[Print], shards: int) -> None:
    tape = tape_of(rows)
    whole = signal.run(tape)
    assert signals.scan(tape, signal, shards=shards).equals(whole)


@settings(max_examples=25)
@given(rows=prints(), later=prints(40), cut=st.integers(0, 100))
def test_later_rows_never_change_earlier_fires(
    signal: Any, rows: list[Print], later: list[Print], cut: int
) -> None:
    tape = tape_of(rows)
    whole = signal.run(tape)
    # Cuts at any print, and right behind and before fires, where a look at the next print would show.
    firing = whole["row"].to_list()
    for at in {cut, *(row + 1 for row in firing[:4]), *firing[-2:]}:
        before = whole.filter(pl.col("row") < at).rows()
        assert signal.run(tape.head(at)).rows() == before, "removed"
        replaced = signal.run(tape_of([*rows[:at], *later]))
        assert replaced.filter(pl.col("row") < min(at, len(rows))).rows() == before, "replaced"


def test_a_pickled_signal_has_no_live_state(signal: Any) -> None:
    tape = kl.sample()[0].head(4_000)
    used = fresh(signal)
    used.feed(tape.head(2_000))
    again = cloudpickle.loads(cloudpickle.dumps(used))
    assert again.parameters == signal.parameters
    assert repr(again) == repr(signal)
    assert again.state(tape["ticker"][0]) is None
    assert again.run(tape).equals(signal.run(tape))
    assert pickle.loads(pickle.dumps(used)).run(tape).equals(signal.run(tape))


def test_a_reset_market_has_no_state_and_fires_again(signal: Any) -> None:
    tape = kl.sample()[0].head(3_000)
    s = fresh(signal)
    before = s.feed(tape).drop("row")
    assert s.state(tape["ticker"][0]) is not None
    for ticker in tape["ticker"].unique():
        s.reset(ticker)
    assert s.state(tape["ticker"][0]) is None
    if s.fire_filter() is None:
        assert s.feed(tape).drop("row").equals(before)
    s.reset()
    assert s.feed(tape).equals(signal.run(tape))


def test_threads_of_an_executor_produce_the_fires_of_run(signal: Any) -> None:
    tape = kl.sample()[0]
    with ThreadPoolExecutor(2) as pool:
        assert signals.scan(tape, signal, pool).equals(signal.run(tape))
        assert signals.scan(tape.lazy(), signal, pool, shards=5).collect().equals(signal.run(tape))


rlm_cells = st.fixed_dictionaries(
    {
        "yes_threshold": st.lists(st.sampled_from([0.0, 0.5, 2 / 3, 0.7, 1.0]), min_size=1, max_size=3),
        "min_trades": st.lists(st.integers(1, 6), min_size=1, max_size=3),
        "min_drop": st.lists(st.sampled_from([0, 0.1, 2, 12.5]), min_size=1, max_size=2),
        "rearm": st.lists(
            st.sampled_from([False, False, True, "stronger"]), min_size=1, max_size=2, unique=True
        ),
        "flow": st.lists(st.sampled_from(["trades", "contracts"]), min_size=1, max_size=2, unique=True),
        "side": st.lists(st.sampled_from(["yes", "no"]), min_size=1, max_size=2, unique=True),
        "max_price": st.sampled_from([100, 60]),
    }
)


@settings(max_examples=40)
@given(rows=prints(), parameters=rlm_cells, shards=st.integers(1, 3))
def test_a_grid_equals_its_cells_run_alone(
    rows: list[Print], parameters: dict[str, Any], shards: int
) -> None:
    tape = tape_of(rows)
    given_ = {k: list(v) if isinstance(v, list) else v for k, v in parameters.items()}
    found = signals.grid(tape, signals.Rlm, shards=shards, **given_)
    settings_, made = cells_of(signals.Rlm, given_)
    names = list(settings_[0])
    alone = [
        s.run(tape).select(
            *(pl.lit(v).alias(f"{k}_set" if k == "side" else k) for k, v in c.items()), pl.all()
        )
        for c, s in zip(settings_, made, strict=True)
    ]
    assert found.columns[: len(names)] == [n if n != "side" else "side_set" for n in names]
    assert found.rows() == pl.concat(alone, how="vertical_relaxed").rows()


def test_a_large_grid_and_one_of_a_custom_signal_equal_their_cells() -> None:
    tape = kl.sample()[0]
    found = signals.grid(
        tape,
        signals.Rlm,
        yes_threshold=np.linspace(0.3, 0.8, 12),
        min_trades=range(5, 65, 10),
        min_drop=[1, 5],
    )
    assert found.select("yes_threshold", "min_trades", "min_drop").unique().height <= 144
    for setting in ((0.3, 5, 1), (0.8, 55, 5)):
        one = found.filter(*(pl.col(n) == v for n, v in zip(found.columns[:3], setting, strict=True)))
        alone = signals.rlm(tape, yes_threshold=setting[0], min_trades=setting[1], min_drop=setting[2])
        assert one[:, 3:].equals(alone)
    own = signals.grid(tape.to_pandas(), drift, quorum=[2, 5])
    assert len(own) == sum(drift(quorum=q).run(tape).height for q in (2, 5))


def test_grid_and_scan_reject_bad_arguments_before_reading() -> None:
    tape = kl.sample()[0]
    with pytest.raises(SignalError, match="min_trades"):
        signals.grid(tape, signals.Rlm, min_trades=[5, 0])
    with pytest.raises(UsageError, match="min_trades must have at least one value"):
        signals.grid(tape, signals.Rlm, min_trades=[])
    with pytest.raises(UsageError, match="shards must be >= 1, got 0"):
        signals.scan(tape, signals.Rlm(), shards=0)
    with pytest.raises(UsageError, match="executor must be >= 1 process, got 0"):
        signals.scan(tape, signals.Rlm(), 0)
    with pytest.raises(SignalError, match="codes"):
        signals.Rlm().batch(
            np.zeros(1, np.uint32),
            np.zeros(1, np.int64),
            np.zeros(1, np.int16),
            np.ones(1, np.uint32),
            np.zeros(1, np.uint8),
        )


def test_scan_and_grid_reject_arguments_that_are_not_signals() -> None:
    tape = kl.sample()[0]
    for wrong in (signals.rlm, signals.Rlm, None):
        with pytest.raises(UsageError, match="signal must be a signal with its parameters"):
            signals.scan(tape, wrong)  # type: ignore[arg-type]
    for not_a_class in (signals.rlm, signals.Rlm(), None):
        with pytest.raises(UsageError, match="kind must be the class of a signal"):
            signals.grid(tape, not_a_class, min_trades=[5])  # type: ignore[arg-type]


def test_update_rejects_an_invalid_print(signal: Any) -> None:
    s = fresh(signal)
    for wrong, words in (
        (("A-B-1", 1, 0.43, 100, "yes"), "whole number"),
        (("A-B-1", 1, 10_001, 100, "yes"), "0 to 10,000"),
        (("A-B-1", 1, -1, 100, "yes"), "0 to 10,000"),
        (("A-B-1", 1, 4300, 7.5, "yes"), "whole number"),
        (("A-B-1", 1, 4300, -1, "yes"), "1/100 contract, a whole number from 0, got -1"),
        (("A-B-1", "now", 4300, 1, "yes"), "microseconds"),
        (("A-B-1", 1, 4300, 1, None), "'yes' or 'no'"),
    ):
        with pytest.raises(SignalError, match=words):
            s.update(*wrong)
    assert s.state("A-B-1") is None, "the rejected prints were not counted"
    s.update("A-B-1", np.int64(1), np.int16(4300), np.uint32(100), "yes")
    assert s.state("A-B-1") is not None


def test_batch_rejects_invalid_arrays_as_a_whole() -> None:
    s = signals.Rlm(min_trades=1)
    good: dict[str, Any] = {
        "markets": s.codes(["A-B-1", "A-B-2"]),
        "ts": np.zeros(2, np.int64),
        "prices": np.full(2, 5000, np.int16),
        "sizes": np.ones(2, np.uint32),
        "takers": np.zeros(2, np.uint8),
    }
    for name, array in good.items():
        with pytest.raises(SignalError, match="of one length"):
            s.batch(**good | {name: array[:1]})
        for wrong in (array.astype(np.float32), np.zeros(4, array.dtype)[::2]):
            with pytest.raises(SignalError, match=f"{name} must be a contiguous array"):
                s.batch(**good | {name: wrong})
    assert s.state("A-B-1") is None
    for price in (-5, 20_000):
        with pytest.raises(
            SignalError, match=f"a YES price in 1/10,000 dollar, a whole number from 0 to 10,000, got {price}"
        ):
            s.batch(**good | {"prices": np.full(len(good["prices"]), price, np.int16)})
    with pytest.raises(SignalError, match="markets must be a contiguous array of uint32, got 'list'"):
        s.batch(**good | {"markets": good["markets"].tolist()})
    assert s.batch(**good) == []
    assert s.update("A-B-1", 1, 4000, 100, "yes").row == 2  # type: ignore[union-attr]


def test_numpy_scalars_are_accepted_as_parameters() -> None:
    made = signals.Rlm(np.float32(0.5), np.int64(5), np.int16(2), rearm=np.bool_(True))  # type: ignore[arg-type]
    assert repr(made) == repr(signals.Rlm(0.5, 5, 2, rearm=True))
    assert signals.WhaleFade(min_value=np.int64(5), top=np.int32(3)).parameters["top"] == 3  # type: ignore[arg-type]
    assert drift(quorum=np.int64(2), rearm=np.True_).parameters == drift(quorum=2, rearm=True).parameters
    tape = kl.sample()[0]
    whole = signals.grid(tape, signals.Rlm, min_trades=[5, 10])
    assert signals.grid(tape, signals.Rlm, min_trades=list(np.array([5, 10]))).equals(whole)
    assert signals.grid(tape, signals.Rlm, min_trades=pl.Series([5, 10])).equals(whole)
    assert signals.grid(tape, signals.Rlm, min_trades=pl.Series([5, 10]).to_pandas()).equals(whole)


def test_every_family_fires_on_recorded_prints(shared: Any) -> None:
    from kalshilab.tape import to_tape

    tape = to_tape(pl.read_parquet(shared / "data" / "trades_macro.parquet"))
    counts = {s.name: s.run(tape).height for s in (kind() for kind in (
        signals.Rlm, signals.PriceBand, signals.WhaleFade, signals.WhaleFollow, signals.LowLeverageVariance,
        signals.Steam, signals.Burst, signals.DollarDirection, signals.ConvictionRatio, signals.BuyBack,
    ))}  # fmt: skip
    assert counts["rlm"] == 47
    assert all(n > 0 for n in counts.values())
    assert counts["whale_follow"] >= counts["whale_fade"]
