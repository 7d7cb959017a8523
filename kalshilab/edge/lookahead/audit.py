"""Detect look-ahead: audits that a strategy passes only if its fires follow from what was known at the time.

On a fair market no rule that stops on known information has an expected profit (optional stopping: Doob 1953). An edge
that appears on a fair market, or that changes when the future does, is therefore a leak.

====================== ============================================================================================
audit                  it fails if
====================== ============================================================================================
`settlement_facts`     the strategy's code names a settlement fact, it captures data without times
                       (`kalshilab.edge.lookahead.captured_data`), or it fires at prices that were not printed
`prefix_invariance`    the fires of a tape that ends at T differ from those of the whole tape up to T
`future_scramble`      the fires up to T change when all prints after T are replaced by noise
`null_replay`          the strategy has an edge on the same tape with fair prices (`kalshilab.edge.lookahead.fair_tape`)
`outcome_resampling`   with outcomes drawn from the entries' own prices, the mean profit differs from minus the costs
====================== ============================================================================================

The null replay is the most valuable: it also detects leaks in how entries are made and scored. `placebos` answers another
question: whether a condition of the rule matters at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import msgspec
import numpy as np
import polars as pl

from kalshilab.deprecation import renamed_keywords
from kalshilab.edge.lookahead.ablations import placebos, variants
from kalshilab.edge.lookahead.audited_fires import fires_of, truncation_note
from kalshilab.edge.lookahead.captured_data import forbidden_capture
from kalshilab.edge.lookahead.fair_tape import EntryRule, FairWorlds, fair_profit
from kalshilab.edge.lookahead.settlement_facts import facts_in_code
from kalshilab.edge.lookahead.strategy import FIRES, strategy_of
from kalshilab.edge.lookahead.whole_life import last_print_edge, whole_life_edge
from kalshilab.edge.schema import arrays_of, settled
from kalshilab.edge.stats.martingale import intraclass, null_means
from kalshilab.errors import TapeError
from kalshilab.tape.lake.opening import tape_of
from kalshilab.tape.tape import FrameTape, TapeLike
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
"""Number of prints of stored data on which the audits run."""
ERRORS: Final = 3.0
"""Standard errors beyond which an edge on a fair market is a leak."""
AGAIN: Final = 2.0
"""Standard errors beyond which the repetition in other fair worlds confirms a leak."""
_COMPARED: Final = ("row", "ticker", "side", "price")

Change = Callable[[FrameTape, int, np.random.Generator], FrameTape]
"""`(tape, end, rng) -> tape`: a tape whose prints from row `end` on are changed."""


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """The result of an audit."""

    name: str
    """Name of the audit, for display."""
    passed: bool
    """False if the audit found a leak."""
    detail: str
    """The finding in one sentence."""
    first_row: dict[str, object] | None = None
    """The first offending fire, by column; None where no single fire offends."""
    frame: pl.DataFrame | None = None
    """The numbers behind the finding; of a null replay one row per fair world: `seed, n, n_events, edge` (cents)."""

    def __repr__(self) -> str:
        return f"<Audit {self.name}: {'passed' if self.passed else 'FAILED'}, {self.detail}>"


def every(
    strategy: object, tape: TapeLike, markets: pl.DataFrame, *, seed: int = 0, seeds: int = 20, cuts: int = 50
) -> tuple[Audit, ...]:
    """Run the first four audits of the table above, in its order; a failed audit does not stop the others.

    Args:
        strategy: as for `prefix_invariance`.
        tape: as for `prefix_invariance`.
        markets: `kl.to_markets`.
        seed: seed of the cuts, the noise and the fair worlds.
        seeds: number of fair worlds of the null replay.
        cuts: number of cuts of the prefix invariance; the future scramble makes two fifths of them.
    """
    audited, opened = strategy_of(strategy), _in_memory(tape)
    return (
        settlement_facts(audited, opened, markets),
        prefix_invariance(audited, opened, markets=markets, cuts=cuts, seed=seed),
        future_scramble(audited, opened, markets=markets, cuts=max(1, 2 * cuts // 5), seed=seed),
        null_replay(audited, opened, markets, seeds=seeds, seed=seed),
    )


def settlement_facts(
    strategy: object, tape: TapeLike | None = None, markets: pl.DataFrame | None = None
) -> Audit:
    """Check that a strategy uses no settlement facts and no undated data, and fires at printed prices.

    A signal processes prints and never sees the markets; a function's code is searched, with the functions it calls. With
    a tape, captured data is checked too (`kalshilab.edge.lookahead.captured_data`), and each fire must have the time,
    ticker and price of its row.

    Args:
        strategy: as for `prefix_invariance`.
        tape: as for `prefix_invariance`; None: only the code is searched.
        markets: `kl.to_markets`.

    >>> import kalshilab as kl
    >>> found = settlement_facts(lambda tape, markets: markets.filter(pl.col("result") == "no"), *kl.sample())
    >>> found.passed, found.detail[:52]
    (False, '<lambda> uses the settlement facts result, which are')
    """
    audited = strategy_of(strategy)
    name = "settlement facts"
    facts = () if audited.function is None else facts_in_code(audited.function)
    opened = None if tape is None else _in_memory(tape)
    fires, refusal = (None, "") if opened is None else fires_of(audited, opened, markets)
    if facts:
        finding = f"{audited.name} uses the settlement facts {', '.join(facts)}, which are unknown while a market trades"
        return _refused(name, finding, fires)
    if opened is not None:
        if fires is None:
            return Audit(name=name, passed=False, detail=refusal)
        capture = None
        if audited.capture_root is not None:
            capture = forbidden_capture(audited.capture_root, opened.frame, markets)
        if capture is not None:
            named = fires.filter(pl.col("ticker").is_in(list(capture.tickers)))
            return _refused(name, f"{audited.name} {capture.reason}", named if named.height else fires)
        odd = _not_printed(fires, opened)
        if odd.height:
            row = odd.row(0, named=True)
            finding = f"the fire of {audited.name} at row {row['row']} does not have that print's time, ticker and price"
            return Audit(name=name, passed=False, detail=finding, first_row=row)
    return Audit(name=name, passed=True, detail="no settlement fact is used")


def _not_printed(fires: pl.DataFrame, tape: FrameTape) -> pl.DataFrame:
    """Return the fires past the end of the tape, or else those that differ from the print of their row."""
    past = fires.filter(pl.col("row") >= tape.rows)
    if past.height or fires.is_empty():
        return past
    at = tape.frame.select("ts", pl.col("ticker").cast(pl.String), "price")[fires["row"]]
    differs = pl.any_horizontal(*(fires[c] != at[c] for c in ("ts", "ticker", "price")))
    return fires.filter(pl.select(differs).to_series())


def _refused(name: str, finding: str, fires: pl.DataFrame | None) -> Audit:
    """Return an audit failed by a strategy's code or data, with the first fire that may follow from it."""
    row = None if fires is None or fires.is_empty() else fires.row(0, named=True)
    first = "" if row is None else f"; its first fire is at row {row['row']} ({row['ticker']})"
    return Audit(name=name, passed=False, detail=finding + first, first_row=row)


