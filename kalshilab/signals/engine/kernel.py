"""The compiled kernel: one loop that runs any signal's step over a stretch of tape.

A **step** takes one print of one market and returns `NOTHING`, `BUY_YES` or `BUY_NO`.  It keeps its memory in the
market's state, a record with named fields; a record of zeros is a market without prints so far.  The loop and the
live driver call the same compiled step, which makes research and live equal by construction.

The loop stops when its buffers of fires are full and returns its position, so that the driver can continue with
empty buffers: no signal needs to know the number of fires in advance.  It processes only markets with codes in
[low, high), whose states start at index 0: a shard of the markets needs a shard of the memory.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Final, Protocol, TypeAlias

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import njit
from numba.extending import intrinsic

from kalshilab.units import PRICE

__all__ = ["AHEAD", "BUY_NO", "BUY_YES", "COLUMNS", "NOTHING", "Array", "Fields", "Loop", "Record", "Rule", "Step", "address_of", "bounds", "compiled", "fetch_soon", "fresh_state", "grown", "loop_of", "one_of", "packed", "vector"]  # fmt: skip

Array: TypeAlias = npt.NDArray[Any]
Fields: TypeAlias = np.dtype[np.void]
"""Fields of a record: of a market's state, or of a packed rule."""
Codes: TypeAlias = npt.NDArray[np.uint32]
Times: TypeAlias = npt.NDArray[np.int64]
Prices: TypeAlias = npt.NDArray[np.int16]
Sizes: TypeAlias = npt.NDArray[np.uint32]
Takers: TypeAlias = npt.NDArray[np.uint8]

Rule: TypeAlias = tuple[bool | int | float, ...]
"""Parameters of a signal as its step takes them."""
Step: TypeAlias = Callable[..., int]
"""A compiled step: `(state, ts, price, size, taker_yes, *rule) -> NOTHING, BUY_YES or BUY_NO`."""
Loop: TypeAlias = Callable[..., tuple[np.int64, np.int64]]
"""A compiled loop, as `loop_of` returns it."""


class Record(Protocol):
    """The state of one market in compiled code: a record whose fields are attributes."""

    def __getattr__(self, name: str) -> Any: ...
    def __setattr__(self, name: str, value: Any) -> None: ...


NOTHING: Final = 0
BUY_YES: Final = 1
BUY_NO: Final = 2
COLUMNS: Final = ("ts", "price", "size", "taker")
"""Columns of a print that a step may read; each signal lists those it reads."""

AHEAD: Final = np.uint64(20)
"""Prefetch distance, in prints."""

compiled: Final = njit(nogil=True, error_model="numpy")
"""Compiler of steps and loops: without the interpreter's lock, and with plain IEEE division."""


def fresh_state(markets: int, fields: Fields) -> Array:
    """Return the states of `markets` markets without prints."""
    return np.zeros(markets, fields)


