"""The compiled heart: one loop that runs any signal's step over a stretch of tape.

A **step** takes one print of one market and says whether it fires: `NOTHING`, `BUY_YES` or `BUY_NO`.  It
remembers by writing to the market's state, a record whose fields it names; a record of zeros is a market of
which nothing was seen.  The loop and the live driver call the same compiled step, which makes research and live
equal by construction.

The loop stops when its buffers of fires are full and says where, so that the driver can hand it empty ones:
no signal needs to know how many fires come.  It looks only at markets with codes in [low, high), whose state
it keeps from index 0: a shard of the markets needs a shard of the memory.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import njit
from numba.extending import intrinsic

from kalshilab.units import PRICE

__all__ = ["AHEAD", "BUY_NO", "BUY_YES", "COLUMNS", "NOTHING", "Array", "address_of", "bounds", "compiled", "fetch_soon", "fresh_state", "grown", "loop_of", "one_of", "packed", "vector"]  # fmt: skip

Array = npt.NDArray[Any]

NOTHING: Final = 0
BUY_YES: Final = 1
BUY_NO: Final = 2
COLUMNS: Final = ("ts", "price", "size", "taker")
"""What a step may read of a print; a signal names those it does read."""

AHEAD: Final = np.uint64(20)
"""Prints ahead whose market's state is asked for."""

compiled: Final = njit(nogil=True, error_model="numpy")
"""How steps and loops are compiled: without the interpreter's lock, and with plain IEEE division."""


def fresh_state(markets: int, fields: np.dtype[Any]) -> Array:
    """State of so many markets of which nothing was seen."""
    return np.zeros(markets, fields)


