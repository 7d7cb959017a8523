"""From a signal and a tape to a report card.

What is judged is the signal as it stands: its fires as of their print, bought by the entry rule at a price that
could be paid, after fees, each market once.  Everything that could flatter it is looked for: audits for look-ahead,
outcomes not known yet, too small a sample, what the price alone earns, a few lucky events, a lucky month, one lucky
setting, a price that nobody would have got, the number of tries.

**Trials.**  Every validation is written into a registry.  Without one of your own that is the registry of this
process (`kalshilab.edge.prereg.hypothesis.session_registry`): it counts what was tried here, and knows nothing of before.
With `registry=` the hypothesis must have been registered (`hypothesis_of`), and an unregistered one is refused.  Each
cell of a `grid=` is a trial too.  The steps to each side that line 9 looks at without one are not: they are there to
see whether the edge stands on a single setting, and whoever goes over to one of them validates it, and is counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import polars as pl

from kalshilab.edge.canonical_json import canonical
from kalshilab.edge.entries import maker
from kalshilab.edge.entries.censoring import Cohort, censor, marked
from kalshilab.edge.entries.pnl import Role, measure, sizes
from kalshilab.edge.entries.rules import Left, enter_counted, half_spread_of
from kalshilab.edge.lookahead import audit
from kalshilab.edge.lookahead.strategy import FIRES, Strategy, strategy_of
from kalshilab.edge.prereg.hypothesis import Terms, registered, specification, terms_of, trials_of
from kalshilab.edge.prereg.lockbox import Lockbox
from kalshilab.edge.prereg.registry import Registry, Trial
from kalshilab.edge.report import criteria
from kalshilab.edge.report.card import Card
from kalshilab.edge.report.confirmation import confirmed, data_of, opened, sketch_of
from kalshilab.edge.report.data_quality import first_prints, history_of, last_known
from kalshilab.edge.report.equity import equity
from kalshilab.edge.report.inputs import excerpt, in_memory, tables, with_horizon
from kalshilab.edge.report.statistical_verdict import Judgement, judge
from kalshilab.edge.report.waterfall import waterfall
from kalshilab.edge.robustness import perturbations, price_matching
from kalshilab.edge.robustness.walk_forward import walk_forward
from kalshilab.edge.schema import Criterion, event_means
from kalshilab.edge.sizing import capacity
from kalshilab.edge.sizing.kelly import drawdowns, stake
from kalshilab.edge.stats.inference import Inference
from kalshilab.edge.stats.multiplicity import deflated_sharpe, event_matrix, pbo, romano_wolf
from kalshilab.errors import EdgeError
from kalshilab.market.fee_schedule import FeeSchedule
from kalshilab.signals.engine.compiled_signal import CompiledSignal

__all__ = ["validate"]

VARIANTS: Final = 10
"""Settings from which on overfitting can be measured."""


def validate(
    signal: Any,
    tape: Any,
    markets: Any = None,
    *,
    claim: float | None = None,
    seed: int = 0,
    b: int = 1999,
    grid: Mapping[str, Sequence[Any]] | None = None,
    trials: int | None = None,
    registry: Registry | str | Path | None = None,
    lockbox: bool = False,
    exclusive: Any = None,
    schedule: Any = None,
    half_spread: float | None = None,
    books: Any = None,
    cash_rate: float = 0.04,
    data_end: datetime | None = None,
    audits: bool = True,
    executor: Executor | None = None,
    notebook: str | None = None,
    **terms: Any,
) -> Card:
    """Judge a signal: a report card with a verdict, the lines it follows from, and every number behind them.

    Args:
        signal: a signal (`kalshilab.signals`, `@kalshilab.signal`), or a function `tape -> fires` or
            `(tape, markets) -> fires`, which gets whole frames and is audited for what it looks at.
        tape: a tape of any frame kind, a lake, or the path of one.
        markets: the markets (`kl.to_markets`); None: the lake's own.
        claim: the edge somebody claimed for it, in cents; drawn, never used.
        seed: the same seed gives the same card.
        b: resamples, at least; more where the number of trials asks for more.
        grid: neighbouring values of parameters, `{"min_trades": [15, 25, 40]}`; None: a step to each side of each.
        trials: hypotheses tried in all, where more were than the registry counts for the family, this one included;
            never fewer.
        registry: a registry, or its file; None: this process's (see the module).
        lockbox: take the confirmation from the last 30 % of event time, and spend a look for it, if nothing else
            has failed.  It is set for the family with the first such call; from then on no validation of the family
            sees what is inside, but for those looks.
        exclusive: events of which at most one market settles YES: a set of tickers, or True for all.
        schedule: fees by series and date; None: `kalshilab.market.fee_schedule`'s.
        half_spread: cents; None: estimated from the tape.
        books: quotes for rule="book" and rule="maker".
        cash_rate: what cash earns in a year, as a fraction.
        data_end: until when outcomes are known; None: the last print or settlement.
        audits: False leaves the audits for look-ahead out; no verdict then stands above PROVISIONAL.
        executor: where neighbouring settings are scanned and resamples drawn; None: here.  The card is the same.
        notebook: its name, for the registry.
        terms: of `Terms`: rule, latency, window (seconds), contracts, per_event.

    >>> import kalshilab as kl
    >>> card = validate(kl.signals.Rlm(), *kl.sample(), claim=17.38)  # of it +0.43 is left, after the fee
    >>> card.verdict
    'INSUFFICIENT'

    Raises:
        EdgeError: neither a signal nor a function; a tape without prints; a market without an event; terms that do not
            exist, or that are none; what a function raised.
        RegistryError: the hypothesis is not registered in `registry`.
        TapeError, LakeError: the tape, the markets or the lake are not what they should be.
    """
    strategy, on = strategy_of(signal), terms_of(terms)
    if not isinstance(claim, int | float | None):
        raise EdgeError(f"claim={claim!r}: a number of cents is asked for")
    tape, markets = tables(tape, markets)
    # A lake knows of its gaps; its prints alone do not.
    history = history_of(tape, markets)
    spec, data = specification(strategy, on, grid, schedule), data_of(tape, markets)
    if strategy.signal is not None:
        tape = in_memory(tape)
    sketch = sketch_of(tape)
    book, prereg, family = registered(registry, strategy, spec)
    begun = first_prints(tape, markets)
    box = Lockbox(book, family, first_prints=begun)
    fixed = {
        **msgspec.structs.asdict(on), "exclusive": exclusive, "schedule": schedule, "books": books,
        "half_spread": half_spread_of(tape) if half_spread is None else half_spread,
    }  # fmt: skip

    def bought(fires: pl.DataFrame, **other: Any) -> pl.DataFrame:
        every = enter_counted(fires, tape, markets, **{**fixed, **other})[0]
        known = every if cohort is None or cohort.cut is None else every.filter(pl.col("ts") <= cohort.cut)
        return box.outside(known)

    found_fires, refused = audit.fires_of(strategy, tape, markets)
    fires = pl.DataFrame(schema=FIRES) if found_fires is None else found_fires
    cohort: Cohort | None = None
    every, left = enter_counted(fires, tape, markets, **fixed)
    whole, cohort = censor(every, data_end=data_end or last_known(tape, markets))
    if lockbox and whole.height:
        box.split(whole)
    entries = box.outside(whole)
    if found_fires is None:
        audited: tuple[audit.Audit, ...] = (
            audit.Audit(name="settlement facts", passed=False, detail=refused),
        )
    else:
        audited = audit.every(strategy, *excerpt(tape, markets), seed=seed) if audits else ()
        if audited and entries["filled"].any():
            audited = (*audited, audit.outcome_resampling(entries, b=499, seed=seed))
    cells = _cells(strategy, grid, tape, bought, executor)
    pool = price_matching.pool(tape, fires, bought, seed=seed) if fires.height else None
    points = [strategy.parameters, *(c.parameters for c in cells[1:] if grid is not None)]
    m = max(trials or 1, trials_of(book, prereg, family, points, data["hash"]))
    near = None if pool is None else with_horizon(pool, markets)
    judged = judge(
        with_horizon(entries, markets),
        near,
        trials=m,
        walk_forward=_walked(cells, begun),
        b=b,
        seed=seed,
        executor=executor,
    )
    found = judged.inference
    enough = found is not None and bool(judged.criteria[0].passed)
    book.evaluated_all(prereg, _trials(points, cells, found, enough), data["hash"], notebook, sketch=sketch)
    lines = [
        criteria.look_ahead(audited),
        criteria.data(
            fill_rate=judged.measures.fill_rate,
            censored=cohort.share,
            unmatched=left.unmatched,
            span=history.span,
            detail="; ".join(filter(None, (cohort.detail, history.detail))),
        ),
        *judged.criteria,
    ]
    frames = _frames(strategy, entries, pool, cells, tape, markets, claim, judged, seed)
    if not enough and "heatmap" in frames:
        # Of too small a sample there is no p-value to admire, nor of its neighbours.
        frames["heatmap"] = frames["heatmap"].with_columns(p=pl.lit(None, pl.Float64), star=pl.lit(False))
    numbers = _numbers(judged, left, cohort, m, entries, markets, on, schedule) | _gap(frames["waterfall"])
    if on.rule == "maker":
        frames["markouts"], chosen = _quoted(entries, tape, markets, books, on, schedule, seed)
        numbers |= chosen
    boundary = None
    if found is None or not judged.criteria[0].passed:
        lines += [criteria.unexamined(n, "the sample is too small") for n in range(9, 13)]
    else:
        ladder = perturbations.latency(fires, bought)
        frames["latency"] = ladder
        frames["placebos"] = audit.placebos(audit.variants(strategy), tape, markets, bought)
        dearer = perturbations.interval(bought(fires, ticks=1)).estimate
        taken = capacity.tape_capacity(entries, tape, window_s=on.window, latency_s=on.latency)
        minute = float(ladder.filter(pl.col("latency_s") == 60.0)["edge"][0])
        numbers |= {
            "one_tick_dearer": dearer,
            "after_a_minute": minute,
            "dollars_a_day": taken.dollars_a_day(0.10),
            "deflated_sharpe": _deflated(cells, entries, found, m),
            **_sized(entries, found, seed),
        }
        lines += [
            criteria.robustness(*_overfit(cells)),
            criteria.execution(at_tick=dearer, at_minute=minute, half_life=perturbations.half_life(ladder)),
            _economics(judged, cash_rate, taken.dollars_a_day(0.10)),
        ]
        failed = next((line for line in lines if line.passed is False), None)
        if lockbox and failed is not None:
            # A look is spent for good; what fails without it needs none.
            line = criteria.unexamined(12, f"the lockbox stays shut: {failed.name} failed")
        elif lockbox:
            line, boundary = opened(box, book, whole, prereg, data["hash"], sketch, seed)
        else:
            line = confirmed(book, prereg, family, data["hash"], sketch, found, m, ours=registry is None)
        lines.append(line)
    numbers["net_marked"] = measure(marked(entries, tape, fixed["half_spread"])).edge
    frames["equity"] = equity(entries if boundary is None else whole, lockbox=boundary, seed=seed)
    verdict = criteria.verdict_of(lines)
    return Card(
        name=strategy.label, verdict=verdict, header=_header(strategy, claim, verdict, numbers, m), criteria=tuple(lines),
        claim=claim, numbers=numbers, spec={**spec, "hash": prereg}, data=data, seed=seed,
        version=version("kalshilab"), frames=frames,
        grid=tuple(c for c in frames["heatmap"].columns if c not in _MEASURED) if "heatmap" in frames else (),
    )  # fmt: skip


_MEASURED: Final = ("n", "edge", "lower", "upper", "p", "star")


def _cells(strategy: Strategy, grid: Any, tape: Any, bought: Any, executor: Any) -> list[perturbations.Cell]:
    if not isinstance(strategy.signal, CompiledSignal):
        if grid is not None:
            raise EdgeError(f"grid= varies the parameters of a signal; {strategy.name} is a function")
        return []
    return perturbations.grid(strategy.signal, tape, bought, grid, executor)


def _walked(cells: Sequence[perturbations.Cell], begun: pl.DataFrame) -> float | None:
    """The pooled edge of the folds of a walk-forward over the cells; None where there are too few events."""
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
    points: Sequence[Mapping[str, Any]],
    cells: Sequence[perturbations.Cell],
    found: Inference | None,
    enough: bool,
) -> list[Trial]:
    """What is written down: of the rule itself and of each cell of a grid; p-values only of samples large enough."""
    own = Trial(dict(points[0]), None, None, None) if found is None else Trial(
        dict(points[0]), found.p if enough else None, found.edge, found.n_eff
    )  # fmt: skip
    others = []
    for cell in cells[1 : len(points)]:
        seen = perturbations.interval(cell.entries)
        others.append(Trial(dict(cell.parameters), seen.p if enough else None, seen.estimate, None))
    return [own, *others]


def _as_of_fire(entries: pl.DataFrame) -> float | None:
    """What the firing prints' own prices would have earned, in cents, over events; None of nothing settled."""
    known = entries.filter(pl.col("value").is_not_null())
    each = known.group_by("event").agg((pl.col("value") - pl.col("fired_at")).mean().alias("e")).sort("event")
    return 100 * float(each["e"].to_numpy().mean()) if each.height else None


