"""Random draws in blocks, so that a result does not depend on which process draws it.

A test of many resamples is cut into blocks. The size of a block follows from the sample alone, and each block has its
own generator, spawned from the seed of the test. One process, two processes and a cluster therefore give the same
p-value, and a block that was lost with its worker can be drawn again. A test of one block uses the generator of the
test itself.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from typing import Final, TypeVar

import numpy as np

from kalshilab.deprecation import renamed_keywords
from kalshilab.signals.scan import workers_of

__all__ = ["CHUNK", "Block", "blocks_of", "draw"]

S = TypeVar("S")
T = TypeVar("T")
Block = tuple[int, np.random.Generator]
"""Number of resamples, and the generator that draws them."""
CHUNK: Final = 2_000_000
"""Random numbers per block."""
PORTIONS: Final = 3
"""Portions per worker: with more than one, a slow worker does not delay the others."""


@renamed_keywords(b="resamples")
def blocks_of(resamples: int, width: int, seed: int | np.random.Generator) -> list[Block]:
    """Split `resamples` draws of `width` random numbers each into blocks.

    Args:
        resamples: number of resamples.
        width: random numbers per resample.
        seed: a seed or a Generator.

    >>> [n for n, _ in blocks_of(5_000, 1_000, seed=0)]
    [2000, 2000, 1000]
    """
    rows = max(1, CHUNK // max(width, 1))
    rng = np.random.default_rng(seed)
    if resamples <= rows:
        return [(resamples, rng)]
    sizes = [min(rows, resamples - start) for start in range(0, resamples, rows)]
    return list(zip(sizes, rng.spawn(len(sizes)), strict=True))


@renamed_keywords(of="sample")
def draw(
    task: Callable[[S, int, np.random.Generator], T],
    sample: S,
    blocks: list[Block],
    executor: Executor | None = None,
) -> list[T]:
    """Return `task(sample, n, rng)` for each block, in the order of the blocks.

    Args:
        task: a module-level function, so that it can be pickled for a worker.
        sample: first argument of each call; picklable.
        blocks: number of resamples and generator of each block (`blocks_of`).
        executor: executor that runs the calls; None: this process.

    >>> blocks = blocks_of(5_000, 1_000, seed=0)
    >>> [int(x) for x in draw(lambda sample, n, rng: sample * n, 2, blocks)]
    [4000, 4000, 2000]
    """
    if executor is None or len(blocks) == 1:
        return _portion(task, sample, blocks)
    size = -(-len(blocks) // (PORTIONS * workers_of(executor)))
    portions = [blocks[at : at + size] for at in range(0, len(blocks), size)]
    futures = [executor.submit(_portion, task, sample, portion) for portion in portions]
    return [result for future in futures for result in future.result()]


def _portion(task: Callable[[S, int, np.random.Generator], T], sample: S, blocks: list[Block]) -> list[T]:
    return [task(sample, n, rng) for n, rng in blocks]
