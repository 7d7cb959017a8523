"""The errors of kalshilab, in one tree.

An error holds the facts as attributes and builds its sentence from them: `<argument> must be <rule>, got <value>`,
followed by what to do where that is not obvious.  Catch `KalshilabError` to catch all of them::

    KalshilabError
    ├── ConfigError                a setting is unknown, malformed or out of range
    │   ├── EnvFileError           a line of a .env file cannot be read
    │   └── CredentialsMissing     a venue needs a key that was not given
    ├── UnitError                  a price, size or amount does not fit the exchange's units
    ├── TapeError                  trade or market data does not match the schema
    ├── LakeError                  a lake is damaged, locked or missing
    ├── SignalError                a signal parameter is out of range or of the wrong type
    ├── EdgeError                  an edge cannot be evaluated as requested
    │   └── RegistryError          a hypothesis is not registered, a registry is damaged, or a lockbox is used up
    ├── HostRefused                a host is not allowed for this purpose
    ├── KeyUnusable                a private key cannot be parsed or is of an unknown kind
    ├── ApiError                   the exchange answered a REST call with an error
    │   ├── RateLimited            429
    │   └── OutcomeUnknown         a write got no answer, or a 5xx: it may or may not have happened
    ├── ConnectionFailed           a host could not be reached
    ├── StreamError                a WebSocket feed failed
    │   ├── ProtocolError          a frame or an answer cannot be parsed
    │   ├── SequenceGap            frames of one subscription were lost
    │   └── FeedLost               the feed gave up reconnecting
    ├── BookError                  an order book update is impossible
    ├── ExchangeError              the local exchange was misconfigured or misused
    ├── SessionError               a paper session cannot continue
    │   ├── IllegalTransition      a state change the session does not allow
    │   └── JournalError           the journal is damaged, locked or of another version
    └── UsageError                 a command line cannot be executed
"""

from __future__ import annotations

from collections.abc import Sequence

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
    """Base of every error raised by kalshilab; facts and sentence survive pickling between processes."""

    def __reduce__(self) -> tuple[object, ...]:
        # The constructors take facts; Exception would pass them the sentence.
        return _restored, (type(self), self.args, self.__dict__)


def _restored(
    kind: type[KalshilabError], args: tuple[object, ...], facts: dict[str, object]
) -> KalshilabError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(facts)
    return error


class ConfigError(KalshilabError):
    """A setting or an argument is unknown, malformed or out of range.

    Attributes:
        name: the setting, under the name the user wrote (an environment variable or a keyword).
        value: the value given; never a secret.
        allowed: the accepted values, as a phrase that follows "must be".
        source: the origin: "keyword", "argument", "environment", or "FILE, line N".
    """

    def __init__(self, name: str, value: object, allowed: str, source: str = "keyword") -> None:
        self.name, self.value, self.allowed, self.source = name, value, allowed, source
        super().__init__(f"{name} must be {allowed}, got {value!r}{_origin(source)}")

    @classmethod
    def unknown(cls, name: str, choices: Sequence[str], near: Sequence[str], source: str) -> ConfigError:
        """Return the error for an unknown setting; its value is not kept, because it may be a secret.

        Args:
            name: the unknown name.
            choices: every known name.
            near: the known names that resemble it, best first; may be empty.
            source: as the attribute.
        """
        error = cls(name, None, f"one of {', '.join(choices)}", source)
        hint = (
            f"did you mean {' or '.join(map(repr, near))}?" if near else f"choose from {', '.join(choices)}"
        )
        error.args = (f"unknown setting {name!r}{_origin(source)}; {hint}",)
        return error


def _origin(source: str) -> str:
    """Return the origin of a value in parentheses; a caller does not need to read that it passed the value."""
    return "" if source in {"keyword", "argument"} else f" ({source})"


class EnvFileError(ConfigError):
    """A line of a .env file cannot be parsed; its text is not repeated, because it may hold a secret."""

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
            f"venue {venue!r} needs {' and '.join(missing)}; set them in the environment or in .env, "
            "or use --venue embedded (the local exchange), which needs no key",
        )


class UnitError(KalshilabError, ValueError):
    """A price, size or amount does not fit the exchange's units.

    Attributes:
        what: the quantity: "price", "size", "money", or the name of a field.
        value: the value given.
        rule: the accepted values, as a phrase that follows "must be".
    """

    def __init__(self, what: str, value: object, rule: str) -> None:
        self.what, self.value, self.rule = what, value, rule
        super().__init__(f"{what} must be {rule}, got {value!r}")


