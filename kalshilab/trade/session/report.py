"""What a run leaves behind: frames for people, counts for machines.

Frames hold prices in cents, sizes in contracts and money in dollars (Float64), instants as UTC datetimes,
except `signals`, which has the units of the signal it comes from, and `markets`, which is a markets table;
`Report.load` reads those of an earlier run from its folder.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from kalshilab.errors import KalshilabError, SessionError
from kalshilab.market.model import Fill, Market, Order
from kalshilab.tape.schema import MARKETS_SCHEMA, TAKER
from kalshilab.trade.events import Decision, Fired, Transition
from kalshilab.trade.orders.journal import Journal
from kalshilab.units import MONEY, SIZE, show_dollars

__all__ = ["FRAMES", "Report"]

_TS = pl.Datetime("us", "UTC")
FRAMES = (
    "signals", "decisions", "orders", "fills", "settlements", "positions", "transitions", "equity", "markets",
)  # fmt: skip
"""The frames of a report, each a property and a Parquet file of the run's folder."""

_SCHEMAS: Mapping[str, Mapping[str, Any]] = {
    "signals": {
        "row": pl.UInt64,
        "ts": _TS,
        "ticker": pl.String,
        "side": TAKER,
        "price": pl.Int16,
        "n_trades": pl.UInt32,
    },
    "decisions": {
        "ts": _TS,
        "ticker": pl.String,
        "action": pl.String,
        "reason": pl.String,
        "side": pl.String,
        "price": pl.Float64,
        "size": pl.Float64,
        "yes_ratio": pl.Float64,
        "drop": pl.Float64,
        "client_order_id": pl.String,
        "order_id": pl.String,
    },
    "orders": {
        "created": _TS,
        "updated": _TS,
        "ticker": pl.String,
        "side": pl.String,
        "outcome": pl.String,
        "price": pl.Float64,
        "status": pl.String,
        "initial": pl.Float64,
        "filled": pl.Float64,
        "remaining": pl.Float64,
        "fees": pl.Float64,
        "reason": pl.String,
        "client_order_id": pl.String,
        "order_id": pl.String,
    },
    "fills": {
        "ts": _TS,
        "ticker": pl.String,
        "outcome": pl.String,
        "price": pl.Float64,
        "size": pl.Float64,
        "cost": pl.Float64,
        "fee": pl.Float64,
        "is_taker": pl.Boolean,
        "order_id": pl.String,
        "trade_id": pl.String,
    },
    "settlements": {
        "ts": _TS,
        "ticker": pl.String,
        "event": pl.String,
        "result": pl.String,
        "settlement": pl.Float64,
        "yes_size": pl.Float64,
        "no_size": pl.Float64,
        "cost": pl.Float64,
        "revenue": pl.Float64,
        "fees": pl.Float64,
        "pnl": pl.Float64,
    },
    "positions": {
        "ticker": pl.String,
        "outcome": pl.String,
        "size": pl.Float64,
        "cost": pl.Float64,
        "value": pl.Float64,
        "pnl": pl.Float64,
        "close": _TS,
    },
    "transitions": {
        "ts": _TS,
        "wall": _TS,
        "source": pl.String,
        "target": pl.String,
        "reason": pl.String,
    },
    "equity": {"ts": _TS, "cash": pl.Float64, "portfolio_value": pl.Float64, "equity": pl.Float64},
    "markets": MARKETS_SCHEMA,
}


_OWN: Mapping[str, Any] = {"yes_ratio": pl.Float64, "drop": pl.Int16, "first_price": pl.Int16}
"""Types of own fields of a signal that does not say them."""


def _frame(name: str, rows: Sequence[Mapping[str, Any]], own: Mapping[str, Any]) -> pl.DataFrame:
    schema = dict(_SCHEMAS[name])
    if name == "signals":
        # A signal's own fields are columns behind the common ones, also where nothing has fired.
        schema |= own
        unsaid = dict.fromkeys(k for row in rows for k in row if k not in schema)
        found = pl.DataFrame([{k: row.get(k) for k in unsaid} for row in rows], infer_schema_length=None)
        schema |= {k: _OWN.get(k, found.schema[k]) for k in unsaid}
    return pl.DataFrame(list(rows), schema=schema)