def grown(state: Array, markets: int) -> Array:
    """`state` with room for at least `markets`; grows by half at least, so that growing costs little in all."""
    if markets <= len(state):
        return state
    bigger = np.zeros(max(markets, len(state) * 3 // 2, 64), state.dtype)
    bigger[: len(state)] = state
    return bigger


def _as_pointer(typing: Any, address: Any) -> Any:
    """What numba asks of an intrinsic function: its signature, and how to make its code."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return numba.types.voidptr(address), generate


def _as_hint(typing: Any, address: Any) -> Any:
    """As above, for an instruction to fetch what is at an address, to be written soon; any address will do."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        hint = builder.module.declare_intrinsic("llvm.prefetch", (byte,), kind)
        write, keep, data = number(1), number(3), number(1)
        builder.call(hint, [builder.inttoptr(arguments[0], byte), write, keep, data])
        return context.get_dummy_value()

    return numba.types.void(address), generate


_pointer: Any = intrinsic(_as_pointer)
fetch_soon: Any = intrinsic(_as_hint)
"""Ask for the memory at an address, to be written soon; in compiled code."""
_records: Any = numba.carray  # type: ignore[attr-defined]
"""An array of records at a pointer."""


def address_of(array: Array) -> int:
    """Where an array's memory begins; it is there as long as the array is kept."""
    return int(array.ctypes.data)


def packed(rule: tuple[Any, ...]) -> Array:
    """A rule as one record, whose address compiled code takes."""
    kinds = {bool: "?", int: "i8", float: "f8"}
    dtype = np.dtype([(f"r{at}", kinds[type(value)]) for at, value in enumerate(rule)], align=True)
    return np.array([rule], dtype)


@cache
def _unpacked(rule: np.dtype[Any]) -> Any:
    """A compiled function that gives the fields of a packed rule as a tuple."""
    fields = ", ".join(f"rule.{name}" for name in rule.names or ())
    scope: dict[str, Any] = {}
    # Fields of a record can be named in compiled code only, not looped over.
    exec(f"def unpack(rule):\n    return ({fields},)\n", scope)
    return compiled(scope["unpack"])


@cache
def bounds() -> Any:
    """A compiled function of market codes and prices, of one length: the largest code, and a price outside a dollar
    (0 where there is none).  Two of numpy's reductions take longer than a batch of live prints.
    """
    whole = numba.int64
    signature = numba.types.UniTuple(whole, 2)(vector(numba.uint32), vector(numba.int16))  # type: ignore[no-untyped-call]

    @njit(signature, nogil=True)
    def find(markets: Any, prices: Any) -> tuple[int, int]:
        top, odd = 0, 0
        for i in range(len(markets)):
            top = max(top, markets[i])
            price = prices[i]
            if price < 0 or price > PRICE:
                odd = price
        return top, odd

    return find


@cache
def loop_of(step: Any, reads: tuple[str, ...], fields: np.dtype[Any], rule: np.dtype[Any]) -> Any:
    """The compiled loop for a compiled step that reads these columns; the others are never touched.

    It is compiled here, a few tenths of a second, for states of these fields and a packed rule of this dtype, and
    for no other: read-only and writable columns share one machine code.  Its arguments: the address of the
    state and how many markets it has room for, market codes, the range of codes, the four columns (empty where
    not read), the row to start at, buffers for row and side and the address of one for the state at each fire,
    and the address of the rule.  Addresses, because an array of records takes longer to hand over than a
    hundred prints to look at.

    It returns how far it got and how many fires are in the buffers.  It stops early when the buffers are full,
    and at a market in the range for which the state has no room.
    """
    read_ts, read_price, read_size, read_taker = (name in reads for name in COLUMNS)
    # Constants of the loop: what a step does not read is not loaded.
    unpack = _unpacked(rule)
    wide = np.uint64(fields.itemsize)
    whole = numba.int64
    signature = numba.types.UniTuple(whole, 2)(  # type: ignore[no-untyped-call]
        whole, whole, vector(numba.uint32), whole, whole, vector(whole), vector(numba.int16), vector(numba.uint32),
        vector(numba.uint8), whole, vector(whole, True), vector(numba.uint8, True), whole, whole,
    )  # fmt: skip

    @njit(signature, nogil=True, error_model="numpy")
    def loop(
        state_at: int,
        places: int,
        markets: Any,
        low: int,
        high: int,
        times: Any,
        prices: Any,
        sizes: Any,
        takers: Any,
        start: int,
        rows: Any,
        sides: Any,
        seen_at: int,
        rule_at: int,
    ) -> Any:
        state = _records(_pointer(state_at), places, fields)
        seen = _records(_pointer(seen_at), len(rows), fields)
        values = unpack(_records(_pointer(rule_at), 1, rule)[0])
        # Without a sign: an index that may be below zero is looked at twice, and so is a range with two ends.
        count, end = np.uint64(0), np.uint64(len(markets))
        first, room, full = np.uint64(low), np.uint64(min(high - low, places)), np.uint64(len(rows))
        for i in range(np.uint64(start), end):
            # The states of a million markets are in no cache.  Waiting for one takes as long as twenty prints.
            if i + AHEAD < end:
                fetch_soon(np.uint64(state_at) + (np.uint64(markets[i + AHEAD]) - first) * wide)
            market = np.uint64(markets[i]) - first
            if market >= room:
                if market >= np.uint64(high - low):
                    continue
                return np.int64(i), np.int64(count)
            ts = times[i] if read_ts else 0
            price = np.int64(prices[i]) if read_price else 0
            size = np.int64(sizes[i]) if read_size else 0
            taker_yes = takers[i] == 0 if read_taker else False
            side = step(state[market], ts, price, size, taker_yes, *values)
            if side != 0:
                rows[count] = i
                sides[count] = side
                seen[count] = state[market]
                count += np.uint64(1)
                if count == full:
                    return np.int64(i + np.uint64(1)), np.int64(count)
        return len(markets), np.int64(count)

    return loop


def vector(of: Any, writable: bool = False) -> Any:
    """A contiguous array of one dimension; one that is only read may be writable all the same."""
    return numba.types.Array(of, 1, "C", readonly=not writable)


@cache
def one_of(step: Any, fields: np.dtype[Any], rule: np.dtype[Any]) -> Any:
    """The compiled call of a step for one print: `(address of the state, market, ts, price, size, taker_yes, address
    of the rule) -> side`.  The state has room for the market: who calls sees to it.
    """
    unpack = _unpacked(rule)
    whole = numba.int64
    signature = whole(whole, whole, whole, whole, whole, numba.boolean, whole)

    @njit(signature, nogil=True, error_model="numpy")
    def one(state_at: int, market: int, ts: int, price: int, size: int, taker_yes: bool, rule_at: int) -> int:
        state = _records(_pointer(state_at), market + 1, fields)
        values = unpack(_records(_pointer(rule_at), 1, rule)[0])
        return step(state[market], ts, price, size, taker_yes, *values)  # type: ignore[no-any-return]

    return one
