"""Request checks of the exchange: the one place for the status, code and details of each refusal.

A body is checked in three steps, as on the exchange: JSON of the right types (otherwise the flat
`bad_request`, left to the caller), every required field present (otherwise `invalid_order`), then values that
are valid together.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, TypeVar

import msgspec

from kalshilab.errors import UnitError
from kalshilab.exchange.orders.contract_choices import Refusal
from kalshilab.exchange.state.listings import Listing
from kalshilab.kalshi.wire import rest as wire
from kalshilab.market.lifecycle import ORDERABLE
from kalshilab.units import PRICE, SIZE, parse_price, parse_size

__all__ = [
    "PREVENTIONS", "SIDES", "TIMES_IN_FORCE", "Refused", "account_number", "client_id", "expiry", "group_limit", "orderable",
    "price_of", "read", "shard", "size_of", "words",
]  # fmt: skip

T = TypeVar("T", bound=msgspec.Struct)
SIDES: Final = ("bid", "ask")
TIMES_IN_FORCE: Final = ("good_till_canceled", "immediate_or_cancel", "fill_or_kill")
PREVENTIONS: Final = ("taker_at_cross", "maker")
MOST_DIGITS: Final = 40
"""Longer numbers are refused unread: no valid price or size has as many digits."""
LAST_SECOND: Final = 253_402_300_799
"""The end of the year 9999, the latest expiration that can be written."""
MOST_SIZE: Final = 10**15
"""The largest order in size units; it keeps sums within the range of JSON readers."""
SHARDS: Final = (None, 0, -1)
"""Shard numbers that mean this exchange, which has one shard."""


class Refused(Exception):
    """An error response of the exchange: HTTP status, code, message and details."""

    def __init__(self, status: int, code: str, details: str = "", message: str = "") -> None:
        self.status, self.code, self.details, self.message = status, code, details, message or code
        super().__init__(f"{status} {code} {details}")


def read(body: bytes | msgspec.Raw, kind: type[T]) -> T:
    """Decode a request's body.

    >>> read(b'{"reduce_by":"1.00"}', wire.DecreaseOrder).reduce_by
    '1.00'

    Raises:
        Refused: a required field is missing.
        msgspec.DecodeError: not JSON, or a field of another type.
        RecursionError: the JSON is nested too deeply.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError:
        # A field of the wrong type is reported before a missing one.
        present = msgspec.json.decode(body, type=_with_nothing_required(kind))
        for field in msgspec.structs.fields(kind):
            if field.required and getattr(present, field.name) is msgspec.UNSET:
                raise Refused(400, "invalid_order", f"{field.encode_name} is required") from None
        raise


@lru_cache(maxsize=64)
def _with_nothing_required(kind: type[msgspec.Struct]) -> type[msgspec.Struct]:
    return msgspec.defstruct(
        kind.__name__,
        [(f.name, f.type | msgspec.UnsetType, msgspec.UNSET) for f in msgspec.structs.fields(kind)],
    )


def _digits(what: str, text: str) -> str:
    if len(text) > MOST_DIGITS:
        raise UnitError(what, text[:MOST_DIGITS], f"a number of at most {MOST_DIGITS} digits")
    return text


def price_of(text: str, listing: Listing) -> int:
    """Parse a YES price on a market's grid.

    Raises:
        Refused: 400 `invalid_price`.
    """
    try:
        price = parse_price(_digits("price", text))
    except UnitError:
        raise Refused(400, "invalid_price", f"price {text[:MOST_DIGITS]}") from None
    if not 0 < price < PRICE:
        raise Refused(400, "invalid_price", f"price {text[:40]} is not between 0 and 1")
    if not listing.facts.grid.valid(price):
        raise Refused(400, "invalid_price", f"price {text[:40]} is not on the market's grid")
    return price


def size_of(text: str, what: str = "count", least: int = 1) -> int:
    """Parse a size of at least `least` size units.

    Raises:
        Refused: 400 `invalid_order_size`.
    """
    try:
        size = parse_size(_digits(what, text))
    except UnitError:
        raise Refused(400, "invalid_order_size", f"{what} {text[:MOST_DIGITS]}") from None
    if not least <= size <= MOST_SIZE:
        raise Refused(400, "invalid_order_size", f"{what} {text[:40]}")
    return size


