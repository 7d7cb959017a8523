"""Signatures: signed requests verify, keys are read in every usual form, and key material is never shown."""

from __future__ import annotations

import base64
import copy
import pickle
import textwrap
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, x25519
from hypothesis import given, settings
from hypothesis import strategies as st

from kalshilab.config.settings import Settings
from kalshilab.errors import CredentialsMissing, KeyUnusable
from kalshilab.kalshi.auth import Signer, Verifier, generate_key, load_private_key, signed_text

KEYS = {kind: generate_key(kind) for kind in ("rsa", "ed25519")}  # type: ignore[arg-type]
KINDS = sorted(KEYS)
PATH = "/trade-api/v2/portfolio/orders"
NOW = 1_795_329_000_123


def text(kind: str) -> str:
    return KEYS[kind][0].decode()


def body(kind: str) -> str:
    return "".join(text(kind).splitlines()[1:-1])


def traditional() -> str:
    key = load_private_key(text("rsa"))
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    ).decode()


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_the_signed_text_is_time_method_and_path() -> None:
    assert signed_text(1763800000123, "GET", PATH) == b"1763800000123GET/trade-api/v2/portfolio/orders"
    assert signed_text(1, "post", "/a?b=c?d") == b"1POST/a"


def test_a_signed_request_verifies(kind: str) -> None:
    signer, verifier = Signer.from_pem("key-1", text(kind)), Verifier(KEYS[kind][1])
    headers = signer.headers("GET", PATH, NOW)
    assert headers.keys() == {"KALSHI-ACCESS-KEY", "KALSHI-ACCESS-TIMESTAMP", "KALSHI-ACCESS-SIGNATURE"}
    assert headers["KALSHI-ACCESS-KEY"] == "key-1" and headers["KALSHI-ACCESS-TIMESTAMP"] == str(NOW)
    raw = base64.b64decode(headers["KALSHI-ACCESS-SIGNATURE"], validate=True)
    assert len(raw) == (256 if kind == "rsa" else 64)
    assert (
        signer.kind == kind
        and verifier.verify(headers, "GET", PATH)
        and verifier.verify(headers, "get", PATH)
    )


def test_the_query_is_not_signed(kind: str) -> None:
    signer, verifier = Signer.from_pem("k", text(kind)), Verifier(KEYS[kind][1])
    assert verifier.verify(signer.headers("GET", PATH + "?limit=5&cursor=x", NOW), "GET", PATH)
    assert verifier.verify(signer.headers("GET", PATH, NOW), "GET", PATH + "?limit=5")


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(KINDS),
    st.sampled_from(["GET", "POST", "DELETE"]),
    st.text(max_size=20),
    st.integers(0, 2**45),
)
def test_a_signature_verifies_only_for_its_own_request(kind: str, method: str, tail: str, now: int) -> None:
    signer, verifier = Signer.from_pem("k", text(kind)), Verifier(KEYS[kind][1])
    path = "/" + tail.replace("?", "").encode("utf-8", "ignore").decode()
    headers = signer.headers(method, path, now)
    assert verifier.verify(headers, method, path)
    assert not verifier.verify(headers, method, path + "x")
    assert not verifier.verify(headers, method + "X", path)
    assert not verifier.verify({**headers, "KALSHI-ACCESS-TIMESTAMP": str(now + 1)}, method, path)


def test_an_invalid_signature_is_rejected_without_an_error(kind: str) -> None:
    verifier, other = Verifier(KEYS[kind][1]), Verifier(generate_key(kind)[1])  # type: ignore[arg-type]
    headers = Signer.from_pem("k", text(kind)).headers("GET", PATH, NOW)
    assert not other.verify(headers, "GET", PATH)
    for bad in ("", "x", "####", "AAAA", headers["KALSHI-ACCESS-SIGNATURE"][:-8] + "AAAAAAA="):
        assert not verifier.verify({**headers, "KALSHI-ACCESS-SIGNATURE": bad}, "GET", PATH)
    assert not verifier.verify({}, "GET", PATH)


# Spellings

SPELLINGS = {
    "pem": lambda k: text(k),
    "pem without last newline": lambda k: text(k).strip(),
    "windows newlines": lambda k: text(k).replace("\n", "\r\n"),
    "indented": lambda k: textwrap.indent(text(k), "    "),
    "blank lines around": lambda k: f"\n\n  {text(k)}\n\n",
    "escaped newlines": lambda k: text(k).replace("\n", "\\n"),
    "escaped windows newlines": lambda k: text(k).replace("\n", "\\r\\n"),
    "newlines became spaces": lambda k: text(k).strip().replace("\n", " "),
    "newlines lost": lambda k: text(k).replace("\n", ""),
    "bare base64": body,
    "bare base64 in lines": lambda k: "\n".join(textwrap.wrap(body(k), 64)),
    "bare base64, lines escaped": lambda k: "\\n".join(textwrap.wrap(body(k), 64)),
    "double quotes": lambda k: f'"{text(k).strip()}"',
    "single quotes, escaped": lambda k: "'" + text(k).replace("\n", "\\n") + "'",
    "quoted base64": lambda k: f'"{body(k)}"',
    "text before and after": lambda k: f"Bag Attributes\n{text(k)}\nthe end",
}


