"""Custom policies in Python, such as trained models: a policy observes each print and returns hold, buy or sell.

    class Momentum:
        def act(self, seen):                      # an Observation
            return "buy" if seen.change > 300 else "hold"

    kl.signals.RlModel("my_module:Momentum").run(tape)

A policy is an object with `act(observation)`, a class of such objects, or a plain function.  It is passed itself, or as
"module:name" where it comes from settings.  "buy" buys YES, "sell" buys NO; anything but "hold", "buy" and "sell" is an
error.  If the policy has `reset(ticker)`, it is called with a market's ticker when the state of the market is cleared,
and with None when all states are, which includes the start of each run over a tape.

A policy is called for every print, in Python: a few hundred thousand prints a second at best.  A rule of a dozen lines
is a thousand times faster as a `kalshilab.signal`.  Because a policy may keep state across markets, it gets all prints
in their order in one process: `scan` and `grid` accept it and ignore their executor.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Literal, Protocol, runtime_checkable

import msgspec
import polars as pl

from kalshilab.errors import SignalError
from kalshilab.signals.engine.compiled_signal import SIDE, out_of_range, wholes
from kalshilab.signals.engine.model import Dtypes, Fire, Frame, Parameters, like
from kalshilab.tape.lake.opening import tape_of
from kalshilab.tape.schema import TAKER, TIME
from kalshilab.tape.tape import COLUMNS, Tape
from kalshilab.units import PRICE

__all__ = ["Action", "Observation", "Policy", "RlModel", "RlModelFire", "load_object", "rl_model"]

Action = Literal["hold", "buy", "sell"]
NO_POLICY = 'no policy is set: set policy="module:name" (KALSHILAB_POLICY); until then it holds'


class Observation(msgspec.Struct, frozen=True):
    """One market as of one print, inclusive; it holds no data later than the print.

    Prices are YES prices in 1/10,000 dollar, sizes in 1/100 contract, times in microseconds.
    """

    ticker: str
    ts: int
    price: int
    size: int
    taker: str
    """The outcome that the taker bought, "yes" or "no"."""
    n_trades: int
    """Prints of the market so far; this field and those below include the current print."""
    yes_ratio: float
    """Share of prints whose taker bought YES."""
    first_price: int
    low: int
    high: int
    change: int
    """`price` minus `first_price`."""
    volume: int
    """Total size of the prints."""
    since_last: int
    """Microseconds since the market's previous print; 0 at its first."""


@runtime_checkable
class Policy(Protocol):
    """An object that decides at each print."""

    def act(self, observation: Observation, /) -> Action:
        """Return the action as of this print."""
        ...


class RlModelFire(Fire, frozen=True):
    """A fire of a policy: the share of YES takers and the first YES price as of the print."""

    yes_ratio: float
    first_price: int


class _Market:
    """Running totals of a market, from which observations are made."""

    __slots__ = ("first", "high", "last_ts", "low", "n", "volume", "yes")

    def __init__(self, ts: int, price: int) -> None:
        self.n = self.yes = self.volume = 0
        self.first = self.low = self.high = price
        self.last_ts = ts


