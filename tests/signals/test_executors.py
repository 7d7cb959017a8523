"""The same fires from one process, from spawned processes, and from a Dask cluster of two workers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import kalshilab as kl
from kalshilab import signals
from kalshilab.errors import LakeError
from kalshilab.signals.engine.sharding import Shard, shards_of
from kalshilab.tape.lake.lake import Lake


@kl.signal(state={"low": "i2"}, buy="yes")
def rebound(s, ts, price, size, taker_yes, cents=10):  # type: ignore[no-untyped-def]
    if s.n == 1 or price < s.low:
        s.low = price
    return price >= s.low + cents * 100


SIGNALS: list[Any] = [
    signals.Rlm(min_trades=10, min_drop=2, rearm=True),
    signals.WhaleFollow(min_value=5, top=3),
    signals.Steam(min_trades=3, window=3600, rearm=True),
    rebound(cents=5),
]


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """A made tape with its markets spread over many days."""
    tape, markets = kl.synth.martingale(n_markets=1_500, seed=3)
    lake = Lake.create(tmp_path_factory.mktemp("lakes") / "lake")
    lake.append(tape, markets)
    return lake


def dask_executor() -> Iterator[Executor]:
    distributed = pytest.importorskip("distributed")
    import dask

    # No dashboard, no pre-loading: two plain processes on loopback.
    with (
        dask.config.set({"distributed.admin.log-format": "%(message)s", "distributed.worker.daemon": False}),
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            host="127.0.0.1",
            silence_logs=50,
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client.get_executor()


def spawned() -> Iterator[Executor]:
    with signals.spawn_pool(2) as pool:
        yield pool


@pytest.fixture(scope="module", params=[spawned, dask_executor], ids=["spawn", "dask"])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    yield from request.param()


def test_several_processes_really_work(executor: Executor) -> None:
    assert executor.submit(os.getpid).result() != os.getpid()


@pytest.mark.parametrize("signal", SIGNALS, ids=[s.name for s in SIGNALS])
def test_the_same_fires_from_everywhere(executor: Executor, lake: Lake, signal: Any) -> None:
    whole = signal.run(lake.lazy().collect())
    assert whole.height > 10
    assert signals.scan(lake, signal).equals(whole)
    assert signals.scan(lake, signal, shards=7).equals(whole)
    for shards in (None, 2, 5):
        assert signals.scan(lake, signal, executor, shards=shards).equals(whole)


def test_a_tape_in_memory_too(executor: Executor, lake: Lake) -> None:
    tape = lake.lazy().collect()
    assert signals.scan(tape, SIGNALS[0], executor, shards=3).equals(SIGNALS[0].run(tape))


def test_a_grid(executor: Executor, lake: Lake) -> None:
    parameters: dict[str, Any] = {"yes_threshold": [0.5, 0.7], "min_trades": [5, 10], "rearm": [False, True]}
    alone = signals.grid(lake, signals.Rlm, **parameters)
    assert alone.height > 50
    # Cells are divided among the workers, and with shards= the markets are.
    for shards in (None, 3):
        assert signals.grid(lake, signals.Rlm, executor, shards=shards, **parameters).equals(alone)
    assert signals.grid(lake.lazy().collect(), signals.Rlm, **parameters).equals(alone)
    assert signals.grid(str(lake.path), signals.Rlm, **parameters).equals(alone)


def test_a_worker_says_what_is_wrong_with_the_lake(executor: Executor, lake: Lake, tmp_path: Path) -> None:
    import shutil

    broken = Lake.open(shutil.copytree(lake.path, tmp_path / "broken"))
    broken.files[-1].path.unlink()
    with pytest.raises(LakeError, match="kalshilab doctor"):
        signals.scan(broken, SIGNALS[0], executor)
    with pytest.raises(LakeError, match="kalshilab doctor"):
        signals.scan(broken, SIGNALS[0])


def test_shards_are_ranges_of_about_equal_weight(lake: Lake) -> None:
    prints = lake.listing["prints"].cast(pl.Int64)
    for count in (1, 2, 5, 16):
        shards = shards_of(lake, count)
        assert len(shards) == count
        assert [s.low for s in shards] == [0, *(s.high for s in shards[:-1])]
        assert shards[-1].high == len(lake.tickers)
        weights = [int(prints.slice(s.low, s.high - s.low).sum()) for s in shards]
        assert max(weights) <= lake.rows / count + prints.max()


def test_a_changed_lake_is_not_scanned_halfway(lake: Lake, tmp_path: Path) -> None:
    import shutil

    import cloudpickle

    from kalshilab.signals.scan import _task

    copy = Lake.open(shutil.copytree(lake.path, tmp_path / "copy"))
    payload = cloudpickle.dumps(((str(copy.path), copy.generation - 1), SIGNALS[:1], Shard(0, 1)))
    with pytest.raises(LakeError, match="was changed while it was scanned"):
        _task(payload)