@pytest.mark.parametrize("spelling", sorted(SPELLINGS))
def test_a_key_is_read_in_every_usual_form(spelling: str, kind: str) -> None:
    signer = Signer.from_pem("k", SPELLINGS[spelling](kind))
    assert Verifier(KEYS[kind][1]).verify(signer.headers("GET", PATH, NOW), "GET", PATH)


@pytest.mark.parametrize("spelling", ["{}", "\n{}", '"{}"'])
def test_the_older_rsa_form_is_read(spelling: str) -> None:
    pem = traditional()
    assert "BEGIN RSA PRIVATE KEY" in pem
    older = "".join(pem.splitlines()[1:-1])
    for form in (pem, pem.replace("\n", "\\n"), pem.replace("\n", ""), older):
        signer = Signer.from_pem("k", spelling.format(form))
        assert Verifier(KEYS["rsa"][1]).verify(signer.headers("GET", PATH, NOW), "GET", PATH)


def test_a_key_is_read_from_a_file(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "key.pem"
    file.write_bytes(KEYS[kind][0])
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in (file, Path("~/key.pem")):
        assert Signer.from_pem("k", path).kind == kind


def test_a_signer_is_made_from_the_key_in_the_settings(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    file.write_bytes(KEYS[kind][0])
    by_path = Settings(env={}, env_file=None, venue="demo", key_id="k", private_key_path=str(file))
    by_text = by_path.replace(private_key=text(kind), private_key_path="/no/such/file")
    assert Signer.from_settings(by_path).kind == Signer.from_settings(by_text).kind == kind
    for missing in ({"key_id": None}, {"private_key_path": None}):
        with pytest.raises(CredentialsMissing):
            Signer.from_settings(by_path.replace(**missing))


# Keys that cannot be used


def encrypted(form: serialization.PrivateFormat) -> str:
    return (
        load_private_key(text("rsa"))
        .private_bytes(serialization.Encoding.PEM, form, serialization.BestAvailableEncryption(b"pw"))
        .decode()
    )


def pkcs8(key: ec.EllipticCurvePrivateKey | x25519.X25519PrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def public() -> str:
    return (
        KEYS["rsa"][1]
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: encrypted(serialization.PrivateFormat.PKCS8), "encrypted"),
        (lambda: encrypted(serialization.PrivateFormat.TraditionalOpenSSL), "encrypted"),
        (lambda: pkcs8(ec.generate_private_key(ec.SECP256R1())), "neither RSA nor Ed25519"),
        (lambda: pkcs8(x25519.X25519PrivateKey.generate()), "neither RSA nor Ed25519"),
        (public, "neither a PEM private key nor bare base64"),
        (lambda: "", "neither a PEM private key nor bare base64"),
        (lambda: "hello", "neither a PEM private key nor bare base64"),
        (lambda: body("rsa")[:-40], "neither a PEM private key nor bare base64"),
        (
            lambda: "-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----",
            "neither a PEM private key nor bare base64",
        ),
        (lambda: base64.b64encode(b"x" * 300).decode(), "neither a PEM private key nor bare base64"),
        (lambda: text("rsa")[:200], "neither a PEM private key nor bare base64"),
    ],
)
def test_an_unusable_key_raises_the_reason_without_key_material(make: object, reason: str) -> None:
    pem = make()  # type: ignore[operator]
    with pytest.raises(KeyUnusable, match=reason) as caught:
        load_private_key(pem)
    for n in range(0, max(len(pem) - 16, 0), 16):
        part = pem[n : n + 16]
        if "KEY" not in part and "\n" not in part and "-" not in part:
            assert part not in str(caught.value)


def test_an_unusable_key_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\x00\x80")
    (tmp_path / "other").write_text("hello")
    for name in ("missing", "binary", "other", "."):
        with pytest.raises(KeyUnusable) as caught:
            load_private_key(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)


@given(st.text(max_size=200))
def test_text_that_is_not_a_key_raises_key_unusable(noise: str) -> None:
    with pytest.raises(KeyUnusable):
        load_private_key(noise)


def test_a_signer_shows_no_key_material_and_cannot_be_pickled(kind: str) -> None:
    signer = Signer.from_pem("0123456789abcdef", text(kind))
    for shown in (repr(signer), str(signer), f"{signer}", repr([signer])):
        assert kind in shown and "89abcdef" not in shown
        assert all(line not in shown for line in text(kind).splitlines())
    for attempt in (lambda: pickle.dumps(signer), lambda: copy.copy(signer), lambda: copy.deepcopy(signer)):
        with pytest.raises(TypeError, match="private key"):
            attempt()
    assert not hasattr(signer, "__dict__")
