"""Signatures of requests: signing them as a client, verifying them as the exchange.

The signed text is the time in milliseconds, the method in capitals and the path from the root without its query.  An
RSA key signs it with RSA-PSS (SHA-256, salt as long as the digest), an Ed25519 key directly.  A key may be a PEM file,
PEM text, PEM text whose newlines were escaped or lost, or the bare base64 between the PEM's first and last line.

No repr, error or pickle shows key material.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal, Protocol

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa

from kalshilab.config.secret import Secret
from kalshilab.errors import CredentialsMissing, KeyUnusable

__all__ = ["KeyKind", "Signer", "Verifier", "generate_key", "load_private_key", "signed_text"]

KeyKind = Literal["rsa", "ed25519"]
PrivateKey = rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
PublicKey = rsa.RSAPublicKey | ed25519.Ed25519PublicKey

KEY_HEADER: Final = "KALSHI-ACCESS-KEY"
TIME_HEADER: Final = "KALSHI-ACCESS-TIMESTAMP"
SIGNATURE_HEADER: Final = "KALSHI-ACCESS-SIGNATURE"

_PSS: Final = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=padding.PSS.DIGEST_LENGTH)
_ARMOUR = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----(.*?)-----END \1-----", re.DOTALL)


def signed_text(timestamp_ms: int | str, method: str, path: str) -> bytes:
    """Return the text that a signature covers; the query string is removed.

    >>> signed_text(1763800000123, "get", "/trade-api/v2/portfolio/orders?limit=1")
    b'1763800000123GET/trade-api/v2/portfolio/orders'
    """
    return f"{timestamp_ms}{method.upper()}{path.partition('?')[0]}".encode()


class HasCredentials(Protocol):
    """The settings that `Signer.from_settings` reads."""

    @property
    def venue(self) -> str: ...
    @property
    def key_id(self) -> str | None: ...
    @property
    def private_key_path(self) -> str | None: ...
    @property
    def private_key(self) -> Secret | None: ...


class Signer:
    """Signer of requests for one API key.

    Args:
        key_id: the key's id, as issued by the exchange.
        private_key: an RSA or Ed25519 private key.
    """

    __slots__ = ("_key", "key_id")

    def __init__(self, key_id: str, private_key: PrivateKey) -> None:
        self.key_id, self._key = key_id, private_key

    @classmethod
    def from_pem(cls, key_id: str, pem: str | Path) -> Signer:
        """Return a signer for a key file (a `Path`) or the text of a key.

        Args:
            key_id: the key's id.
            pem: the path of a PEM file, or the key as text in one of the forms listed in the module's docstring.

        Raises:
            KeyUnusable: the file is missing, or the key is invalid, encrypted, or neither RSA nor Ed25519.
        """
        return cls(key_id, load_private_key(pem))

    @classmethod
    def from_settings(cls, settings: HasCredentials) -> Signer:
        """Return a signer for the key in the settings; the text of a key precedes its path.

        Raises:
            CredentialsMissing: the key id or the private key is not set.
            KeyUnusable: as for `from_pem`.
        """
        secret = settings.private_key
        if not settings.key_id or not (secret or settings.private_key_path):
            raise CredentialsMissing(settings.venue, ("KALSHI_API_KEY_ID", "KALSHI_PRIVATE_KEY_PATH"))
        if secret is not None:
            return cls.from_pem(settings.key_id, secret.reveal())
        assert settings.private_key_path is not None
        return cls.from_pem(settings.key_id, Path(settings.private_key_path))

    @property
    def kind(self) -> KeyKind:
        """Kind of the private key: "rsa" or "ed25519"."""
        return "rsa" if isinstance(self._key, rsa.RSAPrivateKey) else "ed25519"

    def headers(self, method: str, path: str, now_ms: int) -> dict[str, str]:
        """Return the three headers of a signed request.

        Args:
            method: the HTTP method, in any case.
            path: the path from the root; a query string is ignored.
            now_ms: machine time in milliseconds; the exchange accepts a difference of some seconds.
        """
        text = signed_text(now_ms, method, path)
        if isinstance(self._key, rsa.RSAPrivateKey):
            signature = self._key.sign(text, _PSS, hashes.SHA256())
        else:
            signature = self._key.sign(text)
        return {
            KEY_HEADER: self.key_id,
            TIME_HEADER: str(now_ms),
            SIGNATURE_HEADER: base64.b64encode(signature).decode(),
        }

    def __repr__(self) -> str:
        return f"Signer({self.key_id[:8]}…, {self.kind})"

    def __reduce__(self) -> str:
        raise TypeError("a Signer cannot be pickled, because it holds a private key")


class Verifier:
    """Verifier of the signatures of one API key, as the exchange uses it."""

    def __init__(self, public_key: PublicKey) -> None:
        self._key = public_key

    def verify(self, headers: Mapping[str, str], method: str, path: str) -> bool:
        """Return whether the signature header is valid for this time, method and path."""
        text = signed_text(headers.get(TIME_HEADER, ""), method, path)
        try:
            signature = base64.b64decode(headers.get(SIGNATURE_HEADER, ""), validate=True)
            if isinstance(self._key, rsa.RSAPublicKey):
                self._key.verify(signature, text, _PSS, hashes.SHA256())
            else:
                self._key.verify(signature, text)
        except (InvalidSignature, binascii.Error, ValueError):
            return False
        return True


def generate_key(kind: KeyKind = "rsa") -> tuple[bytes, PublicKey]:
    """Generate a private key as PEM bytes and its public key, for local venues and tests."""
    key: PrivateKey = (
        rsa.generate_private_key(public_exponent=65537, key_size=2048)
        if kind == "rsa"
        else ed25519.Ed25519PrivateKey.generate()
    )
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return pem, key.public_key()


def load_private_key(pem: str | Path) -> PrivateKey:
    """Load a private key from a file (a `Path`) or from text.

    Raises:
        KeyUnusable: as for `Signer.from_pem`.
    """
    origin = "the given text"
    if isinstance(pem, Path):
        origin = str(pem)
        try:
            pem = pem.expanduser().read_text(encoding="ascii")
        except OSError as error:
            raise KeyUnusable(origin, error.strerror or "cannot be read") from None
        except UnicodeDecodeError:
            raise KeyUnusable(origin, "is not a PEM file") from None
    return _parse(_rewrap(pem), origin)


def _rewrap(text: str) -> list[bytes]:
    """Return the key as DER bytes, in a list that is empty if the text is not base64."""
    text = text.replace("\\r", "").replace("\\n", "\n").strip().strip("\"'")
    armour = _ARMOUR.search(text)
    body = armour.group(2) if armour else text
    if "Proc-Type" in body:
        return [b"encrypted"]
    try:
        # A base64 body decodes with or without its line breaks.
        return [base64.b64decode(re.sub(r"\s+", "", body), validate=True)]
    except (binascii.Error, ValueError):
        return []


def _parse(candidates: list[bytes], origin: str) -> PrivateKey:
    for der in candidates:
        if der == b"encrypted":
            raise KeyUnusable(origin, "is encrypted; remove its passphrase")
        try:
            key = serialization.load_der_private_key(der, password=None)
        except TypeError:
            raise KeyUnusable(origin, "is encrypted; remove its passphrase") from None
        except (ValueError, UnsupportedAlgorithm):
            continue
        if isinstance(key, rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey):
            return key
        raise KeyUnusable(origin, "is neither RSA nor Ed25519")
    raise KeyUnusable(origin, "is neither a PEM private key nor bare base64")
