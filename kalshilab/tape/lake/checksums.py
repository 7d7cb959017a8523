"""Column checksums: control totals of a tape's columns, taken at writing and compared at reading.

Sums detect errors that a decoder misses: a file that was truncated, swapped, or changed so that it still decodes.
They cost a tenth of a nanosecond a value; hashing the file would cost more than reading it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

__all__ = ["total_of"]

Integers = npt.NDArray[np.integer[Any]]


@njit(nogil=True)
def _sum(values: Integers) -> int:
    total = np.int64(0)
    for value in values:
        total += np.int64(value)
    return total  # type: ignore[return-value]


@njit(nogil=True)
def _zeros(values: Integers) -> int:
    count = np.int64(0)
    for value in values:
        count += value == 0
    return count  # type: ignore[return-value]


def total_of(name: str, values: Integers) -> int:
    """Return a column's control total.

    It is the sum of market codes, prices or sizes.  For `taker` it is the number of YES takers, which are the zeros
    among the column's physical codes.

    Args:
        name: the column.
        values: its physical values, without nulls.

    >>> total_of("price", np.array([4300, 5700], np.int16)), total_of("taker", np.array([0, 1, 0], np.uint8))
    (10000, 2)
    """
    return int(_zeros(values) if name == "taker" else _sum(values))
