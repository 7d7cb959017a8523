"""What was tried: an append-only record of hypotheses, of every evaluation, and of every look into a lockbox.

A p-value means nothing without the number of tries behind it.  So a hypothesis is registered before it is judged,
and the hash of its specification (`prereg_hash`: SHA-256 of the specification's canonical JSON) names it from then
on; every evaluation is written down, failures included; and the number of trials *m* of a family is what stands
here: the distinct (specification, parameter point, data) that were evaluated (Nosek et al. 2018, "The
preregistration revolution"; White 2000, "A reality check for data snooping").

The file is a `kalshilab.edge.prereg.append_log.Ledger`: only ever added to, refused when edited, on the disk before a call
returns, safe for several processes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import polars as pl

from kalshilab.clock import Clock, WallClock
from kalshilab.edge.canonical_json import canonical, hash_of
from kalshilab.edge.prereg.append_log import Ledger
from kalshilab.edge.stats.multiplicity import benjamini_hochberg, benjamini_yekutieli, holm
from kalshilab.errors import RegistryError
from kalshilab.tape.schema import TIME

__all__ = ["Evaluation", "Hypothesis", "Registry", "Trial"]

_BOXES: Final = ("boundary", "look", "result")
EXPLORE: Final = 0.10
"""False discovery rate of the board: what is worth another look, not what is true."""


_BOARD: Final[dict[str, Any]] = {
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
    """What is claimed, why it should hold, and how it will be judged."""

    id: str
    """A short name, `RLM_NO`; the same with another specification is a revision."""
    family: str
    """What it shares its trials with."""
    mechanism: str
    """Why somebody should lose this money, in a sentence."""
    author: str
    spec: dict[str, Any]
    """Code hash, parameters and the grid to be searched, universe, entry rule, costs, metric, data, boundary."""

    @property
    def prereg_hash(self) -> str:
        """What names it: the hash of its specification."""
        return hash_of(self.spec)


class Trial(msgspec.Struct, frozen=True):
    """One parameter point's outcome, to be written down."""

    parameters: dict[str, Any]
    p: float | None
    """One-sided, before any adjustment; None (or NaN) where it could not be judged."""
    edge: float | None
    """Cents a contract, net."""
    n_eff: float | None
    """Effective sample size."""


