"""Judge a signal on a tape and return its report card.

Each fire is dated by the print that triggered it, and bought once per market by the entry rule, at an attainable price
after fees. The card then examines every known way for an edge to look better than it is: look-ahead, outcomes not yet
known, too small a sample, an edge of the price alone, a few lucky events, a lucky month, one lucky setting, an
unattainable price, and the number of trials.

**Trials.** Every validation is recorded in a registry, and the p-value is multiplied by the number of trials *m* of its
family. Without `registry=` that is the registry of this process
(`kalshilab.edge.prereg.hypothesis.session_registry`), which counts what was tried since the process started. So the same
call with the same seed gives the same card only at the same registry state; the card's header states *m* and where it
comes from. With `registry=` the hypothesis must be registered (`hypothesis_of`); an unregistered one raises an error.
Each cell of `grid=` is a trial. The steps to each side that line 9 examines without `grid=` are not trials: they show
whether the edge depends on a single setting, and adopting one of them takes another validation, which is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import polars as pl

from kalshilab.deprecation import renamed_keywords
from kalshilab.edge.canonical_json import canonical
from kalshilab.edge.entries.censoring import Cohort, censor, marked
from kalshilab.edge.entries.pnl import measure
from kalshilab.edge.entries.rules import Left, half_spread_of, made
from kalshilab.edge.entries.terms import EntryTerms, terms_of
from kalshilab.edge.lookahead import audit
from kalshilab.edge.lookahead.strategy import FIRES, AuditedStrategy, strategy_of
from kalshilab.edge.prereg.hypothesis import judged_terms, registered, specification, trials_of
from kalshilab.edge.prereg.lockbox import Lockbox
from kalshilab.edge.prereg.registry import Registry, Trial
from kalshilab.edge.report import criteria, numbers
from kalshilab.edge.report.card import Card
from kalshilab.edge.report.confirmation import confirmed_by_lockbox, confirmed_by_registration
from kalshilab.edge.report.data_quality import last_known
from kalshilab.edge.report.equity import equity
from kalshilab.edge.report.inputs import Inputs, load, with_horizon
from kalshilab.edge.report.statistical_verdict import Judgement, judge
from kalshilab.edge.robustness import perturbations, price_matching
from kalshilab.edge.robustness.walk_forward import walk_forward
from kalshilab.edge.schema import Criterion
from kalshilab.edge.sizing import capacity
from kalshilab.edge.stats.inference import Inference
from kalshilab.errors import EdgeError
from kalshilab.signals.engine.compiled_signal import CompiledSignal
from kalshilab.tape.tape import TapeLike

__all__ = ["validate"]

Grid = Mapping[str, Sequence[object]]
_MEASURED: Final = ("n", "edge", "lower", "upper", "p", "star")
_MINUTE_S: Final = 60.0
_AUDIT_RESAMPLES: Final = 499
_PARTICIPATION: Final = 0.10


@renamed_keywords(b="resamples")
def validate(
    signal: object,
    tape: TapeLike,
    markets: object = None,
    *,
    terms: EntryTerms | None = None,
    claim: float | None = None,
    seed: int = 0,
    resamples: int = 1999,
    grid: Grid | None = None,
    trials: int | None = None,
    registry: Registry | str | Path | None = None,
    lockbox: bool = False,
    cash_rate: float = 0.04,
    data_end: datetime | None = None,
    audits: bool = True,
    executor: Executor | None = None,
    notebook: str | None = None,
    **changes: object,
) -> Card:
    """Judge a signal: return a report card with a verdict, the lines it follows from, and every number behind them.

    Args:
        signal: a signal (`kalshilab.signals`, `@kalshilab.signal`), or a function `tape -> fires` or
            `(tape, markets) -> fires`, which is called with whole frames and audited for look-ahead.
        tape: a frame of any kind, a lake, a tape file, or the path of one.
        markets: the markets (`kl.to_markets`); None: those stored in the lake.
        terms: the terms of entry; None: `kalshilab.edge.EntryTerms()`.
        claim: claimed edge of the signal in cents per contract; it is displayed, and does not affect the verdict.
        seed: seed of everything random. The same seed and registry state give the same card.
        resamples: minimum number of resamples; more are drawn where the number of trials requires it.
        grid: neighbouring values of parameters, such as `{"min_trades": [15, 25, 40]}`; None: one step to each side of
            each parameter.
        trials: number of hypotheses tried in all, this one included, where it exceeds the registry's count for the
            family; a smaller number has no effect.
        registry: a registry, or its file; None: this process's registry (see the module).
        lockbox: take the confirmation from the last 30 % of event time, and spend one look for it if nothing else has
            failed. The first such call sets the lockbox of the family; from then on no validation of the family sees
            what is inside, except by these looks.
        cash_rate: yearly return of cash, as a fraction.
        data_end: time up to which outcomes are known, inclusive; None: the last print or settlement.
        audits: False omits the audits for look-ahead; the verdict then never exceeds PROVISIONAL.
        executor: executor that scans neighbouring settings and resamples; None: this process. The card is the same.
        notebook: name of the notebook, for the registry.
        changes: fields of `EntryTerms` that differ from `terms`, such as `latency_s=5`.

    >>> import kalshilab as kl
    >>> card = validate(kl.signals.Rlm(), *kl.sample(), claim=17.38)  # of it +0.43 is left, after the fee
    >>> card.verdict
    'INSUFFICIENT'

    Raises:
        EdgeError: `signal` is neither a signal nor a function; the tape has no prints; a market has no event; a term is
            unknown or out of range; the function raised an error.
        RegistryError: the hypothesis is not registered in `registry`.
        TapeError, LakeError: the tape, the markets or the lake is malformed.
    """
    strategy = strategy_of(signal)
    on = judged_terms(terms_of("validate", terms, changes, stacklevel=4))
    if isinstance(claim, bool) or not isinstance(claim, int | float | None):
        raise EdgeError(f"claim must be a number of cents, got {claim!r}")
    inputs = load(tape, markets, keep_stored=strategy.signal is None)
    case = _register(registry, strategy, on, grid, inputs)
    if on.half_spread_cents is None:
        on = on.but(half_spread_cents=half_spread_of(inputs.tape))
    sample = _enter(strategy, inputs, on, case.box, data_end, lockbox=lockbox)
    audited = _audit(strategy, inputs, sample, seed) if audits or sample.refused else ()
    neighbours = _neighbours(strategy, grid, inputs, sample.enter, executor)
    pool = _price_pool(inputs, sample, seed)
    m, counted = _count_trials(case, strategy, neighbours, grid, inputs, trials)
    judged = judge(
        with_horizon(sample.entries, inputs.markets),
        None if pool is None else with_horizon(pool, inputs.markets),
        trials=m,
        walk_forward=_walked(neighbours, inputs.begun),
        resamples=resamples,
        seed=seed,
        executor=executor,
    )
    enough = judged.inference is not None and bool(judged.criteria[0].passed)
    points = _points(strategy, neighbours, grid)
    records = _trials(points, neighbours, judged.inference, enough)
    case.book.evaluated_all(case.prereg, records, inputs.data["hash"], notebook, sketch=inputs.sketch)
    lines = [criteria.look_ahead(audited), _data_line(inputs, sample, judged), *judged.criteria]
    frames = numbers.frames_of(
        strategy, sample.entries, pool, neighbours, inputs.tape, inputs.markets, claim, judged, seed
    )
    if not enough and "heatmap" in frames:
        # The p-values of too small a sample would mislead, also those of neighbouring settings.
        frames["heatmap"] = frames["heatmap"].with_columns(p=pl.lit(None, pl.Float64), star=pl.lit(False))
    measured = numbers.numbers_of(judged, sample.left, sample.cohort, m, sample.entries, inputs.markets, on)
    measured |= numbers.look_ahead_gap(frames["waterfall"])
    if on.rule == "maker":
        frames["markouts"], quoted = numbers.resting_quotes(
            sample.entries, inputs.tape, inputs.markets, on, seed
        )
        measured |= quoted
    boundary = None
    if not enough or judged.inference is None:
        lines += [criteria.unexamined(n, "the sample is too small") for n in range(9, 13)]
    else:
        stressed = _stress(strategy, inputs, on, sample, neighbours, judged, m, cash_rate, seed)
        lines, frames, measured = (
            lines + stressed.lines,
            frames | stressed.frames,
            measured | stressed.numbers,
        )
        line, boundary = _confirm(case, inputs, sample, judged.inference, lines, m, lockbox, seed)
        lines.append(line)
    half = on.half_spread_cents
    assert half is not None
    measured["net_marked"] = measure(marked(sample.entries, inputs.tape, half)).edge
    shown = sample.entries if boundary is None else sample.whole
    frames["equity"] = equity(shown, lockbox=boundary, seed=seed)
    verdict = criteria.verdict_of(lines)
    varied = tuple(c for c in frames["heatmap"].columns if c not in _MEASURED) if "heatmap" in frames else ()
    return Card(
        name=strategy.label,
        verdict=verdict,
        header=numbers.header_of(strategy, claim, verdict, measured, m, counted),
        criteria=tuple(lines),
        claim=claim,
        numbers=measured,
        spec={**case.spec, "hash": case.prereg},
        data=inputs.data,
        seed=seed,
        version=version("kalshilab"),
        frames=frames,
        grid=varied,
        trials_from=counted,
    )


# Stages, in the order in which `validate` runs them


class _Case(msgspec.Struct, frozen=True, eq=False):
    """The hypothesis in its registry."""

    book: Registry
    in_process: bool
    """Whether the registry is that of this process."""
    prereg: str
    """Hash of the specification."""
    family: str
    spec: dict[str, Any]
    box: Lockbox


def _register(
    registry: Registry | str | Path | None,
    strategy: AuditedStrategy,
    on: EntryTerms,
    grid: Grid | None,
    inputs: Inputs,
) -> _Case:
    """Find the hypothesis in its registry and the lockbox of its family."""
    spec = specification(strategy, on, grid)
    book, prereg, family = registered(registry, strategy, spec)
    box = Lockbox(book, family, first_prints=inputs.begun)
    return _Case(book, registry is None, prereg, family, spec, box)


class _Sample(msgspec.Struct, frozen=True, eq=False):
    """Fires and the entries made of them."""

    fires: pl.DataFrame
    refused: str
    """Reason why the strategy was rejected for asking for settlement facts; empty if it was not."""
    left: Left
    cohort: Cohort
    whole: pl.DataFrame
    """Entries of the cohorts whose outcomes are known, those in the lockbox included."""
    entries: pl.DataFrame
    """The entries that are judged."""
    enter: Callable[..., pl.DataFrame]
    """`(fires, **changes) -> entries` on the same terms, cohorts and side of the lockbox."""


def _enter(
    strategy: AuditedStrategy,
    inputs: Inputs,
    on: EntryTerms,
    box: Lockbox,
    data_end: datetime | None,
    *,
    lockbox: bool,
) -> _Sample:
    """Run the strategy and make entries of its fires."""
    found, refused = audit.fires_of(strategy, inputs.tape, inputs.markets)
    fires = pl.DataFrame(schema=FIRES) if found is None else found
    every, left = made(fires, inputs.tape, inputs.markets, on)
    whole, cohort = censor(every, data_end=data_end or last_known(inputs.tape, inputs.markets))
    if lockbox and whole.height:
        box.split(whole)

    def enter(fires: pl.DataFrame, **changes: object) -> pl.DataFrame:
        entries = made(fires, inputs.tape, inputs.markets, on.but(**changes))[0]
        known = entries if cohort.cut is None else entries.filter(pl.col("ts") <= cohort.cut)
        return box.outside(known)

    return _Sample(fires, refused, left, cohort, whole, box.outside(whole), enter)


def _audit(strategy: AuditedStrategy, inputs: Inputs, sample: _Sample, seed: int) -> tuple[audit.Audit, ...]:
    """Run the audits for look-ahead."""
    if sample.refused:
        return (audit.Audit(name="settlement facts", passed=False, detail=sample.refused),)
    audits = audit.every(strategy, inputs.tape, inputs.markets, seed=seed)
    if not sample.entries["filled"].any():
        return audits
    resampled = audit.outcome_resampling(sample.entries, resamples=_AUDIT_RESAMPLES, seed=seed)
    return (*audits, resampled)


def _neighbours(
    strategy: AuditedStrategy,
    grid: Grid | None,
    inputs: Inputs,
    enter: Callable[..., pl.DataFrame],
    executor: Executor | None,
) -> list[perturbations.GridCell]:
    """Return the entries of the signal and of its neighbouring settings, the signal first; empty for a function."""
    if not isinstance(strategy.signal, CompiledSignal):
        if grid is not None:
            raise EdgeError(
                f"grid must be omitted for a function: it varies the parameters of a signal, got {strategy.name}"
            )
        return []
    return perturbations.grid(strategy.signal, inputs.tape, enter, grid, executor)


def _price_pool(inputs: Inputs, sample: _Sample, seed: int) -> pl.DataFrame | None:
    """Return entries without the signal, to compare prices with; None if the signal never fired."""
    if not sample.fires.height:
        return None
    return price_matching.pool(inputs.tape, sample.fires, sample.enter, seed=seed)


def _points(
    strategy: AuditedStrategy, neighbours: Sequence[perturbations.GridCell], grid: Grid | None
) -> list[Mapping[str, object]]:
    """Return the settings that count as trials: the signal's own, and each cell of a grid."""
    return [strategy.parameters, *(c.parameters for c in neighbours[1:] if grid is not None)]