def expiry(seconds: int | None, now: int) -> int:
    """Return the expiration of an order in microseconds; 0 for no expiration.

    Raises:
        Refused: it is in the past, or after the year 9999.
    """
    if seconds is None:
        return 0
    if seconds * 1_000_000 <= now:
        raise Refused(400, "invalid_order", "expiration_time is in the past")
    if seconds > LAST_SECOND:
        raise Refused(400, "invalid_order", "expiration_time is after the year 9999")
    return seconds * 1_000_000


def words(body: wire.CreateOrder) -> None:
    """Check that an order's enumerated fields are valid and do not contradict each other.

    Raises:
        Refused: 400 `invalid_order`.
    """
    if body.side not in SIDES:
        raise Refused(400, "invalid_order", f"side {body.side[:40]}")
    if body.time_in_force not in TIMES_IN_FORCE:
        raise Refused(400, "invalid_order", f"time_in_force {body.time_in_force[:40]}")
    prevention = body.self_trade_prevention_type
    if prevention not in PREVENTIONS:
        raise Refused(400, "invalid_order", f"self_trade_prevention_type {prevention[:40]}")
    client_id(body.client_order_id)
    immediate = body.time_in_force != "good_till_canceled"
    if body.expiration_time is not None and immediate:
        raise Refused(400, "invalid_order", "expiration_time is for good_till_canceled orders")
    if body.post_only and immediate:
        raise Refused(400, "invalid_order", "post only orders must be good_till_canceled")
    if body.reduce_only and body.time_in_force != "immediate_or_cancel":
        raise Refused(400, "invalid_order", "reduce only orders must be immediate_or_cancel")


def client_id(text: str | None) -> str | None:
    """Return a client order id as stored; None for an empty one.

    Raises:
        Refused: 400 for more than 64 characters.
    """
    if text is not None and len(text) > 64:
        raise Refused(400, "invalid_order", "client_order_id must have at most 64 characters")
    return text or None


def orderable(listing: Listing, refusal: Refusal) -> None:
    """Check that a market takes orders now.

    Raises:
        Refused: with the status and code of `refusal`.
    """
    if listing.status not in ORDERABLE:
        raise Refused(*refusal, f"market is {listing.status}")


def account_number(number: int | None) -> None:
    """Check a subaccount number: the API key has access to the primary account only.

    Raises:
        Refused: 400 for an invalid number, 403 for another account's.
    """
    if number is None or number == 0:
        return
    if not 0 < number <= 63:
        raise Refused(400, "invalid_order", f"subaccount must be from 0 to 63, got {number}")
    raise Refused(403, "forbidden", f"no access to subaccount {number}")


def shard(number: int | None, ticker: str | None) -> None:
    """Check a shard number: the only shard is 0; −1 asks for routing by ticker, which must be given.

    Raises:
        Refused: 400 without the ticker, 404 for another shard.
    """
    if number not in SHARDS:
        raise Refused(404, "not_found", f"nothing on exchange_index {number}")
    if number == -1 and not ticker:
        raise Refused(400, "invalid_order", "exchange_index -1 needs a market ticker")


def group_limit(whole: int | None, text: str | None, most: int) -> int:
    """Return the limit of an order group in size units.

    >>> group_limit(150, "150.00", 10**8), group_limit(None, "0.50", 10**8)
    (15000, 50)

    Raises:
        Refused: 400 if both forms are missing, if they differ, or if the limit is out of range.
    """
    if whole is None and text is None:
        raise Refused(400, "invalid_order", "contracts_limit or contracts_limit_fp is required")
    if text is None:
        limit = (whole or 0) * SIZE
    else:
        if not re.fullmatch(r"\d{1,12}(\.\d{1,2})?", text, re.ASCII):
            raise Refused(400, "invalid_order", f"contracts_limit_fp {text[:40]}")
        limit = parse_size(text)
        if whole is not None and whole * SIZE != limit:
            raise Refused(400, "invalid_order", "contracts_limit and contracts_limit_fp do not match")
    if not 0 < limit <= most or (whole is not None and whole < 1):
        raise Refused(400, "invalid_order", f"contracts_limit must be from 1 to {most // SIZE:,}")
    return limit
