"""Does it look ahead?  Audits that a strategy passes only if its fires follow from what was known.

On a fair market no rule that stops on what is known earns anything (optional stopping: Doob 1953); so an edge that
shows on one, or that changes when the future does, is a leak.

====================== ============================================================================================
audit                  it fails if
====================== ============================================================================================
`settlement_facts`     the strategy's text names a settlement fact, it holds what has no time (`kalshilab.edge.lookahead.captured_data`),
                       or it fires at prices that were not printed
`prefix_invariance`    the fires of a tape that ends at T are not those that the whole tape has up to T
`future_scramble`      they change when everything after T is replaced by noise
`null_replay`          it earns something on its own tape with fair prices (`kalshilab.edge.lookahead.fair_tape`)
`outcome_resampling`   entries with outcomes drawn from their own prices do not centre on minus their costs
====================== ============================================================================================

The fourth is the most valuable: it also sees leaks in how entries are made and scored.  `placebos` asks something
else: whether a condition of the rule matters at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, Final

import msgspec
import numpy as np
import polars as pl

from kalshilab.deprecation import renamed_keywords
from kalshilab.edge.lookahead.ablations import placebos, variants
from kalshilab.edge.lookahead.captured_data import brought, dated
from kalshilab.edge.lookahead.captured_tables import KNOWN
from kalshilab.edge.lookahead.fair_tape import Stage
from kalshilab.edge.lookahead.settlement_facts import asked_for, named_facts, point_in_time
from kalshilab.edge.lookahead.strategy import FIRES, Strategy, strategy_of
from kalshilab.edge.lookahead.whole_life import last_print_edge, whole_life_edge
from kalshilab.edge.schema import arrays_of, settled
from kalshilab.edge.stats.martingale import intraclass, null_means
from kalshilab.errors import EdgeError, KalshilabError, TapeError
from kalshilab.tape.lake.opening import tape_of
from kalshilab.tape.tape import FrameTape, Tape, TapeLike
from kalshilab.units import PRICE

__all__ = [
    "Audit",
    "every",
    "fires_of",
    "future_scramble",
    "last_print_edge",
    "null_replay",
    "outcome_resampling",
    "placebos",
    "prefix_invariance",
    "settlement_facts",
    "variants",
    "whole_life_edge",
]

EXCERPT: Final = 1_000_000
"""Prints of stored data on which the audits run."""
ERRORS: Final = 3.0
"""Standard errors beyond which an edge on a fair market is a leak."""
AGAIN: Final = 2.0
"""Standard errors beyond which other fair worlds have to agree."""
_COMPARED: Final = ("row", "ticker", "side", "price")


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """What an audit found."""

    name: str
    passed: bool
    detail: str
    """One sentence."""
    first_row: dict[str, Any] | None = None
    """The first offending fire, where there is one."""
    frame: pl.DataFrame | None = None
    """The numbers behind it."""

    def __repr__(self) -> str:
        return f"<Audit {self.name}: {'passed' if self.passed else 'FAILED'}, {self.detail}>"


def every(
    strategy: Any, tape: TapeLike, markets: pl.DataFrame, *, seed: int = 0, seeds: int = 20, cuts: int = 50
) -> tuple[Audit, ...]:
    """The first four audits of the table above, in its order; each is tried whatever the others found."""
    one, own = strategy_of(strategy), _in_memory(tape)
    return (
        settlement_facts(one, own, markets),
        prefix_invariance(one, own, markets=markets, cuts=cuts, seed=seed),
        future_scramble(one, own, markets=markets, cuts=max(1, 2 * cuts // 5), seed=seed),
        null_replay(one, own, markets, seeds=seeds, seed=seed),
    )


def settlement_facts(
    strategy: Any, tape: TapeLike | None = None, markets: pl.DataFrame | None = None
) -> Audit:
    """Does its text name settlement facts, does it bring what has no time, and does it fire at prices that were printed?

    A signal is a step over prints and knows no markets; functions are searched, those they call included.  With a
    tape, what they hold is looked at (`kalshilab.edge.lookahead.captured_data`), and each fire must carry time, ticker and price of its
    row.

    >>> import kalshilab as kl
    >>> told = settlement_facts(lambda tape, markets: markets.filter(pl.col("result") == "no"), *kl.sample())
    >>> told.passed, told.detail[:25]
    (False, '<lambda> names result, wh')
    """
    one = strategy_of(strategy)
    name = "settlement facts"
    facts = () if one.signal is not None else named_facts(one.function)
    own = None if tape is None else _in_memory(tape)
    fires, refused = (None, "") if own is None else fires_of(one, own, markets)
    if facts:
        what = f"{one.name} names {', '.join(facts)}, which nobody knows while a market trades"
        return _refusal(name, what, fires)
    if own is not None:
        if fires is None:
            return Audit(name=name, passed=False, detail=refused)
        more = None if one.held_by is None else brought(one.held_by, own.frame, markets)
        if more is not None:
            named = fires.filter(pl.col("ticker").is_in(list(more.tickers)))
            return _refusal(name, f"{one.name} {more.what}", named if named.height else fires)
        past = fires.filter(pl.col("row") >= own.rows)
        if past.is_empty():
            at = own.frame.select("ts", pl.col("ticker").cast(pl.String), "price")[fires["row"]]
            differs = pl.any_horizontal(*(fires[c] != at[c] for c in ("ts", "ticker", "price")))
            past = fires.filter(pl.select(differs).to_series()) if fires.height else fires
        if past.height:
            row = past.row(0, named=True)
            what = (
                f"a fire of {one.name} at row {row['row']} does not carry that print's time, ticker and price"
            )
            return Audit(name=name, passed=False, detail=what, first_row=row)
    return Audit(name=name, passed=True, detail="none is named")


def _refusal(name: str, what: str, fires: pl.DataFrame | None) -> Audit:
    """An audit that failed by what a strategy is made of, with the first fire that may come of it."""
    row = None if fires is None or fires.is_empty() else fires.row(0, named=True)
    first = "" if row is None else f"; its first fire is at row {row['row']} ({row['ticker']})"
    return Audit(name=name, passed=False, detail=what + first, first_row=row)


def prefix_invariance(
    strategy: Any, tape: TapeLike, *, markets: pl.DataFrame | None = None, cuts: int = 50, seed: int = 0
) -> Audit:
    """Are the fires of a tape that ends at T those that the whole tape has up to T?

    Args:
        strategy: a signal, or a function `tape -> fires` or `(tape, markets) -> fires`.
        tape: a frame.
        markets: for functions that take them; they are given without settlement facts.
        cuts: instants T, drawn at random among the prints'; prints of one instant stay together.
        seed: of the instants.

    Tables that the strategy holds end at T too (`kalshilab.edge.lookahead.captured_data`): by their latest time, or by `known_ts`.

    Raises:
        TapeError: not a tape, or one that goes back in time.
        EdgeError: the strategy raised something.

    >>> import kalshilab as kl
    >>> prefix_invariance(kl.signals.Rlm(), kl.sample()[0], cuts=5).passed
    True
    """
    return _against(
        "prefix invariance", strategy, tape, markets, cuts, seed, lambda own, end, _: own.head(end), "removed"
    )


def future_scramble(
    strategy: Any, tape: TapeLike, *, markets: pl.DataFrame | None = None, cuts: int = 20, seed: int = 0
) -> Audit:
    """Do fires up to T stay as they are when all prints after T are replaced by noise?

    Times and tickers' order of appearance stay; after T tickers, takers and sizes are shuffled and prices drawn anew.
    Arguments as of `prefix_invariance`.

    >>> import kalshilab as kl
    >>> future_scramble(kl.signals.Rlm(), kl.sample()[0], cuts=5)
    <Audit future scramble: passed, the same fires at 5 cuts>
    """
    return _against("future scramble", strategy, tape, markets, cuts, seed, _scrambled, "replaced by noise")


def null_replay(
    strategy: Any,
    tape: TapeLike,
    markets: pl.DataFrame,
    *,
    seeds: int = 20,
    seed: int = 0,
    entry: Callable[[pl.DataFrame, pl.DataFrame, pl.DataFrame], pl.DataFrame] | None = None,
) -> Audit:
    """Does it earn anything on its own tape with fair prices and outcomes?

    Args:
        strategy, tape: as of `prefix_invariance`.
        markets: `kl.to_markets`.
        seeds: fair worlds; their results are pooled.
        seed: of the first of them.
        entry: `(fires, tape, markets) -> entries`: one's own way to enter, costs included; then only an edge above 0
            is a leak.  None: fires are entered at the mid, which is known here, and cost nothing; then an edge of
            either sign is.

    Returns:
        Not passed where the mean over fires (the first of each market) is more than three standard errors off (over
        events, of all worlds together, and never less than their prices have), and as many other worlds agree by two.

    >>> import kalshilab as kl
    >>> null_replay(kl.signals.Rlm(min_trades=10), *kl.sample(), seeds=3).passed
    True
    """
    one = strategy_of(strategy)
    stage = Stage(_in_memory(tape), markets)
    found, refused = _earned(one, stage, range(seed, seed + seeds), entry)
    if found is None:
        return Audit(name="null replay", passed=False, detail=refused)
    if found.clusters < 2:
        return Audit(
            name="null replay", passed=True, frame=found.frame,
            detail=f"{found.n} fires in {seeds} fair worlds: too few to show anything",
        )  # fmt: skip
    off = found.edge if entry is not None else abs(found.edge)
    if off > ERRORS * found.se:
        found = msgspec.structs.replace(found, se=max(found.se, found.fair))
    if off <= ERRORS * found.se:
        return Audit(name="null replay", passed=True, detail=found.said, frame=found.frame)
    # One honest rule in four hundred is so far off by chance: worlds never seen have to say the same.
    again, refused = _earned(one, stage, range(seed + seeds, seed + 2 * seeds), entry)
    if again is None:
        return Audit(name="null replay", passed=False, detail=refused)
    same = again.edge * np.sign(found.edge) > AGAIN * max(again.se, again.fair)
    frame = pl.concat([found.frame, again.frame])
    return Audit(name="null replay", passed=not same, detail=f"{found.said}; again {again.said}", frame=frame)


class _Earned(msgspec.Struct, frozen=True):
    """What was earned in some fair worlds, in dollars a fire."""

    edge: float
    se: float
    fair: float
    """The standard error of bets at these prices on a fair market: a few favourites that all won show a smaller one."""
    n: int
    clusters: int
    frame: pl.DataFrame

    @property
    def said(self) -> str:
        worlds = self.frame.height
        return f"{100 * self.edge:+.2f} c (s.e. {100 * self.se:.2f}) over {self.n:,} fires in {worlds} fair worlds"


def _earned(one: Strategy, stage: Stage, seeds: range, entry: Any) -> tuple[_Earned | None, str]:
    sums: list[np.ndarray[Any, Any]] = []
    worlds = []
    fired, variance = 0, 0.0
    for number in seeds:
        made = stage.world(number)
        fires, refused = fires_of(one, FrameTape(made.tape), made.markets)
        if fires is None:
            return None, refused
        if entry is None:
            known = _at_mid(fires, made.mid, made.markets)
        else:
            known = settled(entry(fires, made.tape, made.markets))
        # Sums, not means: how many legs of an event fire is known only when it is over, and a mean over a number
        # that depends on the path is not fair even where each leg is.
        events = known.group_by("event").agg(pl.col("pnl").sum()).sort("event")["pnl"].to_numpy()
        fired += known.height
        bought = known.filter("filled") if "filled" in known.columns else known
        variance += float((bought["mid"] * (1 - bought["mid"])).sum())
        sums.append(events)
        here = 100 * float(events.sum()) / known.height if known.height else None
        worlds.append((number, known.height, len(events), here))
    schema = {"seed": pl.Int64, "n": pl.Int64, "n_events": pl.Int64, "edge": pl.Float64}
    frame = pl.DataFrame(worlds, schema=schema, orient="row")
    pooled = np.concatenate(sums)
    if not fired:
        return _Earned(0.0, 0.0, 0.0, 0, 0, frame), ""
    se, fair = float(np.sqrt((pooled**2).sum())) / fired, float(np.sqrt(variance)) / fired
    return _Earned(float(pooled.sum()) / fired, se, fair, fired, len(pooled), frame), ""


@renamed_keywords(b="resamples")
def outcome_resampling(entries: pl.DataFrame, *, resamples: int = 999, seed: int = 0) -> Audit:
    """Do the entries centre on minus their costs when their outcomes are drawn from their own mids?

    It tests the entries: a mid that is off its price by more than the costs say shows here.

    >>> from kalshilab.edge import simulated_entries
    >>> outcome_resampling(simulated_entries.entries(300, spread=2.0, seed=1)[0], resamples=199).passed
    True
    """
    known = settled(entries)
    if not known["filled"].any():
        return Audit(name="outcome resampling", passed=True, detail="nothing was bought")
    means = null_means(known, b=resamples, rho=intraclass(arrays_of(known)), seed=seed, null="mid")
    costs = known.with_columns(c=pl.when("filled").then(pl.col("cost") - pl.col("mid")).otherwise(0.0))
    expected = -float(costs.group_by("event").agg(pl.col("c").mean())["c"].mean())  # type: ignore[arg-type]
    centre, se = float(means.mean()), float(means.std(ddof=1) / np.sqrt(resamples))
    detail = f"centre {100 * centre:+.2f} c, costs {-100 * expected:.2f} c"
    return Audit(
        name="outcome resampling", passed=bool(abs(centre - expected) <= 4 * se + 1e-12), detail=detail
    )


def _in_memory(tape: TapeLike) -> FrameTape:
    """Return a tape in memory; a frame keeps columns that only the strategy knows."""
    if isinstance(tape, pl.DataFrame):
        return FrameTape.whole(tape)
    return tape_of(tape).excerpt(EXCERPT)


def fires_of(
    one: Strategy, tape: Tape, markets: pl.DataFrame | None, until: datetime | None = None
) -> tuple[pl.DataFrame | None, str]:
    """Its fires, or why there are none: a strategy that asks for what it must not have fails by asking.

    It runs as if it had never run before; its own tables end at `until` (None: they are whole).

    Raises:
        EdgeError: it raised something else.
    """
    try:
        return one.anew(until).fires(tape, point_in_time(markets)), ""
    except KalshilabError:
        raise
    except Exception as error:
        if said := asked_for(error, markets):
            return None, f"{one.name} asks for a column it must not have: {said}"
        cut = "" if until is None else _cut_tables(one)
        raise EdgeError(f"{one.name} raised {type(error).__name__}: {error}{cut}") from error


def _cut_tables(one: Strategy) -> str:
    """What to know of a strategy's own tables, where it does otherwise without what is later than a cut."""
    names = () if one.signal is not None or one.held_by is None else dated(one.held_by)
    if not names:
        return ""
    return f"; rows of {', '.join(names)} are there from their latest time on; give what was known sooner a column {KNOWN}"


