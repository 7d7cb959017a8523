"""Registry of trials: an append-only record of hypotheses, of every evaluation, and of every look into a lockbox.

A p-value means nothing without the number of trials behind it. So a hypothesis is registered before it is evaluated,
and the hash of its specification (`prereg_hash`, the SHA-256 of the specification's canonical JSON) identifies it from
then on. Every evaluation is recorded, failures included. The number of trials *m* of a family is the number of distinct
combinations of specification, parameter point and data in the registry (Nosek et al. 2018, "The preregistration
revolution"; White 2000, "A reality check for data snooping").

The file is a `kalshilab.edge.prereg.append_log.Ledger`: append-only, refused if it was edited, on disk before a call
returns, and safe for several processes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import polars as pl

from kalshilab.clock import Clock, WallClock
from kalshilab.edge.canonical_json import canonical, hash_of
from kalshilab.edge.prereg.append_log import JsonRecord, Ledger
from kalshilab.edge.schema import ColumnType
from kalshilab.edge.stats.multiplicity import benjamini_hochberg, benjamini_yekutieli, holm
from kalshilab.errors import RegistryError
from kalshilab.tape.schema import TIME

__all__ = ["Evaluation", "Hypothesis", "Registry", "Trial"]

_LOCKBOX_KINDS: Final = ("boundary", "look", "result")
EXPLORE: Final = 0.10
"""False discovery rate of the board: it selects hypotheses for another look, and does not confirm them."""


_BOARD: Final[dict[str, ColumnType]] = {
    "id": pl.String,
    "family": pl.String,
    "prereg_hash": pl.String,
    "registered": TIME,
    "trials": pl.Int64,
    "family_trials": pl.Int64,
    "edge": pl.Float64,
    "n_eff": pl.Float64,
    "p": pl.Float64,
}


class Hypothesis(msgspec.Struct, frozen=True):
    """A claim, the reason why it should hold, and the specification of its test."""

    id: str
    """Short name such as `RLM_NO`; the same id with another specification is a revision."""
    family: str
    """Family of hypotheses whose trials are counted together."""
    mechanism: str
    """Reason why the other side should lose this money, in one sentence."""
    author: str
    spec: JsonRecord
    """Code hash, parameters, grid to be searched, universe, entry rule, costs, metric, data, boundary."""

    @property
    def prereg_hash(self) -> str:
        """Hash of the specification, which identifies the hypothesis."""
        return hash_of(self.spec)


class Trial(msgspec.Struct, frozen=True):
    """Outcome of one parameter point, before it is recorded."""

    parameters: JsonRecord
    p: float | None
    """One-sided p-value before any adjustment; None (or NaN) if the point could not be tested."""
    edge: float | None
    """Net edge in cents per contract."""
    n_eff: float | None
    """Effective sample size."""


class Evaluation(msgspec.Struct, frozen=True):
    """A trial as recorded in the registry."""

    prereg_hash: str
    data_hash: str
    trial: Trial
    notebook: str | None
    user: str | None
    time: int
    """Time of the record in microseconds since 1970 (UTC)."""
    line: int
    """Line number in the registry, from 0; earlier lines were written earlier."""
    sketch: tuple[int, ...] = ()
    """Hashes of some prints of the data (`kalshilab.edge.report.confirmation.sketch_of`); may be empty."""

    def saw(self, data_hash: str, sketch: Sequence[int] = ()) -> bool:
        """Return whether the trial used these data, or data that share prints with them."""
        return self.data_hash == data_hash or not set(self.sketch).isdisjoint(sketch)


class Registry:
    """An append-only record of hypotheses and trials; in memory without a path.

    >>> from kalshilab.clock import SimClock
    >>> registry = Registry(clock=SimClock())
    >>> idea = Hypothesis("FAV", "favourites", "Bettors overpay for long shots.", "us", {"signal": "fav"})
    >>> prereg = registry.register(idea)
    >>> for threshold in (0.7, 0.8, 0.8):
    ...     registry.evaluated(prereg, {"threshold": threshold}, data_hash="d1", p=0.04, edge=1.2, n_eff=210)
    >>> registry.trials("favourites")
    2

    Args:
        path: the file, created with the first record; None: in memory, for the lifetime of the object.
        clock: clock that gives the time of a record; None: the system clock.

    Raises:
        RegistryError: the file is damaged or was edited.
    """

    def __init__(self, path: str | Path | None = None, *, clock: Clock | None = None) -> None:
        self._clock: Clock = WallClock() if clock is None else clock
        self._ledger = Ledger(path, self._fold)
        self._hypotheses: dict[str, tuple[Hypothesis, int, int]] = {}
        self._evaluations: list[Evaluation] = []
        self._lockbox_records: list[JsonRecord] = []
        self._ledger.refresh()

    @property
    def path(self) -> Path | None:
        """The file; None if the registry is in memory."""
        return self._ledger.path

    def register(self, hypothesis: Hypothesis) -> str:
        """Record a hypothesis and return its `prereg_hash`; registering it again has no effect.

        Raises:
            RegistryError: a field is empty, the specification has no JSON form, it is registered under another id,
                family or mechanism, or the id is registered in another family. A new name cannot reset the count of
                trials.
        """
        for name in ("id", "family", "mechanism", "author"):
            if not getattr(hypothesis, name).strip():
                raise RegistryError(
                    f"hypothesis {hypothesis.id!r}: {name} must not be empty; state it before you look at data"
                )
        prereg = hypothesis.prereg_hash

        def records() -> list[JsonRecord]:
            if prereg in self._hypotheses:
                known = self._hypotheses[prereg][0]
                if (known.id, known.family, known.mechanism) != (
                    hypothesis.id,
                    hypothesis.family,
                    hypothesis.mechanism,
                ):
                    raise RegistryError(
                        f"{hypothesis.id}: this specification is registered as {known.id} in family {known.family}; "
                        "use that id and family, or change the specification"
                    )
                return []
            for known, _, _ in self._hypotheses.values():
                if known.id == hypothesis.id and known.family != hypothesis.family:
                    raise RegistryError(
                        f"id {hypothesis.id} belongs to family {known.family}, where its trials are counted, got family "
                        f"{hypothesis.family}; use family {known.family}, or another id"
                    )
            return [{"kind": "hypothesis", "prereg_hash": prereg, **msgspec.structs.asdict(hypothesis)}]

        self._add(records)
        return prereg

    def evaluated(
        self,
        prereg_hash: str,
        parameters: Mapping[str, object],
        data_hash: str,
        p: float | None,
        edge: float | None,
        n_eff: float | None,
        notebook: str | None = None,
        *,
        user: str | None = None,
    ) -> None:
        """Record the evaluation of one parameter point, with any outcome.

        Args:
            prereg_hash: hash of the registered hypothesis.
            parameters: the parameter point; `{}` without parameters.
            data_hash: hash of the data and their time range.
            p: one-sided p-value; None if the point could not be tested.
            edge: net edge in cents per contract; None if unknown.
            n_eff: effective sample size; None if unknown.
            notebook: name of the notebook, if any.
            user: name of the user, if any.

        Raises:
            RegistryError: the hash is not registered, or `p` is not a probability.
        """
        self.evaluated_all(
            prereg_hash, [Trial(dict(parameters), p, edge, n_eff)], data_hash, notebook, user=user
        )

    def evaluated_all(
        self,
        prereg_hash: str,
        trials: Iterable[Trial],
        data_hash: str,
        notebook: str | None = None,
        *,
        user: str | None = None,
        sketch: Sequence[int] = (),
    ) -> None:
        """Record the evaluations of several parameter points in one atomic write.

        Args:
            prereg_hash: hash of the registered hypothesis.
            trials: outcome of each parameter point.
            data_hash: hash of the data and their time range.
            notebook: name of the notebook, if any.
            user: name of the user, if any.
            sketch: hashes of some prints of the data, by which overlapping data are recognised.

        Raises:
            RegistryError: the hash is not registered, or a p-value is not a probability.
        """
        more = {"sketch": list(sketch)} if sketch else {}
        bodies = [
            {
                "kind": "evaluation", "prereg_hash": prereg_hash, "data_hash": data_hash,
                "parameters": trial.parameters, "p": _probability(trial.p), "edge": _number(trial.edge),
                "n_eff": _number(trial.n_eff), "notebook": notebook, "user": user, **more,
            }
            for trial in trials
        ]  # fmt: skip

        def records() -> list[JsonRecord]:
            self._known(prereg_hash)
            return bodies

        self._add(records)

    def registered(self, prereg_hash: str) -> bool:
        """Return whether a hypothesis is registered."""
        self._ledger.refresh()
        return prereg_hash in self._hypotheses

    def hypothesis(self, prereg_hash: str) -> Hypothesis:
        """Return the hypothesis with this hash.

        Raises:
            RegistryError: the hash is not registered.
        """
        self._ledger.refresh()
        return self._known(prereg_hash)[0]

    def registered_at(self, prereg_hash: str) -> int:
        """Return the time of registration in microseconds since 1970 (UTC).

        Raises:
            RegistryError: the hash is not registered.
        """
        self._ledger.refresh()
        return self._known(prereg_hash)[1]

    def registered_first(self, prereg_hash: str, data_hash: str, sketch: Sequence[int] = ()) -> bool:
        """Return whether a hypothesis was registered before its family used the data, and was not tuned on them.

        Only then may it be tested on the whole sample; otherwise it must be confirmed in a lockbox. The cells of a grid
        in its specification were planned: they count as trials, but not as tuning. Data that share prints (`sketch`)
        count as the same data.

        Raises:
            RegistryError: the hash is not registered.
        """
        self._ledger.refresh()
        hypothesis, _, line = self._known(prereg_hash)
        touched = [
            e for e in self._evaluations
            if e.saw(data_hash, sketch) and self._hypotheses[e.prereg_hash][0].family == hypothesis.family
        ]  # fmt: skip
        points = {canonical(e.trial.parameters) for e in touched if e.prereg_hash == prereg_hash}
        planned = bool(hypothesis.spec.get("grid")) or len(points) <= 1
        return planned and all(e.line > line for e in touched)

    def trials(self, family: str) -> int:
        """Return the number of trials of a family, failures included.

        A trial is a distinct combination of specification, parameter point and data.
        """
        self._ledger.refresh()
        return len(
            {
                (e.prereg_hash, canonical(e.trial.parameters), e.data_hash)
                for e in self._evaluations
                if self._hypotheses[e.prereg_hash][0].family == family
            }
        )

    def hypotheses(self) -> dict[str, Hypothesis]:
        """Return all hypotheses by `prereg_hash`, in order of registration."""
        self._ledger.refresh()
        return {prereg: known[0] for prereg, known in self._hypotheses.items()}

    def evaluations(self, prereg_hash: str | None = None) -> list[Evaluation]:
        """Return the evaluations of a hypothesis, or all of them, in order of evaluation."""
        self._ledger.refresh()
        return [e for e in self._evaluations if prereg_hash in (None, e.prereg_hash)]

    def board(self) -> pl.DataFrame:
        """Return the exploration board: one row per hypothesis.

        Columns: `id, family, prereg_hash, registered, trials` (of this hypothesis), `family_trials`, `edge` (cents per
        contract) and `n_eff` of its best point (of its first one if no point could be tested), and `p`, its smallest
        p-value times its trials (Bonferroni within the hypothesis). The others are adjusted over all tested hypotheses:
        `holm` (for claims), `bh` (false discovery rate of independent or positively dependent tests), `by` (under any
        dependence) and `explore` (`bh` at most 10 %). They are null if no point could be tested.
        """
        self._ledger.refresh()
        rows = []
        for prereg, (hypothesis, at, _) in self._hypotheses.items():
            points: dict[tuple[str, str], Evaluation] = {}
            for e in self._evaluations:
                if e.prereg_hash == prereg:
                    key = (canonical(e.trial.parameters), e.data_hash)
                    # Of a point that was tested twice, keep the larger p-value: a lucky seed is not evidence.
                    points[key] = e if key not in points else max(points[key], e, key=_badness)
            judged = [e for e in points.values() if e.trial.p is not None]
            best = min(judged, key=_badness, default=None)
            shown = best or next(iter(points.values()), None)
            rows.append(
                {
                    "id": hypothesis.id, "family": hypothesis.family, "prereg_hash": prereg, "registered": at,
                    "trials": len(points), "family_trials": self.trials(hypothesis.family),
                    "edge": None if shown is None else shown.trial.edge,
                    "n_eff": None if shown is None else shown.trial.n_eff,
                    "p": None if best is None else min(1.0, _badness(best) * len(points)),
                }
            )  # fmt: skip
        frame = pl.DataFrame(rows, schema=_BOARD, orient="row")
        judged_p = frame["p"].drop_nulls().to_numpy()
        at_rows = frame["p"].is_not_null().arg_true()
        for name, adjust in (("holm", holm), ("bh", benjamini_hochberg), ("by", benjamini_yekutieli)):
            column = np.full(len(frame), np.nan)
            if len(judged_p):
                column[at_rows.to_numpy()] = adjust(judged_p)
            frame = frame.with_columns(pl.Series(name, column).fill_nan(None))
        return frame.with_columns((pl.col("bh") <= EXPLORE).alias("explore"))

    def boxes(self, family: str) -> list[JsonRecord]:
        """Return the records of a family's lockbox (`kalshilab.edge.prereg.lockbox`), in order."""
        self._ledger.refresh()
        return self._lockbox_of(family)

    def seen_before_box(self, family: str, data_hash: str, sketch: Sequence[int] = ()) -> bool:
        """Return whether a family was evaluated on the data, or a part of them, before its lockbox was set."""
        set_at = next((b["line"] for b in self.boxes(family) if b["kind"] == "boundary"), None)
        return any(
            e.saw(data_hash, sketch) and (set_at is None or e.line < set_at)
            for e in self._evaluations
            if self._hypotheses[e.prereg_hash][0].family == family
        )

    def box(self, family: str, make: Callable[[list[JsonRecord]], JsonRecord | None]) -> None:
        """Add a record to a family's lockbox; no other writer can append between reading and writing.

        Args:
            family: family of the lockbox.
            make: function of the earlier records that returns the new one, with `kind` "boundary", "look" or
                "result"; None adds nothing. If it raises, nothing is written and the error propagates.

        Raises:
            RegistryError: the record is of another kind.
        """

        def records() -> list[JsonRecord]:
            record = make(self._lockbox_of(family))
            if record is not None and record.get("kind") not in _LOCKBOX_KINDS:
                raise RegistryError(
                    f"the kind of a lockbox record must be one of {', '.join(_LOCKBOX_KINDS)}, got {record}"
                )
            return [] if record is None else [{**record, "family": family}]

        self._add(records)

    def __len__(self) -> int:
        """Return the number of records."""
        self._ledger.refresh()
        return self._ledger.lines

    def __repr__(self) -> str:
        where = "in memory" if self._ledger.path is None else str(self._ledger.path)
        return (
            f"<Registry {where}: {len(self._hypotheses)} hypotheses, {len(self._evaluations):,} evaluations>"
        )

    def _lockbox_of(self, family: str) -> list[JsonRecord]:
        return [dict(record) for record in self._lockbox_records if record["family"] == family]

    def _known(self, prereg_hash: str) -> tuple[Hypothesis, int, int]:
        if prereg_hash not in self._hypotheses:
            raise RegistryError(
                f"prereg_hash must name a registered hypothesis, got {prereg_hash[:12]}…; "
                "call Registry.register(Hypothesis(…)) first"
            )
        return self._hypotheses[prereg_hash]

    def _add(self, records: Callable[[], list[JsonRecord]]) -> None:
        self._ledger.add(lambda: [{**record, "time": self._clock.now()} for record in records()])

    def _fold(self, record: JsonRecord, line: int) -> None:
        kind = record["kind"]
        if kind == "hypothesis":
            fields = {name: record[name] for name in Hypothesis.__struct_fields__}
            hypothesis = Hypothesis(**fields)
            if hypothesis.prereg_hash != record["prereg_hash"]:
                raise self._ledger.damage(line, "the specification does not match its hash")
            self._hypotheses[record["prereg_hash"]] = (hypothesis, record["time"], line)
        elif kind == "evaluation":
            self._known(record["prereg_hash"])
            trial = Trial(record["parameters"], *(_float(record[name]) for name in ("p", "edge", "n_eff")))
            self._evaluations.append(
                Evaluation(
                    record["prereg_hash"], record["data_hash"], trial, record["notebook"], record["user"],
                    record["time"], line, tuple(record.get("sketch", ())),
                )
            )  # fmt: skip
        elif kind not in _LOCKBOX_KINDS:
            raise self._ledger.damage(line, f"unknown kind {kind!r} of record, possibly of a later version")
        else:
            fields = {key: value for key, value in record.items() if key not in ("prev", "hash")}
            self._lockbox_records.append({**fields, "line": line})


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _probability(p: float | None) -> float | None:
    known = _number(p)
    if known is not None and not 0 <= known <= 1:
        raise RegistryError(f"p must be a probability from 0 to 1, got {p}")
    return known


def _float(value: float | None) -> float | None:
    return None if value is None else float(value)


def _badness(evaluation: Evaluation) -> float:
    """Return the p-value, or infinity if the point could not be tested."""
    return math.inf if evaluation.trial.p is None else evaluation.trial.p
