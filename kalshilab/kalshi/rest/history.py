"""Historical records over REST: where the archive begins, and pages of trades as columns.

The exchange keeps records younger than a *cutoff* in the live listings and older ones in the historical listings.  One
object per trade is slow for millions of trades, and impossible for the few trades that name no taker.  A page is
therefore also available as **columns**: plain lists of the exchange's texts, newest first, from which a frame is built
at once (`kalshilab.tape.ingest.trade_pages`).  Nothing is parsed, and nothing is dropped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from kalshilab.errors import ProtocolError
from kalshilab.kalshi.wire import rest as wire
from kalshilab.kalshi.wire.base import UNREADABLE
from kalshilab.lazy import renamed

__all__ = ["Columns", "HistoricalCutoff", "RawTradePage"]

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__)

Columns = dict[str, list[str | None]]
"""A page of trades as lists of equal length: `created_time`, `ticker`, `yes_price_dollars`, `count_fp`,
`taker_outcome_side`, `trade_id`; an unknown taker is a null (None)."""


class HistoricalCutoff(msgspec.Struct, frozen=True):
    """Start of the archive, in microseconds: only it has older trades, settled markets and finished orders."""

    trades: int
    markets: int
    orders: int

    @classmethod
    def of(cls, body: wire.CutoffBody) -> HistoricalCutoff:
        """Return the cutoff of the exchange's answer."""
        return cls(
            wire.instant(body.trades_created_ts),
            wire.instant(body.market_settled_ts),
            wire.instant(body.orders_updated_ts),
        )


class _RawTrade(msgspec.Struct, gc=False):
    """The fields of a trade that a tape keeps; the others are skipped without decoding."""

    trade_id: str
    ticker: str
    count_fp: str
    yes_price_dollars: str
    created_time: str
    taker_outcome_side: str | None = None
    taker_side: str | None = None


class RawTradePage(msgspec.Struct, gc=False):
    """A page of trades whose fields stay texts.

    >>> page = RawTradePage.decode(b'''{"cursor": "", "trades": [{"trade_id": "t", "ticker": "A-B-1",
    ...     "count_fp": "7.50", "yes_price_dollars": "0.4300", "no_price_dollars": "0.5700",
    ...     "taker_side": "yes", "created_time": "2026-11-22T14:03:11.609997Z"}]}''')
    >>> page.columns()["taker_outcome_side"], page.columns()["count_fp"]
    (['yes'], ['7.50'])
    """

    trades: list[_RawTrade]
    cursor: str = ""

    @classmethod
    def decode(cls, body: bytes) -> RawTradePage:
        """Decode the JSON of an answer.

        Raises:
            ProtocolError: the answer is not a page of trades.
        """
        try:
            return _PAGE.decode(body)
        except UNREADABLE as error:
            raise ProtocolError(f"invalid page of trades: {error}", body) from None

    def columns(self) -> Columns:
        """Return the page as columns, newest first.

        `taker_outcome_side` falls back to `taker_side`, the field's older name.
        """
        rows = self.trades
        return {
            "created_time": [t.created_time for t in rows],
            "ticker": [t.ticker for t in rows],
            "yes_price_dollars": [t.yes_price_dollars for t in rows],
            "count_fp": [t.count_fp for t in rows],
            "taker_outcome_side": [t.taker_outcome_side or t.taker_side for t in rows],
            "trade_id": [t.trade_id for t in rows],
        }


_PAGE: Final = msgspec.json.Decoder(RawTradePage)