def _count_trials(
    case: _Case,
    strategy: AuditedStrategy,
    neighbours: Sequence[perturbations.GridCell],
    grid: Grid | None,
    inputs: Inputs,
    trials: int | None,
) -> tuple[int, str]:
    """Return the number of trials of the family, this validation's included, and its source."""
    points = _points(strategy, neighbours, grid)
    counted = trials_of(case.book, case.prereg, case.family, points, inputs.data["hash"])
    if trials is not None and trials > counted:
        return trials, "given by trials="
    where = "this process" if case.in_process else "the registry"
    return counted, f"all of family {case.family} in {where}"


def _walked(cells: Sequence[perturbations.GridCell], begun: pl.DataFrame) -> float | None:
    """Return the pooled edge of a walk-forward over the cells, in cents; None if there are too few events."""
    if not cells:
        return None
    by_text = {canonical(c.parameters): c.entries for c in cells}
    try:
        walk = walk_forward(
            lambda **p: by_text[canonical(p)], [c.parameters for c in cells], first_prints=begun
        )
    except EdgeError:
        return None
    return walk.edge if walk.events else None


def _trials(
    points: Sequence[Mapping[str, object]],
    cells: Sequence[perturbations.GridCell],
    found: Inference | None,
    enough: bool,
) -> list[Trial]:
    """Return the trials to record, the signal's own first, with p-values only where the sample is large enough."""
    own = dict(points[0])
    if found is None:
        first = Trial(own, None, None, None)
    else:
        first = Trial(own, found.p if enough else None, found.edge, found.n_eff)
    others = []
    for cell in cells[1 : len(points)]:
        seen = perturbations.interval(cell.entries)
        others.append(Trial(dict(cell.parameters), seen.p if enough else None, seen.estimate, None))
    return [first, *others]


