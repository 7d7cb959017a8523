"""One process, spawned processes and a Dask cluster of two workers produce the same fires."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from functools import partial
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


# Made when a test asks, because every worker imports this module, and making a signal compiles its step.
MAKERS: dict[str, Callable[[], Any]] = {
    "rlm": partial(signals.Rlm, min_trades=10, min_drop=2, rearm=True),
    "whale_follow": partial(signals.WhaleFollow, min_value=5, top=3),
    "rebound": partial(rebound, cents=5),
}
RLM = MAKERS["rlm"]


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Return a lake of a synthetic tape whose markets are spread over many days."""
    tape, markets = kl.synth.martingale(n_markets=1_500, seed=3)
    lake = Lake.create(tmp_path_factory.mktemp("lakes") / "lake")
    lake.append(tape, markets)
    return lake


def dask_executor() -> Iterator[Executor]:
    distributed = pytest.importorskip("distributed")
    import dask

    # Without a dashboard and without preloading: two plain processes on loopback.
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


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(spawned, id="spawn"),
        # A cluster takes as long to start as all other tests of this file.
        pytest.param(dask_executor, id="dask", marks=pytest.mark.soak),
    ],
)
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    yield from request.param()


def test_work_runs_in_another_process(executor: Executor) -> None:
    assert executor.submit(os.getpid).result() != os.getpid()


@pytest.mark.parametrize("name", MAKERS)
def test_every_executor_and_shard_count_produces_the_fires_of_run(
    executor: Executor, lake: Lake, name: str
) -> None:
    signal = MAKERS[name]()
    whole = signal.run(lake.lazy().collect())
    assert whole.height > 10
    assert signals.scan(lake, signal).equals(whole)
    assert signals.scan(lake, signal, shards=7).equals(whole)
    for shards in (None, 2, 5):
        assert signals.scan(lake, signal, executor, shards=shards).equals(whole)


def test_a_tape_in_memory_is_scanned_by_workers(executor: Executor, lake: Lake) -> None:
    tape = lake.lazy().collect()
    assert signals.scan(tape, RLM(), executor, shards=3).equals(RLM().run(tape))


def test_a_grid_by_workers_equals_the_grid_in_this_process(executor: Executor, lake: Lake) -> None:
    parameters: dict[str, Any] = {"yes_threshold": [0.5, 0.7], "min_trades": [5, 10], "rearm": [False, True]}
    alone = signals.grid(lake, signals.Rlm, **parameters)
    assert alone.height > 50
    # Workers share the cells; with shards= they share the markets too.
    for shards in (None, 3):
        assert signals.grid(lake, signals.Rlm, executor, shards=shards, **parameters).equals(alone)
    assert signals.grid(lake.lazy().collect(), signals.Rlm, **parameters).equals(alone)
    assert signals.grid(str(lake.path), signals.Rlm, **parameters).equals(alone)


def test_a_worker_raises_the_error_of_a_damaged_lake(executor: Executor, lake: Lake, tmp_path: Path) -> None:
    import shutil

    broken = Lake.open(shutil.copytree(lake.path, tmp_path / "broken"))
    broken.files[-1].path.unlink()
    with pytest.raises(LakeError, match="kalshilab doctor"):
        signals.scan(broken, RLM(), executor)
    with pytest.raises(LakeError, match="kalshilab doctor"):
        signals.scan(broken, RLM())


def test_shards_have_about_equal_numbers_of_prints(lake: Lake) -> None:
    prints = lake.listing["prints"].cast(pl.Int64)
    for count in (1, 2, 5, 16):
        shards = shards_of(lake, count)
        assert len(shards) == count
        assert [s.low for s in shards] == [0, *(s.high for s in shards[:-1])]
        assert shards[-1].high == len(lake.tickers)
        weights = [int(prints.slice(s.low, s.high - s.low).sum()) for s in shards]
        assert max(weights) <= lake.rows / count + prints.max()


def test_a_worker_rejects_a_lake_of_another_generation(lake: Lake, tmp_path: Path) -> None:
    import shutil

    import cloudpickle

    from kalshilab.signals.scan import _task

    copy = Lake.open(shutil.copytree(lake.path, tmp_path / "copy"))
    payload = cloudpickle.dumps(((str(copy.path), copy.generation - 1), [RLM()], Shard(0, 1)))
    with pytest.raises(LakeError, match="was changed during the scan"):
        _task(payload)