class Evaluation(msgspec.Struct, frozen=True):
    """A trial as it was written down."""

    prereg_hash: str
    data_hash: str
    trial: Trial
    notebook: str | None
    user: str | None
    time: int
    """Microseconds since 1970 (UTC)."""
    line: int
    """Its line in the registry, from 0: what stands before was there before."""
    sketch: tuple[int, ...] = ()
    """Prints of the data as numbers (`kalshilab.edge.report.confirmation.sketch_of`); empty where none were written down."""

    def saw(self, data_hash: str, sketch: Sequence[int] = ()) -> bool:
        """Whether it was made on these data, or on data that share prints with them."""
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
        path: the file; created with the first record.  None: in memory, gone with the object.
        clock: what dates the records; None is the machine's.

    Raises:
        RegistryError: the file is damaged or was edited.
    """

    def __init__(self, path: str | Path | None = None, *, clock: Clock | None = None) -> None:
        self._clock: Clock = WallClock() if clock is None else clock
        self._ledger = Ledger(path, self._fold)
        self._hypotheses: dict[str, tuple[Hypothesis, int, int]] = {}
        self._evaluations: list[Evaluation] = []
        self._boxes: list[dict[str, Any]] = []
        self._ledger.refresh()

    @property
    def path(self) -> Path | None:
        """The file; None in memory."""
        return self._ledger.path

    def register(self, hypothesis: Hypothesis) -> str:
        """Write a hypothesis down; returns its `prereg_hash`.  The same one again adds nothing.

        Raises:
            RegistryError: a field is empty; the specification is no JSON; it stands under another id, family or
                mechanism, or the id under another family: trials cannot be left behind by a new name.
        """
        for name in ("id", "family", "mechanism", "author"):
            if not getattr(hypothesis, name).strip():
                raise RegistryError(
                    f"hypothesis {hypothesis.id!r}: {name} is empty; say it before looking at data"
                )
        prereg = hypothesis.prereg_hash

        def records() -> list[dict[str, Any]]:
            if prereg in self._hypotheses:
                known = self._hypotheses[prereg][0]
                if (known.id, known.family, known.mechanism) != (
                    hypothesis.id,
                    hypothesis.family,
                    hypothesis.mechanism,
                ):
                    raise RegistryError(
                        f"{hypothesis.id}: this specification is registered as {known.id} in family {known.family}; "
                        "use that one, or specify what differs"
                    )
                return []
            for known, _, _ in self._hypotheses.values():
                if known.id == hypothesis.id and known.family != hypothesis.family:
                    raise RegistryError(
                        f"{hypothesis.id} belongs to family {known.family}, where its trials are counted, "
                        f"not to {hypothesis.family}; use that family, or another id"
                    )
            return [{"kind": "hypothesis", "prereg_hash": prereg, **msgspec.structs.asdict(hypothesis)}]

        self._add(records)
        return prereg

    def evaluated(
        self,
        prereg_hash: str,
        parameters: Mapping[str, Any],
        data_hash: str,
        p: float | None,
        edge: float | None,
        n_eff: float | None,
        notebook: str | None = None,
        *,
        user: str | None = None,
    ) -> None:
        """Write down that a parameter point was evaluated, whatever came out.

        Args:
            parameters: the point; `{}` if there are none.
            data_hash: names the data and its window.
            p, edge, n_eff: as in `Trial`.

        Raises:
            RegistryError: the hash is not registered, or p is no probability.
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
        """Write down the cells of a grid at once: all of them, in one stroke to the disk.

        Args:
            sketch: prints of the data, by which overlapping data are recognised.
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

        def records() -> list[dict[str, Any]]:
            self._known(prereg_hash)
            return bodies

        self._add(records)

    def registered(self, prereg_hash: str) -> bool:
        """Whether a hypothesis is registered."""
        self._ledger.refresh()
        return prereg_hash in self._hypotheses

    def hypothesis(self, prereg_hash: str) -> Hypothesis:
        """The hypothesis of a hash.

        Raises:
            RegistryError: it is not registered.
        """
        self._ledger.refresh()
        return self._known(prereg_hash)[0]

    def registered_at(self, prereg_hash: str) -> int:
        """When a hypothesis was registered, in microseconds since 1970 (UTC)."""
        self._ledger.refresh()
        return self._known(prereg_hash)[1]

    def registered_first(self, prereg_hash: str, data_hash: str, sketch: Sequence[int] = ()) -> bool:
        """Whether a hypothesis was registered before its family touched the data, and was never tuned on it.

        Only then may it use the whole sample; otherwise its confirmation has to come from a lockbox.  The cells of a
        grid that stands in its specification were foreseen: they are trials, and no tuning.  Data that share prints
        (`sketch`) with others are the same data.
        """
        self._ledger.refresh()
        hypothesis, _, line = self._known(prereg_hash)
        touched = [
            e for e in self._evaluations
            if e.saw(data_hash, sketch) and self._hypotheses[e.prereg_hash][0].family == hypothesis.family
        ]  # fmt: skip
        points = {canonical(e.trial.parameters) for e in touched if e.prereg_hash == prereg_hash}
        foreseen = bool(hypothesis.spec.get("grid")) or len(points) <= 1
        return foreseen and all(e.line > line for e in touched)

    def trials(self, family: str) -> int:
        """How many distinct (specification, parameter point, data) were evaluated in a family, failures included."""
        self._ledger.refresh()
        return len(
            {
                (e.prereg_hash, canonical(e.trial.parameters), e.data_hash)
                for e in self._evaluations
                if self._hypotheses[e.prereg_hash][0].family == family
            }
        )

    def hypotheses(self) -> dict[str, Hypothesis]:
        """All hypotheses by `prereg_hash`, in the order of their registration."""
        self._ledger.refresh()
        return {prereg: known[0] for prereg, known in self._hypotheses.items()}

    def evaluations(self, prereg_hash: str | None = None) -> list[Evaluation]:
        """The evaluations of a hypothesis, or all of them, in the order they were made."""
        self._ledger.refresh()
        return [e for e in self._evaluations if prereg_hash in (None, e.prereg_hash)]

    def board(self) -> pl.DataFrame:
        """A row for each hypothesis: the exploration board.

        Columns: `id, family, prereg_hash, registered, trials` (of this hypothesis), `family_trials, edge, n_eff` (of
        its best point; of its first, where samples were too small to judge any), `p` (its smallest, times its trials:
        Bonferroni within), then adjusted over all hypotheses that were judged: `holm` (for claims), `bh` (false discovery rate, independent or positively dependent tests),
        `by` (under any dependence), and `explore` (`bh` at most 10 %).  Null where nothing was judged.
        """
        self._ledger.refresh()
        rows = []
        for prereg, (hypothesis, at, _) in self._hypotheses.items():
            points: dict[tuple[str, str], Evaluation] = {}
            for e in self._evaluations:
                if e.prereg_hash == prereg:
                    key = (canonical(e.trial.parameters), e.data_hash)
                    # Of a point that was judged twice, the worse: a lucky seed is no evidence.
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

    def boxes(self, family: str) -> list[dict[str, Any]]:
        """The records of a family's lockbox (`kalshilab.edge.prereg.lockbox`), in order."""
        self._ledger.refresh()
        return self._boxes_of(family)

    def seen_before_box(self, family: str, data_hash: str, sketch: Sequence[int] = ()) -> bool:
        """Whether a family was tried on data, or a part of them, before its lockbox was set."""
        set_at = next((b["line"] for b in self.boxes(family) if b["kind"] == "boundary"), None)
        return any(
            e.saw(data_hash, sketch) and (set_at is None or e.line < set_at)
            for e in self._evaluations
            if self._hypotheses[e.prereg_hash][0].family == family
        )

    def box(self, family: str, make: Callable[[list[dict[str, Any]]], dict[str, Any] | None]) -> None:
        """Add a record to a family's lockbox: `make` sees those before it, and no other writer comes between.

        Args:
            make: of the records before, the new one with `kind` "boundary", "look" or "result", or None for none.

        Raises:
            RegistryError: what `make` raises; nothing is written then.
        """

        def records() -> list[dict[str, Any]]:
            record = make(self._boxes_of(family))
            if record is not None and record.get("kind") not in _BOXES:
                raise RegistryError(f"a lockbox keeps records of the kinds {', '.join(_BOXES)}, not {record}")
            return [] if record is None else [{**record, "family": family}]

        self._add(records)

    def __len__(self) -> int:
        """Records."""
        self._ledger.refresh()
        return self._ledger.lines

    def __repr__(self) -> str:
        where = "in memory" if self._ledger.path is None else str(self._ledger.path)
        return (
            f"<Registry {where}: {len(self._hypotheses)} hypotheses, {len(self._evaluations):,} evaluations>"
        )

    def _boxes_of(self, family: str) -> list[dict[str, Any]]:
        return [dict(record) for record in self._boxes if record["family"] == family]

    def _known(self, prereg_hash: str) -> tuple[Hypothesis, int, int]:
        if prereg_hash not in self._hypotheses:
            raise RegistryError(
                f"no hypothesis {prereg_hash[:12]}… is registered; Registry.register(Hypothesis(…)) before it is judged"
            )
        return self._hypotheses[prereg_hash]

    def _add(self, records: Callable[[], list[dict[str, Any]]]) -> None:
        self._ledger.add(lambda: [{**record, "time": self._clock.now()} for record in records()])

    def _fold(self, record: dict[str, Any], line: int) -> None:
        kind = record["kind"]
        if kind == "hypothesis":
            fields = {name: record[name] for name in Hypothesis.__struct_fields__}
            hypothesis = Hypothesis(**fields)
            if hypothesis.prereg_hash != record["prereg_hash"]:
                raise self._ledger.damage(line, "the specification is not that of its hash")
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
        elif kind not in _BOXES:
            raise self._ledger.damage(line, f"a record of the unknown kind {kind!r}, as of a later version")
        else:
            kept = {key: value for key, value in record.items() if key not in ("prev", "hash")}
            self._boxes.append({**kept, "line": line})


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _probability(p: float | None) -> float | None:
    known = _number(p)
    if known is not None and not 0 <= known <= 1:
        raise RegistryError(f"p = {p} is no probability")
    return known


def _float(value: float | None) -> float | None:
    return None if value is None else float(value)


def _badness(evaluation: Evaluation) -> float:
    """Its p-value; what could not be judged is worst."""
    return math.inf if evaluation.trial.p is None else evaluation.trial.p
