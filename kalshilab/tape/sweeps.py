"""One aggressor, one trade: merging the pieces of a sweep.

An order that takes several resting orders is printed piece by piece, each with the same time, market and
taker's side.  Counted as they stand, the pieces of one decision can fill a quorum meant for many; a signal
that counts prints should say whether it means pieces or aggressors.  Nothing merges on its own: call this.
"""

from __future__ import annotations

import polars as pl

from kalshilab.tape.schema import TAPE_SCHEMA, check_tape

__all__ = ["merge_sweeps"]


def merge_sweeps(tape: pl.DataFrame) -> pl.DataFrame:
    """The tape with prints of one time, market and taker's side made one.

    A merged print stands where its first piece stood and has that piece's trade id, the size of all of them
    together, and the price of the last: where the sweep left the market.

    >>> import kalshilab as kl
    >>> tape, _ = kl.sample()
    >>> merged = merge_sweeps(tape)
    >>> merged.height <= tape.height, merged["size"].sum() == tape["size"].sum()
    (True, True)

    Raises:
        TapeError: not a tape.
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
