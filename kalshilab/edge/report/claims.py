"""What a published system claims for its edges, and what is left of each: never one figure without the other.

The figures stand in `research/claims.toml`, each with the report it was published in, the price at which it buys,
the audited value where somebody has measured one, and the reason why the claim does not stand.  Edges are cents a
contract; the published "%" is the win rate less the break-even rate, and a percentage point of a contract that
pays a dollar is a cent.

For most claims there is no audited value: the signal was only ever looked at over whole lives of markets.  Then
the sentence says so and, where it is known, what the same method shows on fair markets, where there is no edge
for anyone (see `kalshilab.edge.lookahead.audit`).  Such a claim is not refuted; it is untested.

>>> print(load().sentence("yes_80_90"))
YES_80_90 (S001, H001): claimed +5.10 c; audited -6.20 c when the system measured it again, before fee and spread: \
invalidated by its own authors on 29 December 2025; their assessment of 1 January 2026 calls it ready for \
production all the same
"""

from __future__ import annotations

import tomllib
from collections import Counter
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, Final

import msgspec
import polars as pl

from kalshilab.errors import EdgeError

__all__ = ["WATERFALL_SCHEMA", "Claim", "Claims", "Step", "Sweep", "claims_file", "load"]

_WATERFALL: Final[dict[str, Any]] = {
    "step": pl.String,
    "edge": pl.Float64,
    "lower": pl.Float64,
    "upper": pl.Float64,
    "n": pl.Int64,
    "note": pl.String,
}
WATERFALL_SCHEMA: Final = pl.Schema(_WATERFALL)
"""A waterfall: `edge` and its interval in cents; nulls where nothing was published."""


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One step from a claim to what is left of it."""

    step: str
    edge: float
    """Cents."""
    lower: float | None = None
    upper: float | None = None
    n: int | None = None
    """Markets behind it."""
    note: str = ""


class Claim(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A published edge and what is known about it."""

    id: str
    name: str
    rule: str
    """The bet in one line."""
    claimed: float
    """The published edge, cents."""
    measure: str = "edge"
    """What `claimed` is, where it is not an edge over the price paid."""
    n: int | None = None
    """Markets behind it."""
    win_rate: float | None = None
    """Percent."""
    price: float | None = None
    """Mean price paid, cents."""
    excess: float | None = None
    """Published edge over markets of like price, cents."""
    buckets: tuple[int, int] | None = None
    """Price buckets in which the excess is positive, and all."""
    entry: str
    """The price at which the published figure buys."""
    source: str
    """The published report it stands in."""
    audited: float | None = None
    """What is left, cents; None where nobody has measured it."""
    basis: str = ""
    """What `audited` is: with which costs."""
    audited_n: int | None = None
    audited_excess: float | None = None
    """Against markets of like price, cents."""
    fair: float | None = None
    """What the same method shows on fair markets, cents."""
    fair_excess: float | None = None
    like: str | None = None
    """The claim whose audit speaks for this one too."""
    reason: str
    """Why it does not stand, or what is missing."""
    step: tuple[Step, ...] = ()