class TapeError(KalshilabError, ValueError):
    """Trade or market data does not match the schema.

    Attributes:
        column: the invalid column; None if the whole input is invalid.
        row: the first invalid row (0-based, as the caller numbered them); None if unknown.
        value: the value of that row; None if unknown.
        reason: the problem and what to do about it.
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
    """A lake is damaged, locked or missing; no data was skipped silently.

    Attributes:
        path: the lake.
        file: the damaged file; None if it is the whole lake.
        reason: the problem.
        run: the command that helps.
    """

    def __init__(self, path: object, file: object, reason: str, *, run: str | None = None) -> None:
        self.path, self.file, self.reason = path, file, reason
        self.run = run if run is not None else f"kalshilab doctor {path}"
        super().__init__(f"{file if file is not None else path}: {reason}; run: {self.run}")


class SignalError(KalshilabError, ValueError):
    """A signal parameter is out of range or of the wrong type; raised before any data is read.

    Attributes:
        signal: the name of the signal.
        parameter: the name of the parameter.
        value: the value given.
        allowed: the accepted values, as a phrase that follows "must be".
    """

    def __init__(self, signal: str, parameter: str, value: object, allowed: str) -> None:
        self.signal, self.parameter, self.value, self.allowed = signal, parameter, value, allowed
        super().__init__(f"{signal}: {parameter} must be {allowed}, got {value!r}")


class EdgeError(KalshilabError):
    """An edge cannot be evaluated as requested; the sentence names the missing input and how to give it."""


class RegistryError(EdgeError):
    """A hypothesis is not registered, a registry is damaged, or a lockbox is used up."""


class HostRefused(KalshilabError):
    """A host is not on the list allowed for this purpose; nothing was sent.

    Attributes:
        url: the refused address, without user info.
        purpose: "orders" or "data".
        reason: the rule it breaks.
    """

    def __init__(self, url: str, purpose: str, reason: str) -> None:
        self.url, self.purpose, self.reason = url, purpose, reason
        super().__init__(f"{url} refused for {purpose}: {reason}")


class KeyUnusable(KalshilabError):
    """A private key cannot be parsed or is of an unknown kind; the error never repeats key material."""

    def __init__(self, origin: str, reason: str) -> None:
        self.origin, self.reason = origin, reason
        super().__init__(f"private key from {origin}: {reason}")


class ApiError(KalshilabError):
    """The exchange answered a REST call with an error.

    Attributes:
        method, path: the call, without query string and host.
        status: HTTP status; 0 when there was no answer.
        code: the exchange's error code ("insufficient_balance"), "" when the body has no code.
        message, details: the exchange's text.
        retryable: whether the same call may be sent again without the risk of doing it twice.
        retry_after_s: seconds the exchange asked to wait (`Retry-After`); None if it did not ask.
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
        retry_after_s: float | None = None,
    ) -> None:
        self.method, self.path, self.status = method, path, status
        self.code, self.message, self.details = code, message, details
        self.retryable, self.retry_after_s = retryable, retry_after_s
        words = ": ".join(w for w in (code, message if message != code else "", details) if w)
        super().__init__(f"{method} {path} -> {status or 'no answer'}{' ' + words if words else ''}")


class RateLimited(ApiError):
    """The account's token bucket is empty (429); nothing happened, so wait and send again."""

    def __init__(self, method: str, path: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(
            method, path, 429, "too_many_requests", "slow down", retryable=True, retry_after_s=retry_after_s
        )


class OutcomeUnknown(ApiError):
    """A write got no answer, or a 5xx: it may or may not have happened; look it up, never resend it blindly."""

    def __init__(self, method: str, path: str, status: int, reason: str) -> None:
        super().__init__(method, path, status, "outcome_unknown", reason)


class ConnectionFailed(KalshilabError):
    """A host could not be reached; nothing was sent.

    Attributes:
        url: scheme, host and port.
        reason: the text of the system's error.
    """

    def __init__(self, url: str, reason: str) -> None:
        self.url, self.reason = url, reason
        super().__init__(f"cannot reach {url}: {reason}")


class StreamError(KalshilabError):
    """A WebSocket feed failed."""


class ProtocolError(StreamError):
    """A frame or an answer cannot be parsed; `excerpt` holds its first 120 characters."""

    def __init__(self, reason: str, frame: bytes | str = b"") -> None:
        text = frame.decode("utf-8", "replace") if isinstance(frame, bytes) else frame
        self.reason, self.excerpt = reason, text[:120]
        super().__init__(f"{reason}: {self.excerpt!r}" if text else reason)


class SequenceGap(StreamError):
    """Frames of one subscription were lost; its books are stale until the next snapshot."""

    def __init__(self, sid: int, expected: int, got: int) -> None:
        self.sid, self.expected, self.got = sid, expected, got
        super().__init__(f"sid {sid}: expected seq {expected}, got {got}; books of this sid need a snapshot")


class FeedLost(StreamError):
    """The feed gave up reconnecting after `attempts` failures in a row."""

    def __init__(self, url: str, attempts: int, reason: str) -> None:
        self.url, self.attempts, self.reason = url, attempts, reason
        super().__init__(f"{url}: gave up after {attempts} attempts, last: {reason}")


class BookError(KalshilabError, ValueError):
    """An order book update is impossible, such as a level below zero."""


class ExchangeError(KalshilabError):
    """The local exchange was misconfigured or misused (not an answer it gives to a client)."""


class SessionError(KalshilabError):
    """A paper session cannot continue."""


class IllegalTransition(SessionError):
    """A state change the session does not allow."""

    def __init__(self, current: str, wanted: str, allowed: tuple[str, ...]) -> None:
        self.current, self.wanted, self.allowed = current, wanted, allowed
        super().__init__(
            f"{current} -> {wanted} is not allowed; from {current} the session may enter: "
            f"{', '.join(allowed) or 'no other state'}"
        )


class JournalError(SessionError):
    """The journal is damaged, locked by another session or of another version."""


class UsageError(KalshilabError):
    """A command line cannot be executed: one sentence, exit code 2."""