def prefix_invariance(
    strategy: object, tape: TapeLike, *, markets: pl.DataFrame | None = None, cuts: int = 50, seed: int = 0
) -> Audit:
    """Check that a tape that ends at T gives the same fires as the whole tape up to T.

    Captured tables end at T too (`kalshilab.edge.lookahead.captured_data`): by their latest time, or by `known_ts`.

    Args:
        strategy: a signal, or a function `tape -> fires` or `(tape, markets) -> fires`.
        tape: a frame of prints sorted by time; of stored data the first 1,000,000 prints are used.
        markets: for functions that take them; they are passed without settlement facts.
        cuts: number of instants T, drawn at random from the times of prints; prints of one instant stay together.
        seed: seed of the instants.

    Raises:
        TapeError: the tape is invalid, or its times go back.
        EdgeError: the strategy raised an exception.

    >>> import kalshilab as kl
    >>> prefix_invariance(kl.signals.Rlm(), kl.sample()[0], cuts=5).passed
    True
    """
    return _compared(
        "prefix invariance",
        strategy,
        tape,
        markets,
        cuts,
        seed,
        lambda opened, end, _: opened.head(end),
        "removed",
    )


def future_scramble(
    strategy: object, tape: TapeLike, *, markets: pl.DataFrame | None = None, cuts: int = 20, seed: int = 0
) -> Audit:
    """Check that fires up to T do not change when all prints after T are replaced by noise.

    Times do not change. After T the tickers, takers and sizes are shuffled, and prices are drawn uniformly from 1 to 99
    cents.

    Args:
        strategy: as for `prefix_invariance`.
        tape: as for `prefix_invariance`.
        markets: as for `prefix_invariance`.
        cuts: number of instants T.
        seed: seed of the instants and the noise.

    >>> import kalshilab as kl
    >>> future_scramble(kl.signals.Rlm(), kl.sample()[0], cuts=5)
    <Audit future scramble: passed, the same fires at 5 cuts>
    """
    return _compared("future scramble", strategy, tape, markets, cuts, seed, _scrambled, "replaced by noise")


