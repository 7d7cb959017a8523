"""Resampling on an executor: the same numbers from one process, two threads, two processes and a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kalshilab.edge.report.statistical_verdict import judge
from kalshilab.edge.stats import simulated_entries
from kalshilab.edge.stats.inference import bootstrap, infer, wild
from kalshilab.edge.stats.martingale import null_means
from kalshilab.edge.stats.multiplicity import romano_wolf
from kalshilab.edge.stats.resampling import CHUNK, blocks_of, draw
from kalshilab.signals.scan import spawn_pool

B = 9_999


@pytest.fixture(scope="module", params=["threads", "spawn", "dask"])
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
                n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
            ) as cluster,
            distributed.Client(cluster) as client,
        ):
            yield client.get_executor()


@pytest.fixture(scope="module")
def entries() -> Any:
    return simulated_entries.entries(1_500, kind="ladder", edge=2.0, seed=1)


def test_every_test_draws_the_same(workers: Executor, entries: Any) -> None:
    signal, pool = entries
    assert infer(signal, b=B, executor=workers) == infer(signal, b=B)
    assert np.array_equal(null_means(signal, b=B, executor=workers), null_means(signal, b=B))
    pnl = signal["pnl"].fill_null(0.0).to_numpy()
    events = signal["event"].to_physical().to_numpy()
    assert wild(pnl, events, b=B, executor=workers) == wild(pnl, events, b=B)
    assert bootstrap(pnl, events, b=B, seed=3, executor=workers) == bootstrap(pnl, events, b=B, seed=3)
    cells = np.random.default_rng(0).normal(size=(900, 6))
    one, other = romano_wolf(cells, b=B), romano_wolf(cells, b=B, executor=workers)
    assert np.array_equal(one.p, other.p)
    ours, theirs = judge(signal, pool, trials=40), judge(signal, pool, trials=40, executor=workers)
    assert ours.criteria == theirs.criteria and ours.inference == theirs.inference


def many(of: int, n: int, rng: np.random.Generator) -> tuple[int, float]:
    return of * n, float(rng.random())


@given(st.integers(1, 10_000), st.integers(1, CHUNK * 2), st.integers(0, 5))
def test_blocks(b: int, width: int, seed: int) -> None:
    blocks = blocks_of(b, width, seed)
    assert sum(n for n, _ in blocks) == b
    assert all(n == 1 or n * width <= CHUNK for n, _ in blocks)
    again = draw(many, 3, blocks_of(b, width, seed))
    found = draw(many, 3, blocks)
    assert found == again and [n for n, _ in found] == [3 * n for n, _ in blocks]
    assert len({x for _, x in found}) == len(blocks), "no two blocks draw the same"


def test_a_block_that_fails_is_heard(workers: Executor) -> None:
    with pytest.raises(ZeroDivisionError):
        draw(fails, 0, blocks_of(10_000, 1_000, 0), workers)


def fails(of: int, n: int, rng: np.random.Generator) -> float:
    return n / of