def _deflated(
    cells: Sequence[perturbations.Cell], entries: pl.DataFrame, found: Inference, trials: int
) -> float | None:
    """Whether the Sharpe ratio of events is more than the best of so many tries would show; None if it cannot be said."""
    own = event_means(entries)
    others = [event_means(cell.entries) for cell in cells]
    ratios = [x.mean() / x.std(ddof=1) for x in (own, *others[1:]) if len(x) > 1 and x.std(ddof=1) > 0]
    if len(own) < 2 or not own.std() > 0:
        return None
    return deflated_sharpe(own, ratios, trials=max(trials, len(ratios)), n_eff=found.n_eff)


def _gap(steps: pl.DataFrame) -> dict[str, float]:
    """By how many cents, and standard errors, the whole life shows more than the moment of the fire."""
    known = {row["step"]: row for row in steps.iter_rows(named=True)}
    whole, fired = known.get("whole life"), known.get("as of the fire")
    if whole is None or fired is None:
        return {}
    errors = [(row["upper"] - row["lower"]) / 3.92 for row in (whole, fired) if row["lower"] is not None]
    se = float(np.hypot(*errors)) if len(errors) == 2 else errors[0]
    return {"look_ahead_gap": whole["edge"] - fired["edge"], "look_ahead_gap_se": se}