def null_replay(
    strategy: object,
    tape: TapeLike,
    markets: pl.DataFrame,
    *,
    seeds: int = 20,
    seed: int = 0,
    entry: EntryRule | None = None,
) -> Audit:
    """Check that a strategy has no edge on the same tape with fair prices and outcomes.

    The audit fails if the mean profit per fire (the first fire of each market) is more than three standard errors from 0,
    and the same number of other fair worlds confirms it beyond two. Standard errors are over the events of all worlds, and
    never below the error of bets at the same prices.

    Args:
        strategy: as for `prefix_invariance`.
        tape: as for `prefix_invariance`.
        markets: `kl.to_markets`.
        seeds: number of fair worlds; their results are pooled.
        seed: seed of the first world.
        entry: `(fires, tape, markets) -> entries`, a custom entry rule with costs; then only a positive edge is a leak.
            None: fires are entered at the mid, which is known here, without costs; then an edge of either sign is a leak.

    >>> import kalshilab as kl
    >>> null_replay(kl.signals.Rlm(min_trades=10), *kl.sample(), seeds=3).passed
    True
    """
    name = "null replay"
    audited = strategy_of(strategy)
    worlds = FairWorlds(_in_memory(tape), markets)
    found, refusal = fair_profit(audited, worlds, range(seed, seed + seeds), entry)
    if found is None:
        return Audit(name=name, passed=False, detail=refusal)
    if found.clusters < 2:
        detail = f"{found.n} fires in {seeds} fair worlds are too few for a test"
        return Audit(name=name, passed=True, detail=detail, frame=found.frame)
    off = found.edge if entry is not None else abs(found.edge)
    if off > ERRORS * found.se:
        found = msgspec.structs.replace(found, se=max(found.se, found.fair))
    if off <= ERRORS * found.se:
        return Audit(name=name, passed=True, detail=found.summary, frame=found.frame)
    # One honest rule in four hundred is this far off by chance, so other worlds must confirm the leak.
    repeated, refusal = fair_profit(audited, worlds, range(seed + seeds, seed + 2 * seeds), entry)
    if repeated is None:
        return Audit(name=name, passed=False, detail=refusal)
    confirmed = repeated.edge * np.sign(found.edge) > AGAIN * max(repeated.se, repeated.fair)
    return Audit(
        name=name,
        passed=not confirmed,
        detail=f"{found.summary}; repeated in other worlds: {repeated.summary}",
        frame=pl.concat([found.frame, repeated.frame]),
    )


