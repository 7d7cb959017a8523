"""Keywords that were renamed: the old name still works and warns."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable
from typing import ParamSpec, TypeVar

__all__ = ["renamed_keywords"]

P = ParamSpec("P")
R = TypeVar("R")


def renamed_keywords(**renames: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Accept old keyword names of a function, method or class constructor and warn.

    Args:
        renames: old name to new name.

    Raises:
        TypeError: on a call that gives both the old and the new name.

    >>> @renamed_keywords(latency="latency_s")
    ... def enter(latency_s: float) -> float:
    ...     return latency_s
    >>> enter(latency_s=2.0)
    2.0
    >>> import warnings
    >>> with warnings.catch_warnings(record=True) as seen:
    ...     warnings.simplefilter("always")
    ...     enter(latency=2.0), str(seen[0].message)
    (2.0, "enter(): the keyword 'latency' is now 'latency_s'")
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        def rename(kwargs: dict[str, object], stacklevel: int) -> None:
            for old in renames.keys() & kwargs.keys():
                new = renames[old]
                if new in kwargs:
                    raise TypeError(f"{function.__qualname__}() got both {old!r} and {new!r}; use {new!r}")
                warnings.warn(
                    f"{function.__qualname__.removesuffix('.__init__')}(): the keyword {old!r} is now {new!r}",
                    DeprecationWarning,
                    stacklevel=stacklevel,
                )
                kwargs[new] = kwargs.pop(old)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            rename(kwargs, 3)
            return function(*args, **kwargs)

        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def call_async(*args: P.args, **kwargs: P.kwargs) -> object:
                rename(kwargs, 3)
                return await function(*args, **kwargs)

            call_async.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
            return call_async  # type: ignore[return-value]
        call.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
        return call

    return decorate