def _overfit(cells: Sequence[perturbations.Cell]) -> tuple[float | None, int, float | None, float]:
    """Share of neighbours with a positive edge, how many, PBO and how often the best of one half loses in the other."""
    others = [perturbations.interval(c.entries).estimate for c in cells[1:]]
    known = [edge for edge in others if np.isfinite(edge)]
    share = sum(edge > 0 for edge in known) / len(known) if known else None
    if len(cells) < VARIANTS:
        return share, len(known), None, 1.0
    matrix, _ = event_matrix([c.entries for c in cells])
    if len(matrix) < 16:
        return share, len(known), None, 1.0
    found = pbo(matrix)
    return share, len(known), found.pbo, found.loss


def _sized(entries: pl.DataFrame, found: Inference, seed: int) -> dict[str, float]:
    """What to lay out for a bet: a quarter of Kelly's share at the shrunken edge's lower 80 % bound, capped; and how
    deep the bankroll falls with it in the worst of twenty records, as it was and with the edge at its lower bound."""
    cost = float(entries.filter("filled")["cost"].mean())  # type: ignore[arg-type]
    share = stake(found.edge, max(found.se_event, found.se_day), cost)
    if not share > 0:
        return {"stake": 0.0}
    deep = drawdowns(entries, share, lower_cents=found.lower, seed=seed).frame
    worst = deep.filter(pl.col("quantile") == 0.95).row(0, named=True)
    return {"stake": share, "drawdown": worst["drawdown"], "drawdown_at_lower": worst["at_lower"]}


