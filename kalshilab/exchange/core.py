"""The exchange core: a deterministic state machine without sockets, wall clock or unseeded randomness.

`step` plays the next event of the tape.  The order methods act at the current exchange time.  The hub receives
every message for the public and for the account.  The same tape, seed and calls give the same bytes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Final

import polars as pl

from kalshilab.clock import isoformat
from kalshilab.deprecation import renamed_keywords
from kalshilab.errors import ExchangeError
from kalshilab.exchange.background_flow import BackgroundFlow
from kalshilab.exchange.flows.background_quotes import BackgroundQuotes
from kalshilab.exchange.flows.recorded_books import BookFrame
from kalshilab.exchange.flows.tape_flow import FlowSource, FlowStep, TapeFlow
from kalshilab.exchange.market_lifecycle import MarketLifecycle
from kalshilab.exchange.orders.contract_choices import Choices
from kalshilab.exchange.orders.order_desk import OrderDesk
from kalshilab.exchange.state import serialize
from kalshilab.exchange.state.account import Account
from kalshilab.exchange.state.candles import Candles
from kalshilab.exchange.state.fill_model import FillModel
from kalshilab.exchange.state.listings import Listing, Listings, Top
from kalshilab.exchange.state.order_book import MarketBook, RestingOrder
from kalshilab.exchange.state.shadow_fills import ShadowFills
from kalshilab.exchange.state.trade_log import PRINTS_KEPT, TradeLog
from kalshilab.exchange.stream.hub import Hub
from kalshilab.kalshi.wire import stream as wire
from kalshilab.market.lifecycle import DETERMINED
from kalshilab.market.model import Trade
from kalshilab.units import PRICE, cents, dollars, format_price, format_size

__all__ = ["Exchange"]

DAY: Final = 86_400_000_000
_ID_FREE: Final = ~((0xF000 << 64) | (0xC000 << 48))
"""The bits of an id that are random: all but those of version and variant."""
_ID_FIXED: Final = (0x4000 << 64) | (0x8000 << 48)
"""The bits of version 4, and of the variant of RFC 4122."""
FILLS: Final = FillModel()
CHOICES: Final = Choices()


_LIFECYCLE_STEPS: Final = {
    "open": MarketLifecycle.opened,
    "pause": MarketLifecycle.paused,
    "resume": MarketLifecycle.resumed,
    "close": MarketLifecycle.closed,
    "determine": MarketLifecycle.determined,
    "settle": MarketLifecycle.settled,
}
"""The handler of each lifecycle step of the flow."""
_BOOK_STEPS: Final = {
    "book": BackgroundFlow.book,
    "level": BackgroundFlow.level,
    "blind": BackgroundFlow.blind,
}
"""The handler of each book step of the flow."""


class Exchange:
    """A local exchange that plays a tape.

    Args:
        tape: the public trades to play; see `kalshilab.tape`.
        markets: the markets of the tape.
        flow: played instead of a tape: a `Synthetic`, a `Mirror`, or any other flow.
        frames: recorded books that go with the tape; see `kalshilab.exchange.flows.recorded_books`.
        fills: the fill model; see `kalshilab.exchange.state.fill_model`.
        seed: seed of the order ids and of every other random draw.
        balance_money_units: initial cash of the one account, in money units (1/1,000,000 dollar).
        spread_price_units: initial spread between the background's best bid and ask, in price units (1/10,000
            dollar).
        depth: background levels on each side.
        echo_trades: whether the account's fills are also published as public trades, as on the real exchange.
            Set it to False for a session that must see exactly the recorded prints.
        settle_after_us: microseconds from determination to settlement where the table gives no settlement
            time.
        archive_after_us: microseconds after which prints and settled markets move from the live listings to
            the historical ones; see `cutoff`.
        prints_kept: public prints remembered, live and historical together; the oldest are forgotten first.
        choices: answers to the questions that the exchange's documents leave open; see
            `kalshilab.exchange.orders.contract_choices`.
        form: "2026-01" for the messages and bodies of January 2026; see
            `kalshilab.exchange.stream.format_2026_01`.
        archives: whether prints and candles are kept for the REST listings.

    >>> import kalshilab as kl
    >>> ex = Exchange(*kl.sample(), seed=0)
    >>> ex.step(), len(ex.listings)
    (True, 1)

    Raises:
        TapeError: `tape` is not a tape, or `markets` is not a markets table.
        ExchangeError: an argument is out of range, or the tape cannot be played.
    """

    @renamed_keywords(
        balance="balance_money_units",
        spread="spread_price_units",
        settle_after="settle_after_us",
        archive_after="archive_after_us",
    )
    def __init__(
        self,
        tape: pl.DataFrame | None = None,
        markets: pl.DataFrame | None = None,
        *,
        flow: FlowSource | None = None,
        frames: Iterable[BookFrame] = (),
        fills: FillModel = FILLS,
        seed: int = 0,
        balance_money_units: int = dollars(10_000),
        spread_price_units: int = cents(2),
        depth: int = 2,
        echo_trades: bool = True,
        settle_after_us: int = 3_600_000_000,
        archive_after_us: int = 60 * DAY,
        prints_kept: int = PRINTS_KEPT,
        choices: Choices = CHOICES,
        form: str = "",
        archives: bool = True,
    ) -> None:
        if archive_after_us < 0:
            raise ExchangeError(f"archive_after_us must be >= 0, got {archive_after_us}")
        for name, value in (
            ("balance_money_units", balance_money_units),
            ("spread_price_units", spread_price_units),
            ("depth", depth),
        ):
            if value < 1:
                raise ExchangeError(f"{name} must be >= 1, got {value}")
        if flow is None:
            if tape is None or markets is None:
                raise ExchangeError("tape and markets must be given together, or flow instead of them")
            flow = TapeFlow(tape, markets, settle_after_us=settle_after_us, frames=frames)
        elif tape is not None or markets is not None:
            raise ExchangeError("tape and flow exclude each other; pass only one of them")
        self.flow: Final = flow
        self.fills: Final = fills
        self.shadows: Final = ShadowFills(fills.mode)
        self.now = (self.flow.next_ts or 0) - 1
        self.prints_played = 0
        self.listings = Listings()
        self.account = Account(balance_money_units)
        self.hub = Hub(self, form)
        self._random = random.Random(seed)
        self.user_id = self.new_id()
        self.choices = choices
        self.desk: Final = OrderDesk(self)
        self.life: Final = MarketLifecycle(self, settle_after_us)
        self.echo_trades = echo_trades
        self.exchange_active = self.trading_active = True
        self._spread, self._depth = spread_price_units, depth
        self._background = BackgroundFlow(self)
        self._printing = False
        self._archives = archives
        self.on_print: Callable[[Trade], None] | None = None
        """Called with every public print; for a simulation in the same process."""
        self._pending: dict[int, Listing] = {}
        self.prints: Final = TradeLog(prints_kept)
        self.candles: Final = Candles()
        self._archive_after_us = archive_after_us

    def new_id(self) -> str:
        """Return a new id in the exchange's format."""
        # As `uuid.UUID(int=…, version=4)` writes it, in a third of the time.
        bits = self._random.getrandbits(128) & _ID_FREE | _ID_FIXED
        text = f"{bits:032x}"
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"

    # The flow

    def next_ts(self) -> int | None:
        """Return the exchange time of the next flow step or timer, in microseconds; None at the end."""
        flow, timer = self.flow.next_ts, self.life.next_ts
        if flow is None or timer is None:
            return timer if flow is None else flow
        return min(flow, timer)

    def step(self) -> bool:
        """Play the next step; return False at the end."""
        timer, flow = self.life.next_ts, self.flow.next_ts
        if timer is not None and (flow is None or timer <= flow):
            self.now = max(self.now, timer)
            self.desk.expire()
            self.life.run_timer()
        else:
            step = self.flow.take()
            if step is None:
                return False
            self.now = max(self.now, step.ts)
            self.desk.expire()
            self._play(step)
        self.desk.settle_groups()
        return True

    def advance(self, ts: int) -> None:
        """Advance exchange time to `ts`, in microseconds, and play everything due until then (inclusive).

        Raises:
            ExchangeError: `ts` is in the past.
        """
        if ts < self.now:
            raise ExchangeError(f"ts must be >= the exchange time {self.now}, got {ts}")
        while (due := self.next_ts()) is not None and due <= ts:
            self.step()
        self.now = ts
        self.desk.expire()
        self.desk.settle_groups()

    def _play(self, step: FlowStep) -> None:
        kind = step.kind
        if kind == "create":
            facts = self.flow.facts[step.market]
            quotes = BackgroundQuotes(facts.grid, self._spread, self._depth)
            book = MarketBook(self.fills, self.shadows, mirrored=facts.mirrored)
            listing = self._pending[step.market] = Listing(facts, quotes, book)
            self.life.created(listing)
            return
        if kind == "retire":
            ticker = self.flow.facts[step.market].ticker
            self.listings.retire(ticker)
            self.candles.forget(ticker)
            return
        if kind == "time":
            return
        listing = self._pending[step.market]
        if kind in _LIFECYCLE_STEPS:
            _LIFECYCLE_STEPS[kind](self.life, listing)
            if kind == "settle":
                del self._pending[step.market]
        elif kind == "print":
            # Nothing trades in a market that the operator has closed, or while trading is paused.
            if listing.status == "active" and self.trading_active:
                self._printing = True
                self._background.print(listing, step)
                self._quotes_changed(listing)
                self._printing = False
        elif listing.status in ("initialized", "active", "inactive"):
            _BOOK_STEPS[kind](self._background, listing, step)
            self._quotes_changed(listing)

    # Publishing

    def displayed(self, listing: Listing) -> tuple[dict[int, int], dict[int, int]] | None:
        """Return both sides of the displayed book for `publish_changes`; None without a subscriber."""
        return self._background.displayed(listing)

    def publish_changes(
        self,
        listing: Listing,
        before: tuple[dict[int, int], dict[int, int]] | None,
        cause: RestingOrder | None = None,
    ) -> None:
        """Publish the difference between the displayed book `before` and now, one message a level."""
        self._background.publish_changes(listing, before, cause)
        self._quotes_changed(listing)

    def _quotes_changed(self, listing: Listing) -> None:
        """Record a possible change of the best quotes and publish the ticker if they changed."""
        if not self._archives and (self._printing or not self.hub.wanted("ticker", listing.facts.ticker)):
            return
        book, ticker = listing.book, listing.facts.ticker
        bid, ask = book.best_bid(), book.best_ask()
        if self._archives:
            self.candles.quoted(ticker, self.now, bid, ask)
        # The book is adjusted just before a print; one ticker message after the print covers both.
        if self._printing or not self.hub.wanted("ticker", ticker):
            return
        top = _top(listing, bid, ask)
        if listing.last_top != top:
            self._publish_ticker(listing, top)

    def shadow_fills(self) -> pl.DataFrame:
        """Return every order that rested with its fills under each fill model: `ShadowFills.frame`."""
        return self.shadows.frame()

    def publish_trade(self, listing: Listing, price: int, size: int, taker: str, trade_id: str) -> None:
        """Publish a public print and the ticker message that follows from it."""
        listing.last_price, listing.last_size = price, size
        listing.volume += size
        ticker = listing.facts.ticker
        trade = Trade(self.now, ticker, price, size, taker, trade_id)
        if self.on_print is not None:
            self.on_print(trade)
        if self._archives:
            self.prints.append(trade)
            self.candles.printed(ticker, self.now, price, size)
        if self.hub.wanted("trade", ticker):
            self.hub.publish(
                "trade",
                b"trade",
                ticker,
                wire.TradeMessage(
                    trade_id=trade_id,
                    market_ticker=ticker,
                    yes_price_dollars=format_price(price),
                    no_price_dollars=format_price(PRICE - price),
                    count_fp=format_size(size),
                    taker_side=taker,
                    taker_outcome_side=taker,
                    taker_book_side="bid" if taker == "yes" else "ask",
                    ts=self.now // 1_000_000,
                    ts_ms=self.now // 1000,
                    ts_us=self.now,
                ),
            )
        if self.hub.wanted("ticker", ticker):
            book = listing.book
            self._publish_ticker(listing, _top(listing, book.best_bid(), book.best_ask()))

    def _publish_ticker(self, listing: Listing, top: Top) -> None:
        listing.last_top = top
        self.hub.publish("ticker", b"ticker", listing.facts.ticker, self._ticker(listing, top))

    def publish_position(self, ticker: str) -> None:
        """Publish the account's position in a market."""
        holding = self.account.holding(ticker)
        volume = self.account.volume.get(ticker, 0)
        body = serialize.position_message(ticker, holding, volume, self.user_id)
        self.hub.publish("market_positions", b"market_position", ticker, body)

    # Queries of the hub

    def now_ms(self) -> int:
        """Return exchange time in milliseconds."""
        return self.now // 1000

    def snapshot(self, ticker: str) -> wire.OrderbookSnapshot | None:
        """Return the snapshot that opens the `orderbook_delta` channel; None for an unlisted market."""
        listing = self.listings.get(ticker)
        if listing is None:
            return None
        shown = serialize.book(listing)
        return wire.OrderbookSnapshot(
            market_ticker=ticker,
            market_id=serialize.market_id(ticker),
            clock=listing.clock,
            yes_dollars_fp=shown.yes_dollars,
            no_dollars_fp=shown.no_dollars,
        )

    def ticker_named(self, market_id: str) -> str | None:
        """Return the ticker of the listed market with this id; None if there is no such market."""
        return next(
            (x.facts.ticker for x in self.listings if serialize.market_id(x.facts.ticker) == market_id), None
        )

    def ticker_body(self, ticker: str) -> wire.TickerMessage | None:
        """Return the ticker message of a listed market; None for an unlisted one."""
        listing = self.listings.get(ticker)
        if listing is None:
            return None
        book = listing.book
        return self._ticker(listing, _top(listing, book.best_bid(), book.best_ask()))

    def _ticker(self, listing: Listing, top: Top) -> wire.TickerMessage:
        ticker = listing.facts.ticker
        bid, bid_size, ask, ask_size = top
        return wire.TickerMessage(
            market_ticker=ticker,
            market_id=serialize.market_id(ticker),
            price_dollars=format_price(listing.last_price),
            yes_bid_dollars=format_price(bid or 0),
            yes_ask_dollars=format_price(PRICE if ask is None else ask),
            yes_bid_size_fp=format_size(bid_size),
            yes_ask_size_fp=format_size(ask_size),
            last_trade_size_fp=format_size(listing.last_size),
            volume_fp=format_size(listing.volume),
            open_interest_fp=format_size(listing.volume // 2),
            dollar_volume=listing.volume // 100,
            dollar_open_interest=listing.volume // 200,
            ts=self.now // 1_000_000,
            ts_ms=self.now // 1000,
            time=isoformat(self.now),
        )

    @property
    def cutoff(self) -> int:
        """Start of the live listings in microseconds: a UTC midnight, `archive_after_us` to one day more ago.

        Prints before it, and markets settled before it, are only in the historical listings.
        """
        return max((self.now - self._archive_after_us) // DAY * DAY, 0)

    def archived(self, listing: Listing) -> bool:
        """Return whether a market has left the live listings."""
        return listing.status == "finalized" and listing.facts.settled < self.cutoff

    def marks(self) -> dict[str, int]:
        """Return the YES price of each listed market: its settlement once determined, else the last print."""
        return {
            x.facts.ticker: x.facts.settlement if x.status in DETERMINED else x.last_price
            for x in self.listings
        }

    def __repr__(self) -> str:
        return f"Exchange({len(self.listings)} markets listed, {self.prints_played:,} of {self.flow.prints:,} prints)"


def _top(listing: Listing, bid: int | None, ask: int | None) -> Top:
    """Return the best quotes and their sizes."""
    size_at = listing.book.size_at
    return (
        bid,
        0 if bid is None else size_at("bid", bid),
        ask,
        0 if ask is None else size_at("ask", ask),
    )