def _signal(f: Fired) -> dict[str, Any]:
    values = msgspec.structs.asdict(f)
    own: dict[str, Any] = values.pop("own")
    return values | own


def _decision(d: Decision) -> dict[str, Any]:
    row = msgspec.structs.asdict(d)
    return row | {
        "price": d.price / 100,
        "size": d.size / SIZE,
        "drop": None if d.drop is None else d.drop / 100,
    }


def _order(o: Order) -> dict[str, Any]:
    return {
        "created": o.created_ts,
        "updated": o.updated_ts,
        "ticker": o.ticker,
        "side": o.side,
        "outcome": o.outcome,
        "price": o.price / 100,
        "status": o.status,
        "initial": o.initial / SIZE,
        "filled": o.filled / SIZE,
        "remaining": o.remaining / SIZE,
        "fees": o.fees / MONEY,
        "reason": o.reason,
        "client_order_id": o.client_order_id,
        "order_id": o.order_id,
    }


def _fill(f: Fill) -> dict[str, Any]:
    price = f.price if f.side == "bid" else 10_000 - f.price
    return {
        "ts": f.ts,
        "ticker": f.ticker,
        "outcome": f.outcome,
        "price": f.price / 100,
        "size": f.size / SIZE,
        "cost": price * f.size / MONEY,
        "fee": f.fee / MONEY,
        "is_taker": f.is_taker,
        "order_id": f.order_id,
        "trade_id": f.trade_id,
    }


def _settlement(s: Any) -> dict[str, Any]:
    return {
        "ts": s.ts,
        "ticker": s.ticker,
        "event": s.event,
        "result": s.result,
        "settlement": s.settlement / 100,
        "yes_size": s.yes_size / SIZE,
        "no_size": s.no_size / SIZE,
        "cost": (s.yes_cost + s.no_cost) / MONEY,
        "revenue": s.revenue / MONEY,
        "fees": s.fees / MONEY,
        "pnl": s.pnl / MONEY,
    }


def _position(p: Any) -> dict[str, Any]:
    return {
        "ticker": p.ticker,
        "outcome": p.outcome,
        "size": p.size / SIZE,
        "cost": p.cost / MONEY,
        "value": p.value / MONEY,
        "pnl": p.pnl / MONEY,
        "close": p.close_ts or None,
    }


def _market(m: Market) -> dict[str, Any]:
    # The session has no use for the difference between unknown and none; a table has.
    row = {name: getattr(m, name, None) for name in MARKETS_SCHEMA}
    instants = ("open_ts", "close_ts", "expected_close_ts", "settled_ts", "result", "price_structure")
    return row | {name: row[name] or None for name in instants}


def _transition(t: Transition) -> dict[str, Any]:
    return msgspec.structs.asdict(t)


