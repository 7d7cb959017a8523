"""Edges claimed by a published system, each with its audited value: neither figure appears without the other.

The figures are in `research/claims.toml`, each with the report that published it, its entry price, the audited value
if there is one, and the reason why the claim does not stand. Edges are in cents per contract. The published "%" is the
win rate less the break-even rate; one percentage point of a contract that pays a dollar is one cent.

Most claims have no audited value, because the signal was only evaluated over the whole lives of markets. The sentence
then states this and, if known, the result of the same method on fair markets, where nobody has an edge (see
`kalshilab.edge.lookahead.audit`). Such a claim is not refuted but untested.

>>> print(load().sentence("yes_80_90").rpartition(": ")[0])
YES_80_90 (S001, H001): claimed +5.10 c; audited -6.20 c when the system measured it again, before fee and spread
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import polars as pl
from polars._typing import PolarsDataType

from kalshilab.errors import EdgeError
from kalshilab.lazy import renamed

__all__ = ["WATERFALL_SCHEMA", "Claim", "ClaimStep", "Claims", "Sweep", "claims_file", "load"]

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__)

_WATERFALL: Final[dict[str, PolarsDataType]] = {
    "step": pl.String,
    "edge": pl.Float64,
    "lower": pl.Float64,
    "upper": pl.Float64,
    "n": pl.Int64,
    "note": pl.String,
}
WATERFALL_SCHEMA: Final = pl.Schema(_WATERFALL)
"""Columns of a waterfall: `edge` and its interval are in cents, null where nothing was published."""


class ClaimStep(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One step from a claim to its audited value."""

    step: str
    """Name of the step."""
    edge: float
    """Edge in cents."""
    lower: float | None = None
    """Lower end of the 95 % interval in cents."""
    upper: float | None = None
    """Upper end of the 95 % interval in cents."""
    n: int | None = None
    """Number of markets."""
    note: str = ""
    """Explanation of the step."""


