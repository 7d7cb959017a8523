"""A policy of one's own in Python, such as a trained model: it is shown each print and says hold, buy or sell.

    class Momentum:
        def act(self, seen):                      # an Observation
            return "buy" if seen.change > 300 else "hold"

    kl.signals.RlModel("my_module:Momentum").run(tape)

A policy is an object with `act(observation)`, a class that makes one, or a plain function; it is given as such,
or as "module:name" where it must come from settings.  "buy" buys YES, "sell" buys NO; anything but "hold",
"buy" and "sell" is an error.  If it has `reset(ticker)`, that is called with a market's ticker when the market
is forgotten, and with None when all are, so before each run over a tape as well.

It is called for every print, in Python: some hundred thousand prints a second at best.  A rule that can be
written in a dozen lines is a thousand times faster as a `kalshilab.signal`.  Because it may remember what it likes
across markets, it is shown all prints in their order, by one process: `scan` and `grid` take it, and leave
their executor alone.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Literal, Protocol, runtime_checkable

import msgspec
import polars as pl

from kalshilab.errors import SignalError
from kalshilab.signals.engine.compiled_signal import out_of_range, wholes
from kalshilab.signals.engine.model import Fire, Frame, like
from kalshilab.tape.lake.opening import tape_of
from kalshilab.tape.schema import TAKER, TIME
from kalshilab.tape.tape import COLUMNS, Tape
from kalshilab.units import PRICE

__all__ = ["Action", "Observation", "Policy", "RlModel", "RlModelFire", "load_object", "rl_model"]

Action = Literal["hold", "buy", "sell"]
NO_POLICY = 'no policy is given: set policy="module:name" (KALSHILAB_POLICY); until then it holds'


class Observation(msgspec.Struct, frozen=True):
    """What a policy is shown: one market as of one print, inclusive.  Nothing here is later than the print.

    Prices are YES prices in 1/10,000 dollar, sizes in 1/100 contract, times in microseconds.
    """

    ticker: str
    ts: int
    price: int
    size: int
    taker: str
    """"yes" or "no", the outcome the taker bought."""
    n_trades: int
    """Prints of the market so far, this one included; so for all that follows."""
    yes_ratio: float
    """Share of prints whose taker bought YES."""
    first_price: int
    low: int
    high: int
    change: int
    """`price` less `first_price`."""
    volume: int
    """Size of all prints."""
    since_last: int
    """Microseconds since the market's print before; 0 at its first."""


@runtime_checkable
class Policy(Protocol):
    """Decides at each print."""

    def act(self, observation: Observation, /) -> Action:
        """What to do as of this print."""
        ...


class RlModelFire(Fire, frozen=True):
    """The policy said buy or sell: the share of YES takers and the first price at that moment."""

    yes_ratio: float
    first_price: int


class _Market:
    """What an observation is made of."""

    __slots__ = ("first", "high", "last_ts", "low", "n", "volume", "yes")

    def __init__(self, ts: int, price: int) -> None:
        self.n = self.yes = self.volume = 0
        self.first = self.low = self.high = price
        self.last_ts = ts