def _data_line(inputs: Inputs, sample: _Sample, judged: Judgement) -> Criterion:
    """Return line 2: fill rate, censoring and data quality."""
    return criteria.data(
        fill_rate=judged.measures.fill_rate,
        censored=sample.cohort.share,
        unmatched=sample.left.unmatched,
        span=inputs.history.span,
        detail=_joined((sample.cohort.detail, inputs.history.detail)),
    )


def _joined(sentences: Iterable[str]) -> str:
    """Return the sentences that are not empty as one text."""
    return "; ".join(filter(None, sentences))


class _Stressed(msgspec.Struct, frozen=True, eq=False):
    """Lines 9 to 11 with the frames and numbers behind them."""

    lines: list[Criterion]
    frames: dict[str, pl.DataFrame]
    numbers: dict[str, Any]


def _stress(
    strategy: AuditedStrategy,
    inputs: Inputs,
    on: EntryTerms,
    sample: _Sample,
    neighbours: Sequence[perturbations.GridCell],
    judged: Judgement,
    m: int,
    cash_rate: float,
    seed: int,
) -> _Stressed:
    """Measure the edge under other settings, prices, latencies and sizes."""
    found = judged.inference
    assert found is not None
    ladder = perturbations.latency(sample.fires, sample.enter)
    placebos = audit.placebos(audit.variants(strategy), inputs.tape, inputs.markets, sample.enter)
    at_tick = perturbations.interval(sample.enter(sample.fires, ticks=1)).estimate
    taken = capacity.tape_capacity(
        sample.entries, inputs.tape, window_s=on.window_s, latency_s=on.latency_s
    ).dollars_a_day(_PARTICIPATION)
    minute = float(ladder.filter(pl.col("latency_s") == _MINUTE_S)["edge"][0])
    lines = [
        criteria.robustness(*numbers.overfit(neighbours)),
        criteria.execution(at_tick=at_tick, at_minute=minute, half_life_s=perturbations.half_life(ladder)),
        _economics(judged, cash_rate, taken),
    ]
    measured = {
        "one_tick_dearer": at_tick,
        "after_a_minute": minute,
        "dollars_a_day": taken,
        "deflated_sharpe": numbers.deflated(neighbours, sample.entries, found, m),
        **numbers.sized_stake(sample.entries, found, seed),
    }
    return _Stressed(lines, {"latency": ladder, "placebos": placebos}, measured)