class Report:
    """The record of one run.

    Attributes:
        counts: the numbers of the run, by name (`trades`, `signals`, `orders`, `fills`, `settlements`,
            `pnl_cents`, `open_positions`, …).
        state: the state it ended in; `stopped`: why it ended.
        run_dir, journal: its folder and the journal in it.
        error: what ended it, if it did not end of its own will; `check()` raises it.
    """

    def __init__(
        self,
        *,
        run_id: str,
        run_dir: Path,
        state: str,
        stopped: str,
        counts: Mapping[str, int],
        frames: Mapping[str, pl.DataFrame],
        error: KalshilabError | None = None,
    ) -> None:
        self.run_id, self.run_dir, self.journal = run_id, run_dir, run_dir / "journal.sqlite"
        self.state, self.stopped, self.counts, self.error = state, stopped, dict(counts), error
        self._frames = dict(frames)

    @classmethod
    def build(
        cls,
        journal: Journal,
        *,
        run_id: str,
        state: str,
        stopped: str,
        counts: Mapping[str, int],
        positions: Sequence[Any],
        equity: Sequence[tuple[int, int, int]],
        markets: Iterable[Market] = (),
        columns: Mapping[str, Any] | None = None,
        error: KalshilabError | None = None,
    ) -> Report:
        """From a journal, the open positions (`PositionRow`), the equity samples `(ts, cash, value)` and the markets
        that were followed.

        `columns` are the signal's own, with their types; what they leave out is read off the values.
        """
        latest = {o.order_id: o for o in journal.values("order")}
        rows = {
            "signals": map(_signal, journal.values("fire")),
            "decisions": map(_decision, journal.values("decision")),
            "orders": map(_order, latest.values()),
            "fills": map(_fill, journal.values("fill")),
            "settlements": map(_settlement, journal.values("settlement")),
            "positions": map(_position, positions),
            "transitions": map(_transition, journal.values("transition")),
            "equity": (
                {"ts": t, "cash": c / MONEY, "portfolio_value": v / MONEY, "equity": (c + v) / MONEY}
                for t, c, v in equity
            ),
            "markets": map(_market, markets),
        }
        frames = {name: _frame(name, list(rows[name]), columns or {}) for name in FRAMES}
        return cls(
            run_id=run_id,
            run_dir=journal.path.parent,
            state=state,
            stopped=stopped,
            counts=counts,
            frames=frames,
            error=error,
        )

    @classmethod
    def load(cls, run_dir: str | Path) -> Report:
        """The report of an earlier run.

        Raises:
            SessionError: the folder holds no finished run.
        """
        folder = Path(run_dir)
        try:
            facts = msgspec.json.decode((folder / "report.json").read_bytes())
            frames = {name: pl.read_parquet(folder / f"{name}.parquet") for name in FRAMES}
        except FileNotFoundError as error:
            raise SessionError(
                f"{folder}: no finished run here ({Path(error.filename).name} is missing)"
            ) from None
        return cls(run_dir=folder, frames=frames, **facts)

    def save(self) -> None:
        """Write `report.json` and a Parquet file for each frame into the run's folder."""
        for name, frame in self._frames.items():
            frame.write_parquet(self.run_dir / f"{name}.parquet")
        facts = {"run_id": self.run_id, "state": self.state, "stopped": self.stopped, "counts": self.counts}
        (self.run_dir / "report.json").write_bytes(msgspec.json.encode(facts))

    def check(self) -> None:
        """Raise what ended the run, if something did: the last line of an unattended notebook."""
        if self.error is not None:
            raise self.error

    def summary(self) -> pl.DataFrame:
        """The run in a small frame of two text columns, `metric` and `value`."""
        counts = self.counts
        rows = [
            ("stopped", self.stopped),
            ("state", self.state),
            *(
                (name.replace("_", " "), f"{counts[name]:,}")
                for name in counts
                if not name.endswith("_cents")
            ),
            *(
                (name.removesuffix("_cents").replace("_", " "), show_dollars(counts[name] * 10_000))
                for name in counts
                if name.endswith("_cents")
            ),
        ]
        return pl.DataFrame(rows, schema={"metric": pl.String, "value": pl.String}, orient="row")

    @property
    def signals(self) -> pl.DataFrame:
        """Every fire as the session saw it, in the columns and units of the signal's own `run`: what research
        finds on the same tape can be held against it row by row.
        """
        return self._frames["signals"]

    @property
    def decisions(self) -> pl.DataFrame:
        """What was done about each fire, and why."""
        return self._frames["decisions"]

    @property
    def orders(self) -> pl.DataFrame:
        """Our orders in their last known form."""
        return self._frames["orders"]

    @property
    def fills(self) -> pl.DataFrame:
        """Each match of one of our orders; `price` is the YES price, `cost` what was paid, fee apart."""
        return self._frames["fills"]

    @property
    def settlements(self) -> pl.DataFrame:
        """What the exchange paid out, market by market; `pnl` after fees."""
        return self._frames["settlements"]

    @property
    def positions(self) -> pl.DataFrame:
        """What is still held, valued at its bid."""
        return self._frames["positions"]

    @property
    def transitions(self) -> pl.DataFrame:
        """The session's changes of state."""
        return self._frames["transitions"]

    @property
    def equity(self) -> pl.DataFrame:
        """Cash and the value of positions, sampled at each fill and settlement and once a second."""
        return self._frames["equity"]

    @property
    def markets(self) -> pl.DataFrame:
        """The markets the session followed, as it last knew them, in the form of `kl.to_markets`."""
        return self._frames["markets"]

    def __repr__(self) -> str:
        c = self.counts
        return (
            f"Report({self.run_id}: {self.stopped}; {c.get('orders', 0)} orders, {c.get('fills', 0)} fills)"
        )

    def _repr_html_(self) -> str:
        return str(self.summary()._repr_html_())
