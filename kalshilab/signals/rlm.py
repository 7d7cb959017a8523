"""Reverse line movement, as of each print.

Most prints of a market buy YES, and yet YES has fallen: the signal says NO.  It fires at the first print at
which all of these hold, each *as of that print, inclusive*:

* at least `min_trades` prints since the anchor;
* the share of them whose taker bought YES is strictly above `yes_threshold`;
* the anchor's YES price less this print's is at least `min_drop`.

The anchor is the first print seen, since tracking began or since the signal re-armed.

The name and the rule are those of a published trading system whose whole-life version of this signal (last
price, mean price, final counts) claims +17.38 cents; that figure comes from looking ahead and appears on fair
markets too.  Here nothing later than the print is ever read.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import numpy as np
import polars as pl

from kalshilab.errors import SignalError, UnitError
from kalshilab.signals.kernel import FIRST, LAST, YES, N, fresh_state, grown, rlm_run, rlm_step
from kalshilab.signals.signal import Fire, Frame, as_tape, like
from kalshilab.tape.schema import TAKER
from kalshilab.units import cents

__all__ = ["MarketState", "Rlm", "rlm"]


class MarketState(msgspec.Struct, frozen=True):
    """A market's live numbers since its anchor; prices in price units."""

    n_trades: int
    yes_trades: int
    first_price: int
    last_price: int


class Rlm:
    """The signal with its parameters; see the module for the rule.

    Args:
        yes_threshold: share of YES takers that must be exceeded, 0 to 1.
        min_trades: prints since the anchor, at least.
        min_drop: fall of the YES price since the anchor, cents, at least.
        rearm: whether a market starts anew after a fire, with its next print as anchor; else it fires once.

    >>> signal = Rlm(yes_threshold=0.5, min_trades=2, min_drop=3)
    >>> signal.update("A-B-1", 1_000, 5000, 100, "yes")
    >>> signal.update("A-B-1", 2_000, 4700, 100, "yes")
    Fire(row=1, ts=2000, ticker='A-B-1', side='no', price=4700, n_trades=2, yes_ratio=1.0, drop=300, first_price=5000)

    Raises:
        SignalError: a parameter out of range, before any data is read.
    """

    name: Final = "rlm"

    def __init__(
        self,
        yes_threshold: float = 0.70,
        min_trades: int = 25,
        min_drop: float = 5,
        rearm: bool = False,
    ) -> None:
        if isinstance(yes_threshold, bool) or not 0 <= yes_threshold <= 1:
            raise SignalError(self.name, "yes_threshold", yes_threshold, "a share from 0 to 1")
        if isinstance(min_trades, bool) or min_trades != int(min_trades) or not 1 <= min_trades < 2**31:
            raise SignalError(self.name, "min_trades", min_trades, "a whole number from 1")
        try:
            drop = cents(min_drop)
        except UnitError:
            drop = -1
        if not 0 <= drop <= 10_000:
            raise SignalError(self.name, "min_drop", min_drop, "cents from 0 to 100, in hundredths")
        if not isinstance(rearm, bool):
            raise SignalError(self.name, "rearm", rearm, "True or False")
        self.parameters: dict[str, Any] = {
            "yes_threshold": yes_threshold,
            "min_trades": int(min_trades),
            "min_drop": min_drop,
            "rearm": rearm,
        }
        self._rule = (float(yes_threshold), int(min_trades), drop, rearm)
        self._codes: dict[str, int] = {}
        self._state = fresh_state(0)
        self._seen = 0

    def run(self, tape: Frame) -> Frame:
        """All fires over a tape, from fresh state, as a frame of the tape's kind.

        Columns: `row` (position in the tape), `ts`, `ticker`, `side` ("no"), `price` (YES price of the firing
        print), `n_trades`, `yes_ratio`, `drop` and `first_price` (price units), in the order of the tape.

        Raises:
            TapeError: not a tape; `kalshilab.to_tape` makes one.
        """
        frame = as_tape(tape)
        markets = frame["market"].cast(pl.UInt32).to_numpy()
        state = fresh_state(int(markets.max()) + 1 if len(markets) else 0)
        prices = frame["price"].cast(pl.Int16).to_numpy()
        takers = frame["taker"].to_physical().cast(pl.UInt8).to_numpy()
        rows, seen = rlm_run(state, markets, prices, takers, *self._rule)
        return like(_fires(frame, rows, seen), tape)  # type: ignore[no-any-return]

    def update(self, ticker: str, ts: int, price: int, size: int, taker: str) -> Fire | None:
        """Take one live print; a fire if it made one.  `size` does not matter to this signal.

        Raises:
            SignalError: `taker` is neither "yes" nor "no": a print without direction must not be counted.
        """
        if taker != "yes" and taker != "no":
            raise SignalError(self.name, "taker", taker, "yes or no")
        market = self._codes.get(ticker)
        if market is None:
            market = self._codes[ticker] = len(self._codes)
            self._state = grown(self._state, market + 1)
        row = self._seen
        self._seen = row + 1
        if not rlm_step(self._state, market, price, taker == "yes", *self._rule):
            return None
        n, yes, first, last, _ = self._state[market].tolist()
        return Fire(row, ts, ticker, "no", last, n, yes / n, first - last, first)

    def reset(self, ticker: str | None = None) -> None:
        """Forget what was seen of one market, or of all; its next print is a new anchor."""
        if ticker is None:
            self._codes, self._state, self._seen = {}, fresh_state(0), 0
        elif ticker in self._codes:
            self._state[self._codes[ticker]] = 0

    def state(self, ticker: str) -> MarketState | None:
        """The market's live numbers, or None if no print of it was seen since its reset."""
        market = self._codes.get(ticker)
        if market is None:
            return None
        row = self._state[market].tolist()
        return MarketState(row[N], row[YES], row[FIRST], row[LAST]) if row[N] else None

    def __repr__(self) -> str:
        given = ", ".join(f"{k}={v!r}" for k, v in self.parameters.items())
        return f"Rlm({given})"


def _fires(frame: pl.DataFrame, rows: Any, seen: Any) -> pl.DataFrame:
    picked = (
        frame.select("ts", pl.col("ticker").cast(pl.String)).gather(rows)
        if len(rows)
        else frame.select("ts", pl.col("ticker").cast(pl.String)).head(0)
    )
    n, yes, first, last = (seen[:, k] for k in range(4))
    return pl.DataFrame(
        {
            "row": pl.Series(rows, dtype=pl.UInt64),
            "ts": picked["ts"],
            "ticker": picked["ticker"],
            "side": pl.Series(["no"] * len(rows), dtype=TAKER),
            "price": pl.Series(last, dtype=pl.Int16),
            "n_trades": pl.Series(n, dtype=pl.UInt32),
            "yes_ratio": pl.Series(yes / np.maximum(n, 1), dtype=pl.Float64),
            "drop": pl.Series(first - last, dtype=pl.Int16),
            "first_price": pl.Series(first, dtype=pl.Int16),
        }
    )


def rlm(
    tape: Frame,
    *,
    yes_threshold: float = 0.70,
    min_trades: int = 25,
    min_drop: float = 5,
    rearm: bool = False,
) -> Frame:
    """All fires of reverse line movement over a tape; `Rlm(…).run(tape)`.

    >>> import kalshilab as kl
    >>> tape, markets = kl.sample()
    >>> fires = rlm(tape, min_trades=25, min_drop=5)
    >>> fires.columns
    ['row', 'ts', 'ticker', 'side', 'price', 'n_trades', 'yes_ratio', 'drop', 'first_price']
    """
    return Rlm(yes_threshold, min_trades, min_drop, rearm).run(tape)