def grown(state: Array, markets: int) -> Array:
    """Return `state` with room for at least `markets`.

    It grows by at least a half, so that growing takes linear time in total.
    """
    if markets <= len(state):
        return state
    bigger = np.zeros(max(markets, len(state) * 3 // 2, 64), state.dtype)
    bigger[: len(state)] = state
    return bigger


def _as_pointer(typing: object, address: numba.types.Type) -> tuple[object, Callable[..., object]]:
    """Return the signature and the code generator that numba asks of an intrinsic function."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: list[ir.Value]) -> object:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return numba.types.voidptr(address), generate


def _as_hint(typing: object, address: numba.types.Type) -> tuple[object, Callable[..., object]]:
    """Return the same for an instruction that prefetches an address for writing; any address is safe."""

    def generate(context: Any, builder: ir.IRBuilder, signature: object, arguments: list[ir.Value]) -> object:
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        hint = builder.module.declare_intrinsic("llvm.prefetch", (byte,), kind)
        write, keep, data = number(1), number(3), number(1)
        builder.call(hint, [builder.inttoptr(arguments[0], byte), write, keep, data])
        return context.get_dummy_value()

    return numba.types.void(address), generate


_pointer: Callable[..., object] = intrinsic(_as_pointer)
fetch_soon: Callable[..., None] = intrinsic(_as_hint)
"""Prefetch the memory at an address for writing; for compiled code only."""
_records: Callable[..., Array] = numba.carray  # type: ignore[attr-defined]
"""Array of records at a pointer."""


def address_of(array: Array) -> int:
    """Return the address of an array's memory; it is valid as long as the array is referenced."""
    return int(array.ctypes.data)


def packed(rule: Rule) -> Array:
    """Return a rule as one record, whose address compiled code takes."""
    kinds = {bool: "?", int: "i8", float: "f8"}
    dtype = np.dtype([(f"r{at}", kinds[type(value)]) for at, value in enumerate(rule)], align=True)
    return np.array([rule], dtype)


@cache
def _unpacked(rule: Fields) -> Callable[..., Rule]:
    """Return a compiled function that returns the fields of a packed rule as a tuple."""
    fields = ", ".join(f"rule.{name}" for name in rule.names or ())
    scope: dict[str, Callable[..., Rule]] = {}
    # Compiled code can name the fields of a record but not iterate over them.
    exec(f"def unpack(rule):\n    return ({fields},)\n", scope)
    return compiled(scope["unpack"])


@cache
def bounds() -> Callable[[Codes, Prices], tuple[int, int]]:
    """Return a compiled function that checks market codes and prices, arrays of one length.

    It returns the largest code, and a price outside 0 to one dollar (0 if all are inside).  Two numpy reductions
    would take longer than a batch of live prints.
    """
    whole = numba.int64
    signature = numba.types.UniTuple(whole, 2)(vector(numba.uint32), vector(numba.int16))  # type: ignore[no-untyped-call]

    @njit(signature, nogil=True)
    def find(markets: Codes, prices: Prices) -> tuple[int, int]:
        top, odd = 0, 0
        for i in range(len(markets)):
            top = max(top, markets[i])
            price = prices[i]
            if price < 0 or price > PRICE:
                odd = price
        return top, odd

    return find


@cache
def loop_of(step: Step, reads: tuple[str, ...], fields: Fields, rule: Fields) -> Loop:
    """Return the compiled loop for a compiled step that reads the columns `reads`; it never touches the others.

    The loop is compiled here, in a few tenths of a second, for states with `fields` and a packed rule of dtype
    `rule` only.  Read-only and writable columns share one machine code.  Its arguments are:

    * the address of the state, and the number of markets it has room for;
    * market codes, and the range of codes to process;
    * the four columns (empty if not read), and the row to start at;
    * buffers for row and side, and the address of a buffer for the state at each fire;
    * the address of the rule.

    They are addresses because passing an array of records takes longer than processing a hundred prints.

    The loop returns the row it reached and the number of fires in the buffers.  It stops early when the buffers are
    full, and at a market in the range for which the state has no room.
    """
    read_ts, read_price, read_size, read_taker = (name in reads for name in COLUMNS)
    # Constants of the loop: a column that the step does not read is not loaded.
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
        markets: Codes,
        low: int,
        high: int,
        times: Times,
        prices: Prices,
        sizes: Sizes,
        takers: Takers,
        start: int,
        rows: Times,
        sides: Takers,
        seen_at: int,
        rule_at: int,
    ) -> tuple[np.int64, np.int64]:
        state = _records(_pointer(state_at), places, fields)
        seen = _records(_pointer(seen_at), len(rows), fields)
        values = unpack(_records(_pointer(rule_at), 1, rule)[0])
        # Unsigned: an index that may be negative is compared twice, and so is a range with two ends.
        count, end = np.uint64(0), np.uint64(len(markets))
        first, room, full = np.uint64(low), np.uint64(min(high - low, places)), np.uint64(len(rows))
        for i in range(np.uint64(start), end):
            # The states of a million markets fit into no cache, and a cache miss takes as long as twenty prints.
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
        return np.int64(len(markets)), np.int64(count)

    return loop


def vector(of: numba.types.Type, writable: bool = False) -> numba.types.Array:
    """Return the numba type of a contiguous one-dimensional array.

    Args:
        of: the numba type of its elements.
        writable: whether the array must be writable; False accepts both kinds.
    """
    return numba.types.Array(of, 1, "C", readonly=not writable)


@cache
def one_of(step: Step, fields: Fields, rule: Fields) -> Callable[..., int]:
    """Return the compiled call of a step for one print.

    Its arguments are the address of the state, market, ts, price, size, taker_yes and the address of the rule; it
    returns the side.  The caller makes sure that the state has room for the market.
    """
    unpack = _unpacked(rule)
    whole = numba.int64
    signature = whole(whole, whole, whole, whole, whole, numba.boolean, whole)

    @njit(signature, nogil=True, error_model="numpy")
    def one(state_at: int, market: int, ts: int, price: int, size: int, taker_yes: bool, rule_at: int) -> int:
        state = _records(_pointer(state_at), market + 1, fields)
        values = unpack(_records(_pointer(rule_at), 1, rule)[0])
        return step(state[market], ts, price, size, taker_yes, *values)

    return one