class RlModel:
    """The signal of a policy.

    Args:
        policy: "module:name", or the policy itself; None: it holds, and `why` says so.

    >>> cautious = RlModel(lambda seen: "sell" if seen.n_trades >= 2 else "hold")
    >>> cautious.update("A-B-1", 1, 5000, 100, "yes")
    >>> cautious.update("A-B-1", 2, 5100, 100, "yes").side
    'no'
    >>> RlModel().why
    'no policy is given: set policy="module:name" (KALSHILAB_POLICY); until then it holds'

    Raises:
        SignalError: the policy cannot be imported, or is none.
    """

    name = "rl_model"

    def __init__(self, policy: Any = None) -> None:
        self.parameters: dict[str, Any] = {"policy": policy}
        found = load_object(self.name, "policy", policy) if isinstance(policy, str) else policy
        if isinstance(found, type):
            found = found()
        self._policy = found
        self._act: Callable[[Observation], Any] | None = None
        if isinstance(found, Policy):
            self._act = found.act
        elif callable(found):
            self._act = found
        elif found is not None:
            raise SignalError(self.name, "policy", policy, "an object with act(observation), or a function")
        self._markets: dict[str, _Market] = {}
        self._count = 0

    @property
    def why(self) -> str:
        """Why it does nothing but hold, in a sentence; "" if it has a policy."""
        return NO_POLICY if self._act is None else ""

    def update(self, ticker: str, ts: int, price: int, size: int, taker: str) -> RlModelFire | None:
        """Take one print (our units, `ts` in microseconds); a fire if the policy says buy or sell.

        Raises:
            SignalError: `taker` is neither "yes" nor "no", a number is not whole or out of range, or the policy
                says something else.
        """
        if taker not in ("yes", "no"):
            raise SignalError(self.name, "taker", taker, "yes or no")
        ts, price, size = wholes(self.name, ts=ts, price=price, size=size)
        if not 0 <= price <= PRICE or size < 0:
            raise out_of_range(self.name, price, size)
        row = self._count
        self._count = row + 1
        m = self._markets.get(ticker)
        if m is None:
            m = self._markets[ticker] = _Market(ts, price)
        m.n += 1
        m.yes += taker == "yes"
        m.volume += size
        m.low, m.high = min(m.low, price), max(m.high, price)
        since, m.last_ts = ts - m.last_ts, ts
        if self._act is None:
            return None
        action = self._act(
            Observation(
                ticker, ts, price, size, taker, m.n, m.yes / m.n, m.first, m.low, m.high, price - m.first,
                m.volume, since,
            )
        )  # fmt: skip
        if action == "hold":
            return None
        if action not in ("buy", "sell"):
            raise SignalError(self.name, "policy's answer", action, "hold, buy or sell")
        side = "yes" if action == "buy" else "no"
        return RlModelFire(row, ts, ticker, side, price, m.n, m.yes / m.n, m.first)

    def run(self, tape: Frame) -> Frame:
        """All fires over a tape, from fresh state, as a frame of the tape's kind; live state is not touched,
        but the policy, if it has a state of its own, is reset before and after.  A lake is read piece by piece,
        and a polars frame comes back.  Without a policy there are no fires, and a warning says why.

        Raises:
            TapeError: not a tape.
            LakeError: the lake is damaged.
            SignalError: the policy's answer is none.
        """
        return like(self.fires(tape_of(tape)), tape)

    def fires(self, tape: Tape) -> pl.DataFrame:
        """Return all fires over an opened tape, as `run` does, as a polars frame."""
        if self._act is None:
            warnings.warn(f"rl_model: {NO_POLICY}", stacklevel=3)
        fresh = type(self)(self._policy)
        fresh.reset()
        fires = [fire for row in _rows(tape) if (fire := fresh.update(*row)) is not None]
        fresh.reset()
        schema: dict[str, Any] = {
            "row": pl.UInt64, "ts": pl.Int64, "ticker": pl.String, "side": TAKER, "price": pl.Int16,
            "n_trades": pl.UInt32, "yes_ratio": pl.Float64, "first_price": pl.Int16,
        }  # fmt: skip
        found = pl.DataFrame([msgspec.structs.astuple(f) for f in fires], schema=schema, orient="row")
        times = pl.col("ts").cast(pl.Datetime("us")).dt.replace_time_zone("UTC").cast(TIME)
        return found.with_columns(times)

    def reset(self, ticker: str | None = None) -> None:
        """Forget what was seen of one market, or of all; the policy is told if it has `reset`."""
        if ticker is None:
            self._markets, self._count = {}, 0
        else:
            self._markets.pop(ticker, None)
        told = getattr(self._policy, "reset", None)
        if told is not None:
            told(ticker)

    def state(self, ticker: str) -> tuple[int, float] | None:
        """Prints so far and the share of YES takers, or None if no print of the market was seen."""
        m = self._markets.get(ticker)
        return None if m is None else (m.n, m.yes / m.n)

    def __repr__(self) -> str:
        return f"RlModel(policy={self.parameters['policy']!r})"


def _rows(tape: Tape) -> Iterator[tuple[Any, ...]]:
    """Yield the prints of a tape as the arguments of `update`."""
    tickers = tape.tickers.cast(pl.String)
    for batch in tape.batches(("market", *COLUMNS)):
        plain = batch.frame.with_columns(tickers.gather(batch.frame["market"]).alias("ticker"))
        plain = plain.with_columns(pl.col("ts").dt.epoch("us"), pl.col("ticker", "taker").cast(pl.String))
        yield from plain.select("ticker", "ts", "price", "size", "taker").iter_rows()


def rl_model(tape: Frame, *, policy: Any = None) -> Frame:
    """All fires of a policy over a tape; `RlModel(policy).run(tape)`.

    Parameters and errors are those of `RlModel` and its `run`.

    >>> import kalshilab as kl
    >>> fires = rl_model(kl.sample()[0], policy=lambda seen: "sell" if seen.n_trades == 25 else "hold")
    >>> fires.columns[-2:], set(fires["side"])
    (['yes_ratio', 'first_price'], {'no'})
    """
    return RlModel(policy).run(tape)


def load_object(signal: str, name: str, text: str) -> Any:
    """The object that "module:name" stands for.

    >>> load_object("rl_model", "policy", "math:sqrt")(4.0)
    2.0

    Raises:
        SignalError: the text is not of that form, there is no such module, or no such name in it.
    """
    module, colon, attribute = text.partition(":")
    if not (module and colon and attribute):
        raise SignalError(signal, name, text, '"module:name"')
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except ImportError as error:
        raise SignalError(signal, name, text, f"a module that can be imported ({error})") from None
    except AttributeError as error:
        raise SignalError(signal, name, text, f"a name in that module ({error})") from None
    return found