class Claim(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A published edge, its audit, and the reason why it does not stand."""

    id: str
    """Identifier, such as `rlm_no`."""
    name: str
    """Name as shown to readers."""
    rule: str
    """The bet in one line."""
    claimed: float
    """Published edge in cents."""
    measure: str = "edge"
    """Quantity of `claimed`, if it is not an edge over the price paid."""
    n: int | None = None
    """Number of markets behind the published edge."""
    win_rate: float | None = None
    """Published win rate in percent."""
    price: float | None = None
    """Mean price paid in cents."""
    excess: float | None = None
    """Published edge over markets at similar prices, in cents."""
    buckets: tuple[int, int] | None = None
    """Number of price buckets with a positive excess, and number of all buckets."""
    entry: str
    """Price at which the published figure buys."""
    source: str
    """Report that published the figure."""
    audited: float | None = None
    """Audited edge in cents; None if nobody has measured it."""
    basis: str = ""
    """Costs included in `audited`."""
    audited_n: int | None = None
    """Number of markets behind the audited edge."""
    audited_excess: float | None = None
    """Audited edge over markets at similar prices, in cents."""
    fair: float | None = None
    """Result of the same method on fair markets, in cents."""
    fair_excess: float | None = None
    """Result of the same method on fair markets over markets at similar prices, in cents."""
    like: str | None = None
    """Id of the claim whose audit also applies to this one."""
    reason: str
    """Reason why the claim does not stand, or the missing evidence."""
    step: tuple[ClaimStep, ...] = ()
    """Published steps from the claim to its audited value."""


class Sweep(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Published edges of a claim at several values of a parameter."""

    id: str
    """Identifier, such as `rlm_threshold`."""
    claim: str
    """Id of the claim whose rule is varied."""
    over: str
    """Parameter that is varied."""
    at: tuple[float | str, ...]
    """Values of the parameter."""
    claimed: tuple[float | tuple[float, ...], ...]
    """Edge in cents at each value, or a row of edges if there are `columns`."""
    columns: tuple[float, ...] = ()
    """Values of a second parameter."""
    n: tuple[int, ...] = ()
    """Number of markets at each value."""
    excess: tuple[float, ...] = ()
    """Edge over markets at similar prices at each value, in cents."""
    fair: tuple[float, ...] = ()
    """Result of the same method on fair markets at each value, in cents."""
    reason: str
    """Explanation of the sweep."""

    def frame(self) -> pl.DataFrame:
        """Return a row per cell, `at, column, claimed, n, excess, fair`; null where nothing was published."""
        rows = []
        for i, (value_at, cell) in enumerate(zip(self.at, self.claimed, strict=True)):
            at = value_at if isinstance(value_at, str) else f"{value_at:g}"
            beside = [column[i] if column else None for column in (self.n, self.excess, self.fair)]
            if isinstance(cell, tuple):
                rows += [
                    (at, column, value, *beside) for column, value in zip(self.columns, cell, strict=True)
                ]
            else:
                rows.append((at, None, cell, *beside))
        kinds = {"at": pl.String, "column": pl.Float64, "claimed": pl.Float64}
        return pl.DataFrame(
            rows,
            {**kinds, "n": pl.Int64, "excess": pl.Float64, "fair": pl.Float64},
            orient="row",
        )


class Claims(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All claims and sweeps, in the order of the file."""

    claim: tuple[Claim, ...]
    sweep: tuple[Sweep, ...] = ()

    def get(self, name: str) -> Claim:
        """Return the claim with an id, such as `rlm_no`.

        Raises:
            EdgeError: the id is unknown.
        """
        for found in self.claim:
            if found.id == name:
                return found
        raise _unknown("claim", name, [c.id for c in self.claim])

    def sweep_of(self, name: str) -> Sweep:
        """Return the sweep with an id, such as `rlm_threshold`.

        Raises:
            EdgeError: the id is unknown.
        """
        for found in self.sweep:
            if found.id == name:
                return found
        raise _unknown("sweep", name, [s.id for s in self.sweep])

    def audited(self, name: str) -> tuple[float, str] | None:
        """Return the audited value of a claim in cents, and its basis; None if nobody has measured it.

        A claim without an audited value has that of the claim it is `like`.

        >>> load().audited("rlm_no_optimum")
        (0.43, 'after the fee, before the spread')
        """
        found = self.get(name)
        while found.audited is None and found.like is not None:
            found = self.get(found.like)
        return None if found.audited is None else (found.audited, found.basis)

    def sentence(self, name: str) -> str:
        """Return the claim and its audited value in one sentence.

        >>> print(load().sentence("whale_fade")[:60])
        Whale fade (H121): claimed +5.79 c; audited: no value exists
        """
        found = self.get(name)
        left = self.audited(name)
        what = "" if found.measure == "edge" else f" ({found.measure})"
        text = f"{found.name}: claimed {_cents(found.claimed)}{what}; "
        if left is not None:
            value, basis = left
            under = "" if found.audited is not None else f" (measured for {self._root(found).id})"
            text += f"audited {_cents(value)} {basis}{under}"
            if found.audited_excess is not None:
                text += f", {_cents(found.audited_excess)} against markets at similar prices"
        else:
            text += (
                "audited: no value exists, since nobody has measured it after costs at the time of the fire"
            )
            fair = found.fair if found.like is None or found.fair is not None else self._root(found).fair
            if fair is not None:
                text += f"; its method shows {_cents(fair)} on fair markets, where there is no edge"
        return f"{text}: {found.reason}"

    def waterfall(self, name: str) -> pl.DataFrame:
        """Return the steps from a claim to its audited value (`WATERFALL_SCHEMA`).

        A claim without published steps has two: the claimed and the audited value, null if it was not measured.

        >>> load().waterfall("rlm_no")["edge"].to_list()
        [17.38, 3.02, 1.97, 0.43, -1.15]
        """
        found = self.get(name)
        rows: list[tuple[object, ...]]
        if found.step:
            rows = [(s.step, s.edge, s.lower, s.upper, s.n, s.note) for s in found.step]
        else:
            value, basis = self.audited(name) or (None, "not measured after costs at the time of the fire")
            n = None if found.audited is None else found.audited_n
            rows = [
                ("claimed", found.claimed, None, None, found.n, f"{found.entry} ({found.source})"),
                ("audited", value, None, None, n, f"{basis}: {found.reason}"),
            ]
        return pl.DataFrame(rows, WATERFALL_SCHEMA, orient="row")

    def frame(self) -> pl.DataFrame:
        """Return a row per claim: `id, name, claimed, measure, n, excess, audited, basis, fair, reason`."""
        rows = []
        for c in self.claim:
            value, basis = self.audited(c.id) or (None, "")
            rows.append((c.id, c.name, c.claimed, c.measure, c.n, c.excess, value, basis, c.fair, c.reason))
        text, number = pl.String, pl.Float64
        kinds = {
            "id": text,
            "name": text,
            "claimed": number,
            "measure": text,
            "n": pl.Int64,
            "excess": number,
        }
        return pl.DataFrame(
            rows, {**kinds, "audited": number, "basis": text, "fair": number, "reason": text}, orient="row"
        )

    def __repr__(self) -> str:
        audited = sum(self.audited(c.id) is not None for c in self.claim)
        return f"<Claims: {len(self.claim)}, {audited} of them audited; {len(self.sweep)} sweeps>"

    def _root(self, found: Claim) -> Claim:
        """Return the claim at the end of a chain of `like`."""
        while found.like is not None:
            found = self.get(found.like)
        return found


def claims_file() -> Path:
    """Return the path of the claims file: that of the checkout if there is one, else the copy in the package.

    Raises:
        EdgeError: neither file exists.
    """
    package = Path(__file__).resolve().parents[2]
    for path in (package.parent / "research" / "claims.toml", package / "edge" / "claims.toml"):
        if path.is_file():
            return path
    raise EdgeError("claims.toml is missing from this installation; install kalshilab again")


def load(path: str | Path | None = None) -> Claims:
    """Return the claims of a file; None: those of the library, read once.

    Raises:
        EdgeError: the file does not exist or is not TOML; a field is missing, unknown or of another type; an id is
            repeated; the columns of a sweep differ in length; or a reference points to an unknown claim.
    """
    return _read(claims_file()) if path is None else _parse(Path(path))


@cache
def _read(path: Path) -> Claims:
    return _parse(path)


def _parse(path: Path) -> Claims:
    """Read and check a claims file."""
    try:
        claims = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), Claims)
    except FileNotFoundError:
        raise EdgeError(f"{path}: the claims file does not exist") from None
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise EdgeError(f"{path}: not a valid claims file ({error})") from None
    for kind, names in (("claim", [c.id for c in claims.claim]), ("sweep", [s.id for s in claims.sweep])):
        repeated = [name for name, times in Counter(names).items() if times > 1]
        if repeated:
            raise EdgeError(f"{path}: {kind} ids must be unique, got {repeated[0]} twice")
    known = {c.id: c for c in claims.claim}
    for c in claims.claim:
        _check_claim(c, known, path)
    for s in claims.sweep:
        _check_sweep(s, known, path)
    return claims


def _check_claim(claim: Claim, known: Mapping[str, Claim], path: Path) -> None:
    """Raise EdgeError if an audited value has no basis, or `like` does not lead to another claim."""
    if claim.audited is not None and not claim.basis:
        raise EdgeError(f"{path}: claim {claim.id} must have a basis for its audited value")
    seen, at = {claim.id}, claim.like
    while at is not None:
        if at not in known or at in seen:
            raise EdgeError(f"{path}: claim {claim.id}: like must lead to another claim, got {at}")
        seen.add(at)
        at = known[at].like


def _check_sweep(sweep: Sweep, known: Mapping[str, Claim], path: Path) -> None:
    """Raise EdgeError if a sweep varies an unknown claim, or has columns of different lengths."""
    if sweep.claim not in known:
        raise EdgeError(f"{path}: sweep {sweep.id}: claim must be the id of a claim, got {sweep.claim}")
    columns = (sweep.n, sweep.excess, sweep.fair)
    lengths = {len(sweep.at), len(sweep.claimed), *(len(column) for column in columns if column)}
    widths = {len(row) if isinstance(row, tuple) else 0 for row in sweep.claimed} | {len(sweep.columns)}
    if len(lengths) != 1 or len(widths) != 1:
        raise EdgeError(f"{path}: sweep {sweep.id} must have columns of equal lengths")


def _unknown(kind: str, name: str, known: list[str]) -> EdgeError:
    """Return the error of an unknown id, with those it may have been meant for."""
    near = get_close_matches(name, known, 3)
    if near:
        return EdgeError(f"unknown {kind} {name!r}; did you mean {' or '.join(near)}?")
    return EdgeError(f"unknown {kind} {name!r}; choose from {', '.join([*known[:6], '…'])}")


def _cents(edge: float) -> str:
    """Return an edge with its sign and unit."""
    return f"{edge:+.2f} c"
