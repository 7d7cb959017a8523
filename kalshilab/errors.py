"""Every error kalshilab raises, in one tree.

An error carries the facts as attributes and builds its sentence from them; the sentence says what to do
next.  Catch `KalshilabError` to catch all of them::

    KalshilabError
    ├── ConfigError                a setting is unknown, malformed or out of range
    │   ├── EnvFileError           a line of a .env file cannot be read
    │   └── CredentialsMissing     a venue needs a key that was not given
    ├── UnitError                  a price, size or amount is not a number the exchange knows
    ├── TapeError                  trade data or market data is not what the schema says
    ├── LakeError                  a lake is damaged, locked, or none at all
    ├── SignalError                a signal parameter is out of range or of the wrong kind
    ├── EdgeError                  an edge cannot be judged as asked
    │   └── RegistryError          a hypothesis is not registered, a registry is damaged, or a lockbox is spent
    ├── HostRefused                a host is not allowed for what was asked of it
    ├── KeyUnusable                a private key cannot be parsed or is of an unknown kind
    ├── ApiError                   the exchange answered a REST call with an error
    │   ├── RateLimited            429
    │   └── OutcomeUnknown         a write got no answer, or a 5xx: it may or may not have happened
    ├── ConnectionFailed           a host could not be reached at all
    ├── StreamError                the WebSocket feed
    │   ├── ProtocolError          a frame that cannot be understood
    │   ├── SequenceGap            frames of one subscription were lost
    │   └── FeedLost               the feed gave up reconnecting
    ├── BookError                  an order book was asked for something impossible
    ├── ExchangeError              the local exchange was misconfigured or misused
    ├── SessionError               a paper session
    │   ├── IllegalTransition      a state change the session does not allow
    │   └── JournalError           the journal is damaged, locked or of another version
    └── UsageError                 a command line that cannot be carried out
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "ApiError",
    "BookError",
    "ConfigError",
    "ConnectionFailed",
    "CredentialsMissing",
    "EdgeError",
    "EnvFileError",
    "ExchangeError",
    "FeedLost",
    "HostRefused",
    "IllegalTransition",
    "JournalError",
    "KalshilabError",
    "KeyUnusable",
    "LakeError",
    "OutcomeUnknown",
    "ProtocolError",
    "RateLimited",
    "RegistryError",
    "SequenceGap",
    "SessionError",
    "SignalError",
    "StreamError",
    "TapeError",
    "UnitError",
    "UsageError",
]


class KalshilabError(Exception):
    """Base of every error raised by kalshilab.  Facts and sentence survive pickling, as between processes."""

    def __reduce__(self) -> tuple[Any, ...]:
        # The constructors take facts, not the sentence that Exception would hand them.
        return _restored, (type(self), self.args, self.__dict__)


def _restored(kind: type[KalshilabError], args: tuple[Any, ...], facts: dict[str, Any]) -> KalshilabError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(facts)
    return error


class ConfigError(KalshilabError):
    """A setting is unknown, malformed or out of range.

    Attributes:
        name: the setting, under the name the user wrote (an environment variable or a keyword).
        value: what was given; never a secret.
        allowed: what would have been accepted, as a phrase.
        source: where it came from: "keyword", "environment", or "FILE, line N".
    """

    def __init__(self, name: str, value: object, allowed: str, source: str = "keyword") -> None:
        self.name, self.value, self.allowed, self.source = name, value, allowed, source
        super().__init__(f"{name}={value!r} ({source}): allowed is {allowed}")


class EnvFileError(ConfigError):
    """A line of a .env file cannot be read.  The line's text is not repeated: it may hold a secret."""

    def __init__(self, path: object, line: int, reason: str) -> None:
        self.path, self.line, self.reason = path, line, reason
        self.name, self.value, self.allowed, self.source = "", None, "NAME=VALUE", f"{path}, line {line}"
        KalshilabError.__init__(self, f"{path}, line {line}: {reason}; write NAME=VALUE, or # for a comment")


class CredentialsMissing(ConfigError):
    """A venue needs an API key that was not given."""

    def __init__(self, venue: str, missing: tuple[str, ...]) -> None:
        self.venue, self.missing = venue, missing
        self.name, self.value, self.allowed, self.source = missing[0], None, "a value", "nowhere"
        KalshilabError.__init__(
            self,
            f"venue {venue!r} needs {' and '.join(missing)}: set them in the environment or in .env; "
            "--venue embedded (the local exchange) needs none",
        )


class UnitError(KalshilabError, ValueError):
    """A price, size or amount is not a number the exchange knows.

    Attributes:
        what: "price", "size" or "money".
        value: what was given.
        rule: the rule it breaks.
    """

    def __init__(self, what: str, value: object, rule: str) -> None:
        self.what, self.value, self.rule = what, value, rule
        super().__init__(f"{what} {value!r}: {rule}")


class TapeError(KalshilabError, ValueError):
    """Trade data or market data is not what the schema says.

    Attributes:
        column: the column at fault, or None when the whole input is.
        row: the first bad row (0-based, as the caller numbered them), or None.
        value: the value found there, or None.
        reason: what is wrong and what to do.
    """

    def __init__(
        self, reason: str, *, column: str | None = None, row: int | None = None, value: object = None
    ) -> None:
        self.column, self.row, self.value, self.reason = column, row, value, reason
        where = "" if column is None else f"column {column!r}"
        if row is not None:
            where += f", first bad row {row}"
        if value is not None:
            where += f" ({value!r})"
        super().__init__(f"{where}: {reason}" if where else reason)


