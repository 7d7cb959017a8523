"""Dashboard panels: pure functions from a `Snapshot` to HTML, without widget, session or clock.

A dashboard calls every function of `PANELS` and sends the panels that changed.  Tickers, reasons and messages come
from an exchange and are text, never markup: each string passes through `html.escape` in one of the functions that
build tags (`_cell`, `_table`, `_facts`, `_card`, `_badge`).

Ages are differences of exchange time within one snapshot, so they do not grow while the tape is paused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from types import MappingProxyType
from typing import Final, NamedTuple

from kalshilab.clock import to_datetime
from kalshilab.config.settings import Settings
from kalshilab.trade.status import PositionRow, Snapshot
from kalshilab.units import MONEY, PRICE, show_cents, show_contracts, show_dollars

__all__ = [
    "PANELS",
    "STYLE",
    "Panel",
    "console",
    "decisions",
    "header",
    "markets",
    "positions",
    "processing",
    "session",
    "settlements",
    "sparkline",
    "system",
    "trades",
]

Panel = Callable[[Snapshot, Settings], str]

LINES: Final = 60
"""Maximum number of console lines shown."""

SECOND: Final = 1_000_000
"""A second in microseconds."""

STYLE: Final = """<style>
.kalshilab-dashboard .widget-html-content{min-width:0;flex:1 1 0}
.kalshilab-dashboard{padding-right:4px}
.kl{font-size:12px;line-height:1.35;color:var(--jp-ui-font-color1,#222)}
.kl h4{margin:0 0 4px;font-size:12px;font-weight:600;color:var(--jp-ui-font-color2,#666)}
.kl table{border-collapse:collapse;width:100%;margin:0}
.kl th,.kl td{padding:1px 6px;text-align:left;white-space:nowrap;font-variant-numeric:tabular-nums}
.kl th{font-weight:500;color:var(--jp-ui-font-color2,#666);border-bottom:1px solid var(--jp-border-color2,#ddd)}
.kl .num{text-align:right}.kl .up{color:#1a8f4c}.kl .down{color:#c8453b}.kl .dim{opacity:.65}
.kl .scroll{max-height:230px;overflow:auto}
.kl .facts{display:grid;grid-template-columns:repeat(auto-fill,minmax(128px,1fr));gap:4px 12px}
.kl .wide{grid-template-columns:repeat(auto-fill,minmax(300px,1fr))}
.kl .facts b{display:block;font-size:14px;font-weight:600;font-variant-numeric:tabular-nums}
.kl .facts span{color:var(--jp-ui-font-color2,#666)}
.kl .badge{display:inline-block;border-radius:9px;padding:1px 9px;color:#fff;background:#777;font-weight:600}
.kl .badge.good{background:#1a8f4c}.kl .badge.busy{background:#2a6fbb}
.kl .badge.bad{background:#c8453b}.kl .badge.warn{background:#b7791f}
.kl .bar{height:5px;border-radius:3px;background:var(--jp-border-color2,#ddd);margin-top:5px;overflow:hidden}
.kl .bar i{display:block;height:100%;background:#2a6fbb}
.kl pre{margin:0;font-size:11px;white-space:pre-wrap;max-height:200px;overflow:auto}
</style>"""
"""The style sheet of all panels; colours follow JupyterLab's light or dark theme."""


class _Cell(NamedTuple):
    """A text with its CSS classes; a plain `str` is a cell without classes."""

    text: str
    css: str = ""


Text = str | _Cell


def _num(text: str, css: str = "") -> _Cell:
    return _Cell(text, f"num {css}".strip())


def _sign(value: float) -> str:
    return "up" if value > 0 else "down" if value < 0 else ""


def _gain(money: int) -> _Cell:
    return _num(("+" if money > 0 else "") + show_dollars(money), _sign(money))


def _cell(tag: str, value: Text) -> str:
    text, css = (value, "") if isinstance(value, str) else value
    attribute = f' class="{css}"' if css else ""
    return f"<{tag}{attribute}>{escape(text)}</{tag}>"


def _table(head: Sequence[Text], rows: Iterable[Sequence[Text]], empty: str) -> str:
    body = "".join(f"<tr>{''.join(_cell('td', c) for c in row)}</tr>" for row in rows)
    if not body:
        return f'<div class="dim">{escape(empty)}</div>'
    top = "".join(_cell("th", c) for c in head)
    return f'<div class="scroll"><table><tr>{top}</tr>{body}</table></div>'


def _facts(facts: Iterable[tuple[str, Text]], css: str = "facts") -> str:
    items = "".join(f"<div><span>{escape(name)}</span>{_cell('b', value)}</div>" for name, value in facts)
    return f'<div class="{css}">{items}</div>'


def _card(name: str, title: str, *parts: str) -> str:
    head = f"<h4>{escape(title)}</h4>" if title else ""
    return f'<div class="kl kl-{name}">{head}{"".join(parts)}</div>'


def _badge(text: str, kind: str) -> str:
    return f'<span class="badge {kind}">{escape(text)}</span>'


def _span(seconds: float) -> str:
    """Format seconds in the two largest units that fit.

    >>> _span(7.4), _span(135), _span(7_500), _span(190_000)
    ('7 s', '2 min 15 s', '2 h 5 min', '2 d 4 h')
    """
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3_600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86_400:
        return f"{whole // 3_600} h {whole % 3_600 // 60} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3_600} h"


def _age(shot: Snapshot, ts: int) -> _Cell:
    return _num(f"{_span((shot.now - ts) / SECOND)} ago" if ts else "", "dim")


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:,.1f} %" if whole else "–"


def _count(shot: Snapshot, name: str) -> str:
    return f"{shot.counts.get(name, 0):,}"


_KINDS = {"READY": "good", "ACTING": "busy", "ERROR": "bad", "SHUTDOWN": ""}


def header(shot: Snapshot, settings: Settings) -> str:
    """Show run, venue, state, exchange time, progress of the tape, and the reason if the session cannot trade."""
    badges = [_badge(shot.state, _KINDS.get(shot.state, "warn"))]
    if shot.state in ("READY", "ACTING") and shot.cash < settings.min_cash * MONEY:
        badges.append(_badge("low cash", "warn"))
    if shot.paused and not shot.stopped:
        badges.append(_badge(f"paused: {shot.paused}", "warn"))
    degraded = sorted(part for part, text in shot.health.items() if text != "healthy")
    if degraded and not shot.finished:
        badges.append(_badge(f"degraded: {', '.join(degraded)}", "warn"))
    if shot.stopped:
        badges.append(_badge(f"{'stopped' if shot.finished else 'stopping'}: {shot.stopped}", "warn"))
    when = f"{to_datetime(shot.now):%Y-%m-%d %H:%M:%S} UTC" if shot.now else "starting"
    line = f"{shot.venue} · {shot.strategy} · run {shot.run_id} · {when} · {_span(shot.elapsed)} running"
    bar = ""
    if shot.progress is not None:
        done = min(1.0, max(0.0, shot.progress))
        bar = f'<div class="bar"><i style="width:{100 * done:.1f}%"></i></div>'
    note = _cell("div", _Cell(shot.note, "dim")) if shot.note else ""
    return _card("header", "", " ".join(badges), " ", _cell("span", line), note, bar)


def session(shot: Snapshot, settings: Settings) -> str:
    """Show the account: cash, positions, fees, and profit since the start with its share of the starting equity."""
    equity = shot.cash + shot.portfolio_value
    gain = _gain(shot.pnl)
    share = _percent(shot.pnl, equity - shot.pnl)
    return _card(
        "session",
        "Trading session",
        _facts(
            [
                ("cash", show_dollars(shot.cash)),
                ("in positions", show_dollars(shot.portfolio_value)),
                ("total", show_dollars(equity)),
                ("profit and loss", _Cell(f"{gain.text} ({share})", _sign(shot.pnl))),
                ("fees", show_dollars(shot.fees)),
                ("orders placed", _count(shot, "orders")),
                ("orders resting", f"{len(shot.open_orders):,}"),
                ("fills", _count(shot, "fills")),
                ("positions", f"{len(shot.positions):,}"),
                ("settled", _count(shot, "settlements")),
            ]
        ),
    )


def processing(shot: Snapshot, settings: Settings) -> str:
    """Count the public trades, those that were filtered, and the outcomes of the signals."""
    seen = shot.counts.get("trades", 0)
    latest = shot.trades[-1].ts if shot.trades else 0
    live = "–" if not latest else "live" if shot.now - latest < 10 * SECOND else "quiet"
    names = ("signals", "orders", "rejected", "skipped", "rate_limited", "low_cash", "reentries")
    return _card(
        "processing",
        "Trade processing",
        _facts(
            [
                ("trades seen", f"{seen:,}"),
                ("filtered", _count(shot, "filtered")),
                ("markets tracked", _count(shot, "tracked")),
                ("filter rate", _percent(shot.counts.get("filtered", 0), seen)),
                ("trades a second", f"{seen / shot.elapsed:,.0f}" if shot.elapsed > 0 else "–"),
                ("flow", live),
                *((name.replace("_", " "), _count(shot, name)) for name in names),
            ]
        ),
    )


def trades(shot: Snapshot, settings: Settings) -> str:
    """List the latest public trades in tracked markets, newest first."""
    rows = [
        (t.ticker, t.taker, _num(show_cents(t.price)), _num(show_contracts(t.size)), _age(shot, t.ts))
        for t in reversed(shot.trades)
    ]
    head = ("market", "taker", _num("YES price"), _num("size"), _num("age"))
    return _card("trades", "Latest trades", _table(head, rows, "no trade yet"))


_ACTIONS = {"placed": "up", "rejected": "down", "unknown": "down", "refused": "down"}


def decisions(shot: Snapshot, settings: Settings) -> str:
    """List the latest decisions about signals with their reasons, newest first."""
    rows = [
        (
            d.ticker,
            _Cell(d.action, _ACTIONS.get(d.action, "")),
            d.reason,
            _num(show_cents(d.price) if d.price else ""),
            _num(show_contracts(d.size) if d.size else ""),
            _num("" if d.yes_ratio is None else f"{d.yes_ratio:.0%}"),
            _num("" if d.drop is None else show_cents(d.drop)),
            _Cell(d.order_id[:8], "dim"),
            _age(shot, d.ts),
        )
        for d in reversed(shot.decisions)
    ]
    head = (
        "market", "action", "reason", _num("YES price"), _num("size"), _num("YES share"), _num("drop"), "order",
        _num("age"),
    )  # fmt: skip
    return _card("decisions", "Decisions", _table(head, rows, "no signal yet"))


def _outcome_total(name: str, rows: Sequence[PositionRow]) -> tuple[str, _Cell]:
    size, cost = sum(r.size for r in rows), sum(r.cost for r in rows)
    value, pnl = sum(r.value for r in rows), sum(r.pnl for r in rows)
    text = f"{show_contracts(size)} for {show_dollars(cost)}, now {show_dollars(value)} ({_gain(pnl).text})"
    return name, _Cell(text, _sign(pnl))


def positions(shot: Snapshot, settings: Settings) -> str:
    """List the open positions at their bids, largest value first, below the totals of YES and NO."""
    rows = [
        (
            p.ticker,
            p.outcome,
            _num(show_contracts(p.size)),
            # Money divided by size is a price; rounding loses less than a hundredth of a cent.
            _num(show_cents(round(p.cost / p.size)) if p.size else ""),
            _num(show_cents(round(p.value / p.size)) if p.size else ""),
            _gain(p.pnl),
            _num(_percent(p.pnl, p.cost), _sign(p.pnl)),
            _num(_closes(shot, p.close_ts), "dim"),
        )
        for p in sorted(shot.positions, key=lambda p: -p.value)
    ]
    head = (
        "market",
        "side",
        _num("size"),
        _num("paid"),
        _num("bid"),
        _num("P&L"),
        _num("%"),
        _num("closes in"),
    )
    sides = [
        _outcome_total(name.upper(), rows_of_outcome)
        for name in ("yes", "no")
        if (rows_of_outcome := [p for p in shot.positions if p.outcome == name])
    ]
    table = _table(head, rows, "no open position")
    return _card("positions", "Open positions", _facts(sides, "facts wide") if sides else "", table)


def _closes(shot: Snapshot, close_ts: int) -> str:
    if not close_ts:
        return ""
    return _span((close_ts - shot.now) / SECOND) if close_ts > shot.now else "settling"


def settlements(shot: Snapshot, settings: Settings) -> str:
    """List the latest settlements, newest first, with their total after fees in the title."""
    rows = [
        (
            s.ticker,
            s.result,
            _num(show_contracts(s.yes_size or s.no_size)),
            _num(show_dollars(s.yes_cost + s.no_cost)),
            _num(show_dollars(s.revenue)),
            _num(show_dollars(s.fees)),
            _gain(s.pnl),
            _age(shot, s.ts),
        )
        for s in reversed(shot.settlements)
    ]
    head = (
        "market", "result", _num("size"), _num("cost"), _num("payout"), _num("fees"), _num("net"), _num("age"),
    )  # fmt: skip
    total = _gain(sum(s.pnl for s in shot.settlements)).text
    title = f"Settlements: {total} in the last {len(rows)}" if rows else "Settlements"
    return _card("settlements", title, _table(head, rows, "no settlement yet"))


def markets(shot: Snapshot, settings: Settings) -> str:
    """List the tracked markets with the most trades, and which of the signal's three conditions each meets."""
    rows = []
    for m in shot.markets:
        about = (
            m.ticker,
            m.category,
            _Cell(m.status, "" if m.status == "active" else "dim"),
            _num(show_cents(m.price) if m.price else ""),
        )
        if m.yes_ratio is None or m.drop is None:
            rows.append(
                (*about, _num(f"{m.n_trades:,}" if m.n_trades else ""), _num(""), _num(""), _Cell(""))
            )
            continue
        ratio, drop = m.yes_ratio > settings.yes_threshold, m.drop >= settings.min_drop * PRICE / 100
        enough = m.n_trades >= settings.min_trades
        rows.append(
            (
                *about,
                _num(f"{m.n_trades:,} of {settings.min_trades:,}", "up" if enough else ""),
                _num(f"{m.yes_ratio:.0%}", "up" if ratio else ""),
                _num(show_cents(m.drop), "up" if drop else ""),
                _Cell("●" * (ratio + drop + enough), "up" if ratio and drop and enough else "dim"),
            )
        )
    head = (
        "market", "category", "status", _num("YES price"), _num("trades"), _num("YES share"), _num("drop"), "signal",
    )  # fmt: skip
    return _card("markets", "Markets", _table(head, rows, "no market tracked yet"))


def system(shot: Snapshot, settings: Settings) -> str:
    """Show the health of each part, the counters of the feed, and the latest state transitions, newest first."""
    parts: list[tuple[str, Text]] = [
        (name, _Cell(health, "up" if health == "healthy" else "down"))
        for name, health in sorted(shot.health.items())
    ]
    counters: list[tuple[str, Text]] = [
        (name, _count(shot, name)) for name in ("frames", "reconnects", "gaps")
    ]
    changes = [(t.target, t.reason, _age(shot, t.ts)) for t in reversed(shot.transitions)]
    table = _table(("state", "why", _num("age")), changes, "no change of state yet")
    return _card("system", "System", _facts(counters + parts), table)


def console(shot: Snapshot, settings: Settings, failure: str = "") -> str:
    """Show the latest messages of the session, newest first, with machine time (UTC).

    Args:
        shot: snapshot of the session.
        settings: settings of the session.
        failure: error of the dashboard itself, shown first.
    """
    lines = [f"{to_datetime(at):%H:%M:%S} {text}" for at, text in shot.messages[-LINES:][::-1]]
    if failure:
        lines.insert(0, failure)
    body = _cell("pre", "\n".join(lines) or "quiet")
    return _card("console", "Console", body)


PANELS: Final[Mapping[str, Panel]] = MappingProxyType(
    {
        "header": header,
        "session": session,
        "processing": processing,
        "decisions": decisions,
        "positions": positions,
        "trades": trades,
        "settlements": settlements,
        "markets": markets,
        "system": system,
        "console": console,
    }
)
"""Every panel by name; each is a function `(snapshot, settings) -> HTML`."""


def sparkline(values: Sequence[float], width: int = 600, height: int = 120) -> str:
    """Draw a line through `values` as SVG; it replaces the chart when its widget is closed.

    >>> sparkline([1.0])
    ''
    >>> sparkline([1.0, 3.0], width=10, height=10).count("polyline")
    1
    """
    if len(values) < 2:
        return ""
    low, high = min(values), max(values)
    scale = (height - 4) / (high - low) if high > low else 0.0
    step = width / (len(values) - 1)
    points = " ".join(f"{i * step:.1f},{height - 2 - (v - low) * scale:.1f}" for i, v in enumerate(values))
    return (
        f'<svg viewBox="0 0 {width} {height}" width="100%" height="{height}" preserveAspectRatio="none">'
        f'<polyline points="{points}" fill="none" stroke="#2a6fbb" stroke-width="1.5" '
        'vector-effect="non-scaling-stroke"/></svg>'
    )