class Sweep(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A claim at several values of something: how the published edge varies."""

    id: str
    claim: str
    """Id of the claim whose rule is varied."""
    over: str
    """What is varied."""
    at: tuple[float | str, ...]
    claimed: tuple[float | tuple[float, ...], ...]
    """Cents at each value; with `columns`, a row of them."""
    columns: tuple[float, ...] = ()
    n: tuple[int, ...] = ()
    excess: tuple[float, ...] = ()
    fair: tuple[float, ...] = ()
    reason: str

    def frame(self) -> pl.DataFrame:
        """`at, column, claimed, n, excess, fair`, a row a cell; nulls where nothing was published."""
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
    """All claims, in the order of the file."""

    claim: tuple[Claim, ...]
    sweep: tuple[Sweep, ...] = ()

    def get(self, name: str) -> Claim:
        """The claim with an id, as `rlm_no`.

        Raises:
            EdgeError: there is none.
        """
        for found in self.claim:
            if found.id == name:
                return found
        raise _unknown("claim", name, [c.id for c in self.claim])

    def sweep_of(self, name: str) -> Sweep:
        """The sweep with an id, as `rlm_threshold`.

        Raises:
            EdgeError: there is none.
        """
        for found in self.sweep:
            if found.id == name:
                return found
        raise _unknown("sweep", name, [s.id for s in self.sweep])

    def audited(self, name: str) -> tuple[float, str] | None:
        """What is left of a claim in cents, and on which basis; that of the claim it is like, if it has none itself.

        >>> load().audited("rlm_no_optimum")
        (0.43, 'after the fee, before the spread')
        """
        found = self.get(name)
        while found.audited is None and found.like is not None:
            found = self.get(found.like)
        return None if found.audited is None else (found.audited, found.basis)

    def sentence(self, name: str) -> str:
        """The claim and what is left of it, in one sentence: always both.

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
                text += f", {_cents(found.audited_excess)} against markets of like price"
        else:
            text += "audited: no value exists, nobody has measured it after costs as of the moment it fires"
            fair = found.fair if found.like is None or found.fair is not None else self._root(found).fair
            if fair is not None:
                text += f"; its method shows {_cents(fair)} on fair markets, where there is no edge"
        return f"{text}: {found.reason}"

    def waterfall(self, name: str) -> pl.DataFrame:
        """From a claim to what is left of it, step by step (`WATERFALL_SCHEMA`).

        Claims without published steps have two: what was claimed, and what was audited (null where it was not).

        >>> load().waterfall("rlm_no")["edge"].to_list()
        [17.38, 3.02, 1.97, 0.43, -1.15]
        """
        found = self.get(name)
        rows: list[tuple[Any, ...]]
        if found.step:
            rows = [(s.step, s.edge, s.lower, s.upper, s.n, s.note) for s in found.step]
        else:
            value, basis = self.audited(name) or (None, "not measured after costs as of the moment it fires")
            own = found.audited is not None
            rows = [
                ("claimed", found.claimed, None, None, found.n, f"{found.entry} ({found.source})"),
                (
                    "audited",
                    value,
                    None,
                    None,
                    found.audited_n if own else None,
                    f"{basis}: {found.reason}",
                ),
            ]
        return pl.DataFrame(rows, WATERFALL_SCHEMA, orient="row")

    def frame(self) -> pl.DataFrame:
        """A row a claim: `id, name, claimed, measure, n, excess, audited, basis, fair, reason`."""
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
        while found.like is not None:
            found = self.get(found.like)
        return found


def claims_file() -> Path:
    """The file of claims: of the checkout this package stands in, else the copy shipped with it.

    Raises:
        EdgeError: neither is there.
    """
    package = Path(__file__).resolve().parents[2]
    for path in (package.parent / "research" / "claims.toml", package / "edge" / "claims.toml"):
        if path.is_file():
            return path
    raise EdgeError("claims.toml is missing from this installation; install kalshilab again")


def load(path: str | Path | None = None) -> Claims:
    """The claims of a file; None: those shipped with the library (read once).

    Raises:
        EdgeError: no such file, no TOML, a field that is missing, unknown or of another type, an id twice, a sweep
            whose columns differ in length, or a reference to a claim that is not there.
    """
    return _read(claims_file()) if path is None else _parse(Path(path))


@cache
def _read(path: Path) -> Claims:
    return _parse(path)


def _parse(path: Path) -> Claims:
    try:
        claims = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), Claims)
    except FileNotFoundError:
        raise EdgeError(f"{path}: no such file of claims") from None
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise EdgeError(f"{path}: not a file of claims ({error})") from None
    for kind, names in (("claim", [c.id for c in claims.claim]), ("sweep", [s.id for s in claims.sweep])):
        twice = [name for name, times in Counter(names).items() if times > 1]
        if twice:
            raise EdgeError(f"{path}: {kind} {twice[0]} is there twice")
    known = {c.id: c for c in claims.claim}
    for c in claims.claim:
        if c.audited is not None and not c.basis:
            raise EdgeError(f"{path}: claim {c.id} has an audited value without its basis")
        seen, at = {c.id}, c.like
        while at is not None:
            if at not in known or at in seen:
                raise EdgeError(f"{path}: claim {c.id} is like {at}, which leads to no other claim")
            seen.add(at)
            at = known[at].like
    for s in claims.sweep:
        if s.claim not in known:
            raise EdgeError(f"{path}: sweep {s.id} varies {s.claim}, which is no claim")
        long = {len(s.at), len(s.claimed), *(len(c) for c in (s.n, s.excess, s.fair) if c)}
        wide = {len(row) if isinstance(row, tuple) else 0 for row in s.claimed} | {len(s.columns)}
        if len(long) != 1 or len(wide) != 1:
            raise EdgeError(f"{path}: sweep {s.id} has columns of different lengths")
    return claims


def _unknown(kind: str, name: str, known: list[str]) -> EdgeError:
    near = get_close_matches(name, known, 3) or [*known[:6], "…"]
    return EdgeError(f"no {kind} {name!r}: {', '.join(near)}")


def _cents(edge: float) -> str:
    return f"{edge:+.2f} c"
