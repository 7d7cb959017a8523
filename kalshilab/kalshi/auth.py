"""Signing requests, and checking signatures on the other side.

What is signed is one text: the time in milliseconds, the method in capitals and the path from the root
without its query.  An RSA key signs it with RSA-PSS (SHA-256, salt as long as the digest), an Ed25519 key
directly.  Keys come as people have them: a PEM file, PEM text, PEM text whose newlines were escaped or lost,
or the bare base64 between the PEM's first and last line.

Nothing here shows key material: not a repr, not an error, not a pickle.
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
    """The text a signature covers; the query string is cut off.

    >>> signed_text(1763800000123, "get", "/trade-api/v2/portfolio/orders?limit=1")
    b'1763800000123GET/trade-api/v2/portfolio/orders'
    """
    return f"{timestamp_ms}{method.upper()}{path.partition('?')[0]}".encode()


class HasCredentials(Protocol):
    """What `Signer.from_settings` reads of `kalshilab.config.settings.Settings`."""

    @property
    def venue(self) -> str: ...
    @property
    def key_id(self) -> str | None: ...
    @property
    def private_key_path(self) -> str | None: ...
    @property
    def private_key(self) -> object | None: ...


class Signer:
    """Signs for one API key.

    Args:
        key_id: the key's id, as the exchange gave it.
        private_key: an RSA or Ed25519 private key.
    """

    __slots__ = ("_key", "key_id")

    def __init__(self, key_id: str, private_key: PrivateKey) -> None:
        self.key_id, self._key = key_id, private_key

    @classmethod
    def from_pem(cls, key_id: str, pem: str | Path) -> Signer:
        """From a key file (a `Path`) or the key's text in any of the usual spellings.

        Raises:
            KeyUnusable: no such file, not a key, encrypted, or of another kind than RSA and Ed25519.
        """
        return cls(key_id, load_private_key(pem))

    @classmethod
    def from_settings(cls, settings: HasCredentials) -> Signer:
        """From the key that the settings name; the text goes before the path.

        Raises:
            CredentialsMissing, KeyUnusable
        """
        secret = settings.private_key
        if not settings.key_id or not (secret or settings.private_key_path):
            raise CredentialsMissing(settings.venue, ("KALSHI_API_KEY_ID", "KALSHI_PRIVATE_KEY_PATH"))
        if secret is not None:
            return cls.from_pem(settings.key_id, str(secret.reveal()))  # type: ignore[attr-defined]
        assert settings.private_key_path is not None
        return cls.from_pem(settings.key_id, Path(settings.private_key_path))

    @property
    def kind(self) -> KeyKind:
        """ "rsa" or "ed25519"."""
        return "rsa" if isinstance(self._key, rsa.RSAPrivateKey) else "ed25519"

    def headers(self, method: str, path: str, now_ms: int) -> dict[str, str]:
        """The three headers of a signed request.

        Args:
            path: from the root, with or without query; only what stands before `?` is signed.
            now_ms: machine time in milliseconds; the exchange accepts some seconds of difference.
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
        raise TypeError("a Signer is not pickled: it holds a private key")


class Verifier:
    """Checks signatures of one API key, as the exchange does."""

    def __init__(self, public_key: PublicKey) -> None:
        self._key = public_key

    def verify(self, headers: Mapping[str, str], method: str, path: str) -> bool:
        """Whether the signature header covers this time, method and path."""
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
    """A fresh private key as PEM bytes, and its public half: for local venues and tests."""
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
    """A private key from a file (a `Path`) or from text in any of the usual spellings.

    Raises:
        KeyUnusable: see `Signer.from_pem`.
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
    """The key as DER bytes; several guesses where the spelling leaves the kind open."""
    text = text.replace("\\r", "").replace("\\n", "\n").strip().strip("\"'")
    armour = _ARMOUR.search(text)
    body = armour.group(2) if armour else text
    if "Proc-Type" in body:
        return [b"encrypted"]
    try:
        # Without its line breaks a base64 body decodes just as well.
        return [base64.b64decode(re.sub(r"\s+", "", body), validate=True)]
    except (binascii.Error, ValueError):
        return []


def _parse(candidates: list[bytes], origin: str) -> PrivateKey:
    for der in candidates:
        if der == b"encrypted":
            raise KeyUnusable(origin, "is encrypted; give it without a passphrase")
        try:
            key = serialization.load_der_private_key(der, password=None)
        except TypeError:
            raise KeyUnusable(origin, "is encrypted; give it without a passphrase") from None
        except (ValueError, UnsupportedAlgorithm):
            continue
        if isinstance(key, rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey):
            return key
        raise KeyUnusable(origin, "is neither RSA nor Ed25519")
    raise KeyUnusable(origin, "is not a private key in PEM form or bare base64")
