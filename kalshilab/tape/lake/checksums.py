"""Control totals of a tape's columns: what they add up to, taken when written and compared when read.

Sums find what a decoder does not notice: a file that was cut, swapped, or changed in a place that still decodes.
They cost a tenth of a nanosecond a value, where a hash of the file would cost more than reading it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

__all__ = ["total_of"]


@njit(nogil=True)
def _sum(values: Any) -> int:
    total = np.int64(0)
    for value in values:
        total += np.int64(value)
    return total  # type: ignore[return-value]


@njit(nogil=True)
def _zeros(values: Any) -> int:
    count = np.int64(0)
    for value in values:
        count += value == 0
    return count  # type: ignore[return-value]


def total_of(name: str, values: npt.NDArray[Any]) -> int:
    """The control total of a column: the sum of market codes, prices or sizes, the number of YES takers (zeros
    among the physical codes of `taker`).

    >>> total_of("price", np.array([4300, 5700], np.int16)), total_of("taker", np.array([0, 1, 0], np.uint8))
    (10000, 2)
    """
    return int(_zeros(values) if name == "taker" else _sum(values))