class LakeError(KalshilabError):
    """A lake is damaged, locked, or none at all; nothing was left out silently.

    Attributes:
        path: the lake.
        file: the file at fault, or None.
        reason: what is wrong.
        run: the command that helps.
    """

    def __init__(self, path: object, file: object, reason: str, *, run: str | None = None) -> None:
        self.path, self.file, self.reason = path, file, reason
        self.run = run if run is not None else f"kalshilab doctor {path}"
        super().__init__(f"{file if file is not None else path}: {reason}; run: {self.run}")


class SignalError(KalshilabError, ValueError):
    """A signal parameter is out of range or of the wrong kind.  Raised before any data is read."""

    def __init__(self, signal: str, parameter: str, value: object, allowed: str) -> None:
        self.signal, self.parameter, self.value, self.allowed = signal, parameter, value, allowed
        super().__init__(f"{signal}: {parameter} must be {allowed}, got {value!r}")


class EdgeError(KalshilabError):
    """An edge cannot be judged as asked; the sentence says what is missing and how to give it."""


class RegistryError(EdgeError):
    """A hypothesis is not registered, a registry is damaged, or a lockbox is spent."""


class HostRefused(KalshilabError):
    """A host is not on the list allowed for what was asked of it; nothing was sent.

    Attributes:
        url: what was asked for, without user info.
        purpose: "orders" or "data".
        reason: the rule it breaks.
    """

    def __init__(self, url: str, purpose: str, reason: str) -> None:
        self.url, self.purpose, self.reason = url, purpose, reason
        super().__init__(f"{url} refused for {purpose}: {reason}")


class KeyUnusable(KalshilabError):
    """A private key cannot be parsed or is of an unknown kind.  Never repeats key material."""

    def __init__(self, origin: str, reason: str) -> None:
        self.origin, self.reason = origin, reason
        super().__init__(f"private key from {origin}: {reason}")


class ApiError(KalshilabError):
    """The exchange answered a REST call with an error.

    Attributes:
        method, path: the call, without query string and host.
        status: HTTP status; 0 when there was no answer.
        code: the exchange's error code ("insufficient_balance"), "" when the body named none.
        message, details: the exchange's own words.
        retryable: whether the same call may be sent again without the risk of doing it twice.
    """

    def __init__(
        self,
        method: str,
        path: str,
        status: int,
        code: str = "",
        message: str = "",
        details: str = "",
        *,
        retryable: bool = False,
    ) -> None:
        self.method, self.path, self.status = method, path, status
        self.code, self.message, self.details, self.retryable = code, message, details, retryable
        words = ": ".join(w for w in (code, message if message != code else "", details) if w)
        super().__init__(f"{method} {path} -> {status or 'no answer'}{' ' + words if words else ''}")


class RateLimited(ApiError):
    """429: the token bucket of the account is empty.  Nothing happened; wait and send again."""

    def __init__(self, method: str, path: str) -> None:
        super().__init__(method, path, 429, "too_many_requests", "slow down", retryable=True)


class OutcomeUnknown(ApiError):
    """A write got no answer, or a 5xx: it may or may not have happened.  Look it up, never resend blindly."""

    def __init__(self, method: str, path: str, status: int, reason: str) -> None:
        super().__init__(method, path, status, "outcome_unknown", reason)


class ConnectionFailed(KalshilabError):
    """A host could not be reached; nothing was sent.

    Attributes:
        url: scheme, host and port.
        reason: the system's words.
    """

    def __init__(self, url: str, reason: str) -> None:
        self.url, self.reason = url, reason
        super().__init__(f"cannot reach {url}: {reason}")


class StreamError(KalshilabError):
    """Something is wrong with a WebSocket feed."""


class ProtocolError(StreamError):
    """A frame that cannot be understood.  `excerpt` holds its first 120 characters."""

    def __init__(self, reason: str, frame: bytes | str = b"") -> None:
        text = frame.decode("utf-8", "replace") if isinstance(frame, bytes) else frame
        self.reason, self.excerpt = reason, text[:120]
        super().__init__(f"{reason}: {self.excerpt!r}" if text else reason)


class SequenceGap(StreamError):
    """Frames of one subscription were lost; every book of that sid is out of date until a snapshot."""

    def __init__(self, sid: int, expected: int, got: int) -> None:
        self.sid, self.expected, self.got = sid, expected, got
        super().__init__(f"sid {sid}: expected seq {expected}, got {got}; books of this sid need a snapshot")


class FeedLost(StreamError):
    """The feed gave up reconnecting after `attempts` failures in a row."""

    def __init__(self, url: str, attempts: int, reason: str) -> None:
        self.url, self.attempts, self.reason = url, attempts, reason
        super().__init__(f"{url}: gave up after {attempts} attempts, last: {reason}")


class BookError(KalshilabError, ValueError):
    """An order book was asked for something impossible, such as a level below zero."""


class ExchangeError(KalshilabError):
    """The local exchange was misconfigured or misused (not an answer it gives to a client)."""


class SessionError(KalshilabError):
    """A paper session cannot go on."""


class IllegalTransition(SessionError):
    """A state change the session does not allow."""

    def __init__(self, current: str, wanted: str, allowed: tuple[str, ...]) -> None:
        self.current, self.wanted, self.allowed = current, wanted, allowed
        super().__init__(f"{current} -> {wanted}: from {current} only {', '.join(allowed) or 'nothing'}")


class JournalError(SessionError):
    """The journal is damaged, locked by another session or of another version."""


class UsageError(KalshilabError):
    """A command line that cannot be carried out: one sentence, exit code 2."""