def _economics(judged: Judgement, cash_rate: float, a_day: float) -> Criterion:
    if not np.isfinite(judged.measures.annualised):
        return criteria.unexamined(11, "settlement times are not known: nor is how long the capital is bound")
    return criteria.economics(annualised=judged.measures.annualised, cash_rate=cash_rate, dollars_a_day=a_day)


def _frames(
    strategy: Strategy, entries: pl.DataFrame, pool: pl.DataFrame | None, cells: Sequence[perturbations.Cell], tape: Any,
    markets: pl.DataFrame, claim: float | None, judged: Judgement, seed: int,
) -> dict[str, pl.DataFrame]:  # fmt: skip
    others = entries.head(0) if pool is None else pool
    matched = judged.excess
    frames = {
        "entries": entries,
        "pool": others,
        "waterfall": waterfall(
            strategy,
            entries,
            tape,
            markets,
            claim=claim,
            excess=None if matched is None else matched.edge,
            seed=seed,
        ),
        "calibration": price_matching.calibration(entries, others, seed=seed),
        "buckets": price_matching.buckets(entries, others, seed=seed)[0]
        if matched is None
        else matched.buckets,
        "concentration": perturbations.concentration(entries).curve,
        "categories": perturbations.by_category(entries),
        "blocks": perturbations.blocks(entries).frame,
    }
    if len(cells) > 1:
        rows = perturbations.summary(cells)
        stars = np.zeros(len(cells), np.bool_)
        if judged.inference is not None and len(cells) >= 2:
            matrix, _ = event_matrix([c.entries for c in cells])
            if len(matrix):
                stars = romano_wolf(matrix, resamples=499, seed=seed).rejected()
        frames["heatmap"] = rows.with_columns(pl.Series("star", stars))
    return frames


