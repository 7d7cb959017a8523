"""Random draws in blocks: the same numbers, whoever draws them.

A test of b draws is cut into blocks.  How many draws a block has follows from the sample alone, and each block has
a generator of its own, spawned from the test's seed; so one process, two, or a cluster give the same p-value, and a
block that was lost with its worker can be drawn again.  A test of one block uses the test's own generator.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, Final, TypeVar

import numpy as np

from kalshilab.signals.scan import workers_of

__all__ = ["CHUNK", "Block", "blocks_of", "draw"]

T = TypeVar("T")
Block = tuple[int, np.random.Generator]
"""How many draws, and what they are drawn with."""
CHUNK: Final = 2_000_000
"""Numbers that a block holds at a time."""
PORTIONS: Final = 3
"""Portions a worker gets, one after the other: so that a slow one does not keep all waiting."""


def blocks_of(b: int, width: int, seed: int | np.random.Generator) -> list[Block]:
    """`b` draws of `width` numbers each, in blocks.

    >>> [n for n, _ in blocks_of(5_000, 1_000, seed=0)]
    [2000, 2000, 1000]
    """
    rows = max(1, CHUNK // max(width, 1))
    rng = np.random.default_rng(seed)
    if b <= rows:
        return [(b, rng)]
    sizes = [min(rows, b - start) for start in range(0, b, rows)]
    return list(zip(sizes, rng.spawn(len(sizes)), strict=True))


def draw(
    task: Callable[[Any, int, np.random.Generator], T],
    of: Any,
    blocks: list[Block],
    executor: Executor | None = None,
) -> list[T]:
    """`task(of, n, rng)` for each block, in their order.

    Args:
        task: a function of a module, so that a worker can be told of it.
        executor: who draws; None: this process.

    >>> blocks = blocks_of(5_000, 1_000, seed=0)
    >>> [int(x) for x in draw(lambda of, n, rng: of * n, 2, blocks)]
    [4000, 4000, 2000]
    """
    if executor is None or len(blocks) == 1:
        return _portion(task, of, blocks)
    size = -(-len(blocks) // (PORTIONS * workers_of(executor)))
    portions = [blocks[at : at + size] for at in range(0, len(blocks), size)]
    under_way = [executor.submit(_portion, task, of, portion) for portion in portions]
    return [found for future in under_way for found in future.result()]


def _portion(task: Callable[[Any, int, np.random.Generator], T], of: Any, blocks: list[Block]) -> list[T]:
    return [task(of, n, rng) for n, rng in blocks]