def _economics(judged: Judgement, cash_rate: float, a_day: float) -> Criterion:
    """Return line 11: the return on the capital in use, against cash."""
    if not np.isfinite(judged.measures.annualised):
        return criteria.unexamined(
            11, "settlement times are unknown, so the time for which capital is in use is unknown too"
        )
    return criteria.economics(annualised=judged.measures.annualised, cash_rate=cash_rate, dollars_a_day=a_day)


def _confirm(
    case: _Case,
    inputs: Inputs,
    sample: _Sample,
    found: Inference,
    lines: Sequence[Criterion],
    m: int,
    lockbox: bool,
    seed: int,
) -> tuple[Criterion, datetime | None]:
    """Return line 12, and the beginning of the lockbox if it was opened.

    A look is spent for good, so none is spent where another line has failed already.
    """
    data, sketch = inputs.data["hash"], inputs.sketch
    failed = next((line for line in lines if line.passed is False), None)
    if lockbox and failed is not None:
        return criteria.unexamined(12, f"the lockbox was not opened, since {failed.name} failed"), None
    if lockbox:
        return confirmed_by_lockbox(case.box, case.book, sample.whole, case.prereg, data, sketch, seed)
    line = confirmed_by_registration(
        case.book, case.prereg, case.family, data, sketch, found, m, in_process=case.in_process
    )
    return line, None
