"""Line 12: who may call an edge confirmed, and on which data.

A rule that was registered before its family saw the data may use all of them.  Any other takes its confirmation from
a lockbox that was set before they were looked at, or from new data.  *The same data* are told by their prints, not by
a hash of the whole: a day more or a month less is no new sample.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Any, Final

import numpy as np
import polars as pl

from kalshilab.edge.prereg.lockbox import Lockbox
from kalshilab.edge.prereg.registry import Registry
from kalshilab.edge.report import criteria
from kalshilab.edge.schema import Criterion
from kalshilab.edge.stats.inference import Inference, infer
from kalshilab.signals.engine.kernel import compiled
from kalshilab.tape.tape import Tape

__all__ = ["confirmed", "data_of", "opened", "sketch_of"]

READ: Final = ("ts", "price", "size")
SKETCH: Final = 32
"""Prints by which data are recognised."""


def data_of(tape: Tape, markets: pl.DataFrame) -> dict[str, Any]:
    """What was judged on: a hash of the prints and outcomes, and how many."""
    digest = hashlib.sha256()
    tape.update_digest(digest)
    first, last = tape.ends() or (None, None)
    outcomes = markets.select("ticker", "event", "settlement").sort("ticker")
    digest.update(outcomes.write_csv().encode())
    return {
        "hash": digest.hexdigest(),
        "prints": tape.rows,
        "markets": markets.height,
        "first": first,
        "last": last,
    }


def sketch_of(tape: Tape) -> tuple[int, ...]:
    """Prints of a tape or lake by which it is recognised, as numbers: the 32 smallest of all prints' hashes.

    Two sets of data that share a tenth of their prints share some of these numbers, all but surely; two that share
    none, none (bottom-k sketches: Cohen & Kaplan 2007, "Summarizing data using bottom-k sketches").

    >>> import kalshilab as kl
    >>> tape = kl.tape.FrameTape.of(kl.sample()[0])
    >>> len(set(sketch_of(tape)) & set(sketch_of(tape.head(tape.rows - 100)))) > 20
    True
    """
    least = np.zeros(0, np.uint64)
    for _, frame in tape.batches(READ):
        ts = frame["ts"].dt.epoch("us").to_numpy()
        found = np.zeros(len(ts), np.uint64)
        _hashed(ts, frame["price"].to_numpy(), frame["size"].to_numpy(), found)
        if len(found) > SKETCH:
            # More than are wanted, since the same print may stand there twice.
            found = np.partition(found, min(8 * SKETCH, len(found) - 1))[: 8 * SKETCH]
        least = np.unique(np.concatenate([least, found]))[:SKETCH]
    return tuple(int(x) for x in least)


@compiled
def _hashed(ts: Any, price: Any, size: Any, out: Any) -> None:  # pragma: no cover - compiled
    for i in range(len(ts)):
        z = np.uint64(ts[i]) * np.uint64(0x9E3779B97F4A7C15)
        z ^= (np.uint64(price[i]) << np.uint64(32)) | np.uint64(size[i])
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        out[i] = (z ^ (z >> np.uint64(31))) >> np.uint64(16)


def opened(
    box: Lockbox,
    registry: Registry,
    entries: pl.DataFrame,
    prereg: str,
    data: str,
    sketch: tuple[int, ...],
    seed: int,
) -> tuple[Criterion, datetime | None]:
    """Line 12 by a look into the lockbox, and where it begins; no look where its inside was seen before it was set.

    Args:
        entries: of the whole time, the lockbox' included.
    """
    if registry.seen_before_box(box.family, data, sketch):
        why = (
            f"family {box.family} was tried on these data, all of them, before its lockbox was set; lockbox=True from the "
            "first trial on keeps the last part apart, and new data under a new family can still confirm"
        )
        return criteria.unconfirmed(why), None
    _, boundary = box.split(entries)
    p = box.open(entries, lambda inside: infer(inside, seed=seed).p, prereg_hash=prereg)
    look = box.looks()[-1]
    how = f"lockbox from {boundary:%Y-%m-%d}, look {look.number}"
    return criteria.confirmation(p=p, budget=look.alpha, how=how), boundary


def confirmed(
    registry: Registry,
    prereg: str,
    family: str,
    data: str,
    sketch: tuple[int, ...],
    found: Inference,
    trials: int,
    *,
    ours: bool,
) -> Criterion:
    """Line 12 by all that may be seen, if the hypothesis was there before it."""
    if registry.registered_first(prereg, data, sketch):
        how = "registered in this process, where it was tried first" if ours else "registered before its data"
        return criteria.confirmation(p=min(1.0, found.p * trials), budget=criteria.ALPHA, how=how)
    why = (
        f"family {family} was tried on these data before, or on a part of them: a rule chosen on data is confirmed by "
        "others, or by a lockbox that was set first (lockbox=True)"
    )
    return criteria.unconfirmed(why)