class RlModel:
    """The signal of a policy.

    Args:
        policy: the policy, or its "module:name"; None: the signal never fires, and `why` gives the reason.

    >>> cautious = RlModel(lambda seen: "sell" if seen.n_trades >= 2 else "hold")
    >>> cautious.update("A-B-1", 1, 5000, 100, "yes")
    >>> cautious.update("A-B-1", 2, 5100, 100, "yes").side
    'no'
    >>> RlModel().why
    'no policy is set: set policy="module:name" (KALSHILAB_POLICY); until then it holds'

    Raises:
        SignalError: the policy cannot be imported, or is not a policy.
    """

    name = "rl_model"

    def __init__(self, policy: object = None) -> None:
        self.parameters: Parameters = {"policy": policy}
        loaded = load_object(self.name, "policy", policy) if isinstance(policy, str) else policy
        if isinstance(loaded, type):
            loaded = loaded()
        self._policy: object = loaded
        self._act: Callable[[Observation], object] | None = None
        if isinstance(loaded, Policy):
            self._act = loaded.act
        elif callable(loaded):
            self._act = loaded
        elif loaded is not None:
            raise SignalError(self.name, "policy", policy, "an object with act(observation), or a function")
        self._markets: dict[str, _Market] = {}
        self._count = 0

    @property
    def why(self) -> str:
        """The reason why it only holds, as a sentence; empty if it has a policy."""
        return NO_POLICY if self._act is None else ""

    def update(self, ticker: str, ts: int, price: int, size: int, taker: str) -> RlModelFire | None:
        """Process one print and return a fire if the policy returns buy or sell, else None.

        Args:
            ticker: the market.
            ts: exchange time in microseconds.
            price: YES price in 1/10,000 dollar.
            size: size in 1/100 contract.
            taker: the outcome that the taker bought, "yes" or "no".

        Raises:
            SignalError: `taker` is neither "yes" nor "no", a number is not whole or out of range, or the policy
                returns something else.
        """
        if taker not in ("yes", "no"):
            raise SignalError(self.name, "taker", taker, SIDE)
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
            raise SignalError(self.name, "the policy's answer", action, "hold, buy or sell")
        side = "yes" if action == "buy" else "no"
        return RlModelFire(row, ts, ticker, side, price, m.n, m.yes / m.n, m.first)

    def run(self, tape: Frame) -> Frame:
        """Return all fires over a tape, from fresh state, as a frame of the tape's kind.

        Live state is not touched, but a policy with `reset` is reset before and after the run.  A lake is read piece by
        piece and returns a polars frame.  Without a policy there are no fires, and a warning gives the reason.

        Raises:
            TapeError: `tape` is not a tape.
            LakeError: the lake is damaged.
            SignalError: the policy returns neither hold, buy nor sell.
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
        schema: Dtypes = {
            "row": pl.UInt64, "ts": pl.Int64, "ticker": pl.String, "side": TAKER, "price": pl.Int16,
            "n_trades": pl.UInt32, "yes_ratio": pl.Float64, "first_price": pl.Int16,
        }  # fmt: skip
        frame = pl.DataFrame([msgspec.structs.astuple(f) for f in fires], schema=schema, orient="row")
        times = pl.col("ts").cast(pl.Datetime("us")).dt.replace_time_zone("UTC").cast(TIME)
        return frame.with_columns(times)

    def reset(self, ticker: str | None = None) -> None:
        """Clear the state of one market, or of all, and call the policy's `reset` if it has one."""
        if ticker is None:
            self._markets, self._count = {}, 0
        else:
            self._markets.pop(ticker, None)
        reset_policy = getattr(self._policy, "reset", None)
        if reset_policy is not None:
            reset_policy(ticker)

    def state(self, ticker: str) -> tuple[int, float] | None:
        """Return the prints so far and the share of YES takers, or `None` without a print."""
        m = self._markets.get(ticker)
        return None if m is None else (m.n, m.yes / m.n)

    def __repr__(self) -> str:
        return f"RlModel(policy={self.parameters['policy']!r})"


def _rows(tape: Tape) -> Iterator[tuple[str, int, int, int, str]]:
    """Yield the prints of a tape as the arguments of `update`."""
    tickers = tape.tickers.cast(pl.String)
    for batch in tape.batches(("market", *COLUMNS)):
        plain = batch.frame.with_columns(tickers.gather(batch.frame["market"]).alias("ticker"))
        plain = plain.with_columns(pl.col("ts").dt.epoch("us"), pl.col("ticker", "taker").cast(pl.String))
        yield from plain.select("ticker", "ts", "price", "size", "taker").iter_rows()


def rl_model(tape: Frame, *, policy: object = None) -> Frame:
    """Return all fires of a policy over a tape: `RlModel(policy).run(tape)`.

    Parameters and errors are those of `RlModel` and its `run`.

    >>> import kalshilab as kl
    >>> fires = rl_model(kl.sample()[0], policy=lambda seen: "sell" if seen.n_trades == 25 else "hold")
    >>> fires.columns[-2:], set(fires["side"])
    (['yes_ratio', 'first_price'], {'no'})
    """
    return RlModel(policy).run(tape)


def load_object(signal: str, name: str, text: str) -> Any:
    """Import the object that "module:name" refers to.

    >>> load_object("rl_model", "policy", "math:sqrt")(4.0)
    2.0

    Raises:
        SignalError: the text does not have that form, or the module or the name in it does not exist.
    """
    module, colon, attribute = text.partition(":")
    if not (module and colon and attribute):
        raise SignalError(signal, name, text, "of the form 'module:name'")
    try:
        loaded: object = importlib.import_module(module)
        for part in attribute.split("."):
            loaded = getattr(loaded, part)
    except ImportError as error:
        raise SignalError(signal, name, text, f"a module that can be imported ({error})") from None
    except AttributeError as error:
        raise SignalError(signal, name, text, f"a name in that module ({error})") from None
    return loaded