@renamed_keywords(b="resamples")
def outcome_resampling(entries: pl.DataFrame, *, resamples: int = 999, seed: int = 0) -> Audit:
    """Check that entries lose exactly their costs when their outcomes are drawn from their own mids.

    This tests the entries: it detects a mid that differs from the price by more than the costs.

    Args:
        entries: `kalshilab.edge.ENTRIES_SCHEMA`; unsettled entries are ignored.
        resamples: number of draws of all outcomes.
        seed: seed of the draws.

    >>> from kalshilab.edge import simulated_entries
    >>> outcome_resampling(simulated_entries.entries(300, spread_cents=2.0, seed=1)[0], resamples=199).passed
    True
    """
    name = "outcome resampling"
    known = settled(entries)
    if not known["filled"].any():
        return Audit(name=name, passed=True, detail="no entry was filled")
    means = null_means(known, resamples=resamples, rho=intraclass(arrays_of(known)), seed=seed, null="mid")
    costs = known.with_columns(c=pl.when("filled").then(pl.col("cost") - pl.col("mid")).otherwise(0.0))
    expected = -float(costs.group_by("event").agg(pl.col("c").mean())["c"].mean())  # type: ignore[arg-type]
    centre, se = float(means.mean()), float(means.std(ddof=1) / np.sqrt(resamples))
    detail = f"the mean profit is {100 * centre:+.2f} c and the costs are {-100 * expected:.2f} c"
    return Audit(name=name, passed=bool(abs(centre - expected) <= 4 * se + 1e-12), detail=detail)


def _in_memory(tape: TapeLike) -> FrameTape:
    """Return a tape in memory; a frame keeps columns that only the strategy knows."""
    if isinstance(tape, pl.DataFrame):
        return FrameTape.whole(tape)
    return tape_of(tape).excerpt(EXCERPT)


def _compared(
    name: str,
    strategy: object,
    tape: TapeLike,
    markets: pl.DataFrame | None,
    cuts: int,
    seed: int,
    change: Change,
    treatment: str,
) -> Audit:
    """Compare fires up to random instants with those of a tape whose later prints are changed."""
    audited, opened = strategy_of(strategy), _in_memory(tape)
    ts = opened.frame["ts"]
    if not ts.is_sorted():
        # The first half of a tape sorted by market is not its earlier half.
        raise TapeError("goes back in time; sort by ts or use kalshilab.to_tape", column="ts")
    whole, refusal = fires_of(audited, opened, markets)
    if whole is None:
        return Audit(name=name, passed=False, detail=refusal)
    rng = np.random.default_rng(seed)
    for end in _ends(ts, cuts, rng):
        before = whole.filter(pl.col("row") < end).select(*FIRES)
        found, refusal = fires_of(audited, change(opened, end, rng), markets, ts[end - 1])
        if found is None:
            return Audit(name=name, passed=False, detail=refusal)
        after = found.filter(pl.col("row") < end).select(*FIRES)
        if not before.equals(after):
            row = _first_difference(before, after)
            detail = (
                f"the fire at row {row['row']} ({row['ticker']}) changes when all prints after "
                f"{ts[end - 1]:%Y-%m-%d %H:%M:%S} are {treatment}{truncation_note(audited)}"
            )
            return Audit(name=name, passed=False, detail=detail, first_row=row)
    return Audit(name=name, passed=True, detail=f"the same fires at {cuts} cuts")


def _ends(times: pl.Series, cuts: int, rng: np.random.Generator) -> Iterator[int]:
    """Yield numbers of rows up to and including an instant, at random instants."""
    if times.is_empty():
        return
    ts = times.dt.epoch("us").to_numpy()
    for row in rng.integers(0, len(ts), cuts).tolist():
        yield int(np.searchsorted(ts, ts[row], side="right"))


def _scrambled(tape: FrameTape, end: int, rng: np.random.Generator) -> FrameTape:
    """Return a tape with the prints from row `end` on replaced by noise at the same times."""
    after = tape.frame.slice(end)
    n = after.height
    other = rng.permutation(n)
    noise = after.with_columns(
        after.select("ticker", "market")[other] if n else after.select("ticker", "market"),
        price=pl.Series(rng.integers(1, 100, n) * (PRICE // 100), dtype=after.schema["price"]),
        taker=after["taker"].gather(rng.permutation(n)),
        size=after["size"].gather(rng.permutation(n)),
    )
    return tape.with_future(end, noise)


def _first_difference(before: pl.DataFrame, after: pl.DataFrame) -> dict[str, object]:
    """Return the first fire that only one of two frames has."""
    keys = list(_COMPARED)
    odd = pl.concat([before.join(after, on=keys, how="anti"), after.join(before, on=keys, how="anti")]).sort(
        "row"
    )
    # If only the order or a time differs, the first fire stands for it.
    return (odd if odd.height else pl.concat([before, after])).row(0, named=True)
