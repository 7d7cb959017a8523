"""Line 12 of the report card: confirm an edge by preregistration or by a lockbox.

A hypothesis registered before its family saw the data may be confirmed on all of them. Any other needs a lockbox that
was set before the first trial, or new data. Overlapping data are recognised by their prints and not by a hash of the
whole, so a tape with one more day or one fewer month does not pass for a new sample.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import TYPE_CHECKING, Final, TypedDict

import numpy as np
import numpy.typing as npt
import polars as pl

from kalshilab.edge.prereg.lockbox import Lockbox
from kalshilab.edge.prereg.registry import Registry
from kalshilab.edge.report import criteria
from kalshilab.edge.schema import Criterion
from kalshilab.edge.stats.inference import Inference, infer
from kalshilab.lazy import renamed
from kalshilab.signals.engine.kernel import compiled
from kalshilab.tape.tape import Tape

__all__ = ["DataIdentity", "confirmed_by_lockbox", "confirmed_by_registration", "data_of", "sketch_of"]

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__)

READ: Final = ("ts", "price", "size")
"""Columns that a sketch hashes."""
SKETCH: Final = 32
"""Number of hashes in a sketch."""


class DataIdentity(TypedDict):
    """Identity of the data behind a verdict."""

    hash: str
    """SHA-256 of the prints and outcomes."""
    prints: int
    markets: int
    first: datetime | None
    """Time of the first print; None for an empty tape."""
    last: datetime | None
    """Time of the last print; None for an empty tape."""


def data_of(tape: Tape, markets: pl.DataFrame) -> DataIdentity:
    """Return a hash of the prints and outcomes, with their numbers and span."""
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
    """Return a sketch that identifies a tape's prints: the 32 smallest of their hashes.

    Sketches of two tapes that share a tenth of their prints almost surely have a hash in common; sketches of tapes
    without common prints do not (bottom-k sketches: Cohen & Kaplan 2007, "Summarizing data using bottom-k sketches").

    >>> import kalshilab as kl
    >>> tape = kl.tape.FrameTape.of(kl.sample()[0])
    >>> len(set(sketch_of(tape)) & set(sketch_of(tape.head(tape.rows - 100)))) > 20
    True
    """
    smallest = np.zeros(0, np.uint64)
    for _, frame in tape.batches(READ):
        ts = frame["ts"].dt.epoch("us").to_numpy()
        hashes = np.zeros(len(ts), np.uint64)
        _hash_prints(ts, frame["price"].to_numpy(), frame["size"].to_numpy(), hashes)
        if len(hashes) > SKETCH:
            # Keep a surplus, since identical prints have identical hashes.
            hashes = np.partition(hashes, min(8 * SKETCH, len(hashes) - 1))[: 8 * SKETCH]
        smallest = np.unique(np.concatenate([smallest, hashes]))[:SKETCH]
    return tuple(int(x) for x in smallest)


@compiled
def _hash_prints(
    ts: npt.NDArray[np.int64],
    price: npt.NDArray[np.int16],
    size: npt.NDArray[np.uint32],
    out: npt.NDArray[np.uint64],
) -> None:  # pragma: no cover - compiled
    """Write the hash of each print to `out`."""
    for i in range(len(ts)):
        z = np.uint64(ts[i]) * np.uint64(0x9E3779B97F4A7C15)
        z ^= (np.uint64(price[i]) << np.uint64(32)) | np.uint64(size[i])
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        out[i] = (z ^ (z >> np.uint64(31))) >> np.uint64(16)


def confirmed_by_lockbox(
    box: Lockbox,
    registry: Registry,
    entries: pl.DataFrame,
    prereg: str,
    data: str,
    sketch: tuple[int, ...],
    seed: int,
) -> tuple[Criterion, datetime | None]:
    """Return line 12 from one look into the lockbox, and the time at which the lockbox begins.

    No look is spent if the family saw the inside before the lockbox was set; the time is then None.

    Args:
        box: lockbox of the family.
        registry: registry of the family's trials.
        entries: entries of the whole period, those inside the lockbox included.
        prereg: hash of the hypothesis.
        data: hash of the data.
        sketch: `sketch_of` the data.
        seed: seed of the inference.
    """
    if registry.seen_before_box(box.family, data, sketch):
        why = (
            f"family {box.family} was tried on all of these data before its lockbox was set; pass lockbox=True from "
            "the first trial on to hold back the last part, or confirm on new data under a new family"
        )
        return criteria.unconfirmed(why), None
    _, boundary = box.split(entries)
    p = box.open(entries, lambda inside: infer(inside, seed=seed).p, prereg_hash=prereg)
    look = box.looks()[-1]
    how = f"lockbox from {boundary:%Y-%m-%d}, look {look.number}"
    return criteria.confirmation(p=p, budget=look.alpha, how=how), boundary


def confirmed_by_registration(
    registry: Registry,
    prereg: str,
    family: str,
    data: str,
    sketch: tuple[int, ...],
    inference: Inference,
    trials: int,
    *,
    in_process: bool,
) -> Criterion:
    """Return line 12 from all the data; it passes only if the hypothesis was registered before its family saw them.

    Args:
        registry: registry of the family's trials.
        prereg: hash of the hypothesis.
        family: family of the hypothesis.
        data: hash of the data.
        sketch: `sketch_of` the data.
        inference: inference on all the data.
        trials: number of trials of the family.
        in_process: whether the registry is that of this process.
    """
    if registry.registered_first(prereg, data, sketch):
        how = (
            "registered in this process before its first trial"
            if in_process
            else "registered before its data"
        )
        return criteria.confirmation(p=min(1.0, inference.p * trials), budget=criteria.ALPHA, how=how)
    why = (
        f"family {family} was tried before on these data, or on part of them; confirm a rule chosen on data with other "
        "data, or with a lockbox set before the first trial (lockbox=True)"
    )
    return criteria.unconfirmed(why)
