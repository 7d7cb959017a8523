"""A text that no repr, error or pickle shows."""

from __future__ import annotations

from typing import NoReturn

__all__ = ["Secret"]


class Secret:
    """A text that is masked wherever it is shown; only `reveal` returns it.

    >>> Secret("hunter2")
    Secret(***)
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text itself, for the one call that signs."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(***)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret cannot be pickled; pass the path of the key instead")
