"""Merge the prints of a sweep, so that one taker order is one print.

An order that fills several resting orders is printed once for each of them, with the same time, market and taker side.
A signal that counts prints may count one decision many times; its documentation should state whether it counts prints
or orders.  Sweeps are merged only where `merge_sweeps` is called.
"""

from __future__ import annotations

import polars as pl

from kalshilab.tape.schema import TAPE_SCHEMA, check_tape

__all__ = ["merge_sweeps"]


def merge_sweeps(tape: pl.DataFrame) -> pl.DataFrame:
    """Merge prints of the same time, market and taker side.

    A merged print takes the position and the trade id of its first print, the sum of the sizes, and the price of the
    last print, at which the sweep left the market.

    >>> import kalshilab as kl
    >>> tape, _ = kl.sample()
    >>> merged = merge_sweeps(tape)
    >>> merged.height <= tape.height, merged["size"].sum() == tape["size"].sum()
    (True, True)

    Raises:
        TapeError: the frame is not a tape.
    """
    check_tape(tape)
    return (
        tape.group_by("ts", "market", "taker", maintain_order=True)
        .agg(
            pl.col("ticker").first(),
            pl.col("price").last(),
            pl.col("size").sum(),
            pl.col("trade_id").first(),
        )
        .select(pl.col(name).cast(dtype) if name == "size" else name for name, dtype in TAPE_SCHEMA.items())
    )