def _against(
    name: str,
    strategy: Any,
    tape: TapeLike,
    markets: pl.DataFrame | None,
    cuts: int,
    seed: int,
    change: Callable[[FrameTape, int, np.random.Generator], FrameTape],
    done: str,
) -> Audit:
    one, own = strategy_of(strategy), _in_memory(tape)
    ts = own.frame["ts"]
    if not ts.is_sorted():
        # Sorted by market, say, its first half is no earlier half.
        raise TapeError("goes back in time; sort by ts or use kalshilab.to_tape", column="ts")
    whole, refused = fires_of(one, own, markets)
    if whole is None:
        return Audit(name=name, passed=False, detail=refused)
    rng = np.random.default_rng(seed)
    for end in _ends(ts, cuts, rng):
        before = whole.filter(pl.col("row") < end).select(*FIRES)
        found, refused = fires_of(one, change(own, end, rng), markets, ts[end - 1])
        if found is None:
            return Audit(name=name, passed=False, detail=refused)
        after = found.filter(pl.col("row") < end).select(*FIRES)
        if not before.equals(after):
            row = _first_difference(before, after)
            when = ts[end - 1]
            detail = f"with all after {when:%Y-%m-%d %H:%M:%S} {done}, the fire at row {row['row']} ({row['ticker']}) differs"
            detail += _cut_tables(one)
            return Audit(name=name, passed=False, detail=detail, first_row=row)
    return Audit(name=name, passed=True, detail=f"the same fires at {cuts} cuts")


