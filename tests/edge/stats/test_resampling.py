"""Resampling on an executor: equal results from one process, two threads, two processes and a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kalshilab.edge.report.statistical_verdict import judge
from kalshilab.edge.stats import resampling, simulated_entries
from kalshilab.edge.stats.inference import bootstrap, infer, wild
from kalshilab.edge.stats.martingale import null_means
from kalshilab.edge.stats.multiplicity import romano_wolf
from kalshilab.edge.stats.resampling import CHUNK, PORTIONS, blocks_of, draw
from kalshilab.signals.scan import spawn_pool

RESAMPLES = 999
SMALL_CHUNK = 30_000
"""Random numbers per block in these tests, so that small samples have several blocks too."""


@pytest.fixture(scope="module", params=["threads", "spawn", pytest.param("dask", marks=pytest.mark.soak)])
def workers(request: pytest.FixtureRequest) -> Iterator[Executor]:
    if request.param == "threads":
        with ThreadPoolExecutor(2) as pool:
            yield pool
    elif request.param == "spawn":
        with spawn_pool(2) as pool:
            yield pool
    else:
        distributed = pytest.importorskip("distributed")
        with (
            distributed.LocalCluster(
                n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
            ) as cluster,
            distributed.Client(cluster) as client,
        ):
            yield client.get_executor()


@pytest.fixture(scope="module")
def entries() -> tuple[pl.DataFrame, pl.DataFrame]:
    return simulated_entries.entries(240, kind="ladder", legs=3, edge=2.0, seed=1)


def test_results_do_not_depend_on_the_executor(
    workers: Executor, entries: tuple[pl.DataFrame, pl.DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resampling, "CHUNK", SMALL_CHUNK)
    signal, pool = entries
    (size, _), *others = blocks_of(RESAMPLES, 240, 0)
    assert len(others) >= PORTIONS, "each worker must get several portions"
    options: dict[str, Any] = {"resamples": RESAMPLES, "seed": 3}
    assert infer(signal, **options, executor=workers) == infer(signal, **options)
    here, there = null_means(signal, **options), null_means(signal, **options, executor=workers)
    assert np.array_equal(here, there) and not np.array_equal(here[:size], here[size : 2 * size])
    pnl = signal["pnl"].fill_null(0.0).to_numpy()
    events = signal["event"].to_physical().to_numpy()
    assert wild(pnl, events, **options, executor=workers) == wild(pnl, events, **options)
    assert bootstrap(pnl, events, **options, executor=workers) == bootstrap(pnl, events, **options)
    cells = np.random.default_rng(0).normal(size=(240, 6))
    one, other = romano_wolf(cells, **options), romano_wolf(cells, **options, executor=workers)
    assert np.array_equal(one.p, other.p)
    ours, theirs = judge(signal, pool, trials=5), judge(signal, pool, trials=5, executor=workers)
    assert ours.criteria == theirs.criteria and ours.inference == theirs.inference


def many(sample: int, n: int, rng: np.random.Generator) -> tuple[int, float]:
    return sample * n, float(rng.random())


@given(st.integers(1, 10_000), st.integers(1, CHUNK * 2), st.integers(0, 5))
@settings(max_examples=40)
def test_blocks_are_small_reproducible_and_distinct(resamples: int, width: int, seed: int) -> None:
    blocks = blocks_of(resamples, width, seed)
    assert sum(n for n, _ in blocks) == resamples
    assert all(n == 1 or n * width <= CHUNK for n, _ in blocks)
    again = draw(many, 3, blocks_of(resamples, width, seed))
    found = draw(many, 3, blocks)
    assert found == again and [n for n, _ in found] == [3 * n for n, _ in blocks]
    assert len({x for _, x in found}) == len(blocks), "each block has a different generator"


def test_an_error_in_a_block_propagates(workers: Executor) -> None:
    with pytest.raises(ZeroDivisionError):
        draw(fails, 0, blocks_of(10_000, 1_000, 0), workers)


def fails(sample: int, n: int, rng: np.random.Generator) -> float:
    return n / sample