def _quoted(
    entries: pl.DataFrame, tape: Any, markets: pl.DataFrame, books: pl.DataFrame, on: Terms,
    schedule: FeeSchedule | None, seed: int,
) -> tuple[pl.DataFrame, dict[str, float]]:  # fmt: skip
    """Of quotes: the markouts, what being filled says of them, and what the optimistic book would have shown."""
    quotes = maker.joining(entries.rename({"fire": "row"}), books)
    rested = maker.rest(quotes, tape, books, contracts=on.contracts, life=on.window, latency=on.latency)
    touch = maker.entries(rested, markets, book="touch", schedule=schedule)
    return maker.markouts(rested, books, markets, seed=seed), {
        "adverse_selection": maker.selection(rested, markets).gap,
        "net_at_touch": perturbations.interval(touch).estimate,
    }


def _numbers(
    judged: Judgement, left: Left, cohort: Cohort, trials: int, entries: pl.DataFrame, markets: pl.DataFrame,
    on: Terms, schedule: FeeSchedule | None,
) -> dict[str, Any]:  # fmt: skip
    m, found = judged.measures, judged.inference
    enough = bool(judged.criteria[0].passed)
    role: Role = "maker" if on.rule == "maker" else "taker"
    sized = sizes(entries, markets, schedule=schedule, role=role) if m.n_filled else {}
    return {
        "fires": left.fires,
        "kept": cohort.kept,
        "filled": m.n_filled,
        "fill_rate": m.fill_rate,
        "events": m.n_events,
        "days": m.n_days,
        "losses": m.n_losses,
        "win_rate": m.win_rate,
        "break_even": m.break_even,
        "as_of_fire": _as_of_fire(entries),
        "gross": m.gross,
        "net": m.edge,
        "lower": None if found is None else found.lower,
        "upper": None if found is None else found.upper,
        # Of too small a sample there is no p-value to admire.
        "p": found.p if found is not None and enough else None,
        "p_adjusted": min(1.0, found.p * trials) if found is not None and enough else None,
        "mde": None if found is None else found.mde_at(trials),
        "n_eff": None if found is None else found.n_eff,
        "trials": trials,
        "per_fire": m.edge_per_fire,
        "return_on_cost": m.edge_per_dollar,
        "annualised": m.annualised,
        "excess": None if judged.excess is None else judged.excess.edge.estimate,
        "excess_bucketed": None if judged.excess is None else judged.excess.bucketed.estimate,
        "censored": cohort.share,
        **{f"net_at_{size}": edge for size, edge in sized.items()},
    }


def _header(
    strategy: Strategy, claim: float | None, verdict: str, numbers: dict[str, Any], trials: int
) -> str:
    """The card in one sentence."""
    said = [] if claim is None else [f"claimed {claim:+.1f} c"]
    if numbers["as_of_fire"] is not None:
        said.append(f"as of the fire {numbers['as_of_fire']:+.1f} c")
    if numbers["filled"]:
        said.append(f"{numbers['per_fire']:+.1f} c a contract bought")
        between = "" if numbers["lower"] is None else f" [{numbers['lower']:+.1f}, {numbers['upper']:+.1f}]"
        said.append(f"net {numbers['net']:+.1f} c a fire{between}")
    else:
        said.append(f"{numbers['fires']:,} fires, none bought and settled")
    said.append(verdict)
    said.append(f"m = {trials:,} trial{'s' if trials != 1 else ''}")
    if numbers["mde"] is not None and np.isfinite(numbers["mde"]):
        said.append(f"this sample cannot detect less than {numbers['mde']:.1f} c")
    return f"{strategy.name.upper()}: {'; '.join(said)}."