def _ends(times: pl.Series, cuts: int, rng: np.random.Generator) -> Iterator[int]:
    """Yield numbers of rows up to and including an instant, at random instants."""
    if times.is_empty():
        return
    ts = times.dt.epoch("us").to_numpy()
    for row in rng.integers(0, len(ts), cuts).tolist():
        yield int(np.searchsorted(ts, ts[row], side="right"))


def _scrambled(own: FrameTape, end: int, rng: np.random.Generator) -> FrameTape:
    after = own.frame.slice(end)
    n = after.height
    other = rng.permutation(n)
    noise = after.with_columns(
        after.select("ticker", "market")[other] if n else after.select("ticker", "market"),
        price=pl.Series(rng.integers(1, 100, n) * (PRICE // 100), dtype=after.schema["price"]),
        taker=after["taker"].gather(rng.permutation(n)),
        size=after["size"].gather(rng.permutation(n)),
    )
    return own.with_future(end, noise)


def _first_difference(before: pl.DataFrame, after: pl.DataFrame) -> dict[str, Any]:
    keys = list(_COMPARED)
    odd = pl.concat([before.join(after, on=keys, how="anti"), after.join(before, on=keys, how="anti")]).sort(
        "row"
    )
    # Nothing but the order or the time differs.
    return (odd if odd.height else pl.concat([before, after])).row(0, named=True)


def _at_mid(fires: pl.DataFrame, mid: Any, markets: pl.DataFrame) -> pl.DataFrame:
    """The first fire of each market entered at the mid: `event, mid, pnl` (dollars)."""
    first = fires.unique("ticker", keep="first", maintain_order=True)
    facts = markets.select("ticker", "event", "settlement").filter(pl.col("settlement").is_not_null())
    found = first.select("ticker", "side", mid=pl.Series(mid).gather(first["row"])).join(
        facts, on="ticker", how="inner", maintain_order="left"
    )
    profit = pl.col("settlement").cast(pl.Float64) / PRICE - pl.col("mid")
    ours = pl.when(pl.col("side").cast(pl.String) == "yes").then(profit).otherwise(-profit)
    return found.select("event", "mid", ours.alias("pnl"))
