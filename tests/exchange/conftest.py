"""The exchange's machine-readable contract, prepared for jsonschema."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from scripted_day import Day


@cache
def load(path: Path) -> dict[str, Any]:
    """Load a YAML document, with libyaml if it is installed."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return nullable(yaml.load(path.read_text(), Loader=loader))


def nullable(node: Any) -> Any:
    """Convert OpenAPI's `nullable: true` to JSON Schema."""
    if isinstance(node, list):
        return [nullable(n) for n in node]
    if not isinstance(node, dict):
        return node
    made = {k: nullable(v) for k, v in node.items() if k not in ("example", "examples")}
    if made.pop("nullable", False):
        made = {"anyOf": [made, {"type": "null"}]}
    return made


class Contract:
    """Both documents, and the validation of values against them."""

    def __init__(self, folder: Path) -> None:
        self.openapi = load(folder / "openapi.yaml")
        self.asyncapi = load(folder / "asyncapi.yaml")

    def body(self, method: str, path: str, status: int, value: Any) -> None:
        """Validate a REST body against the response of a path.

        Raises:
            jsonschema.ValidationError: with the path of the invalid value.
        """
        answer = self.openapi["paths"][path][method.lower()]["responses"][str(status)]
        self._validate(self.openapi, answer["content"]["application/json"]["schema"], value)

    def frame(self, name: str, value: Any) -> None:
        """Validate a WebSocket frame against a payload schema."""
        self._validate(self.asyncapi, {"$ref": f"#/components/schemas/{name}"}, value)

    @staticmethod
    def _validate(document: dict[str, Any], schema: dict[str, Any], value: Any) -> None:
        rooted = {**schema, "components": document["components"]}
        jsonschema.Draft202012Validator(rooted).validate(value)


@pytest.fixture(scope="session")
def contract(shared: Path) -> Contract:
    return Contract(shared / "specs")


# A week of the exchange, for public reads


@pytest.fixture(scope="module")
def day() -> Day:
    """Return the exchange in the middle of the week, with markets of every status that a tape can produce."""
    d = Day()
    d.play(6_000)
    return d


@pytest.fixture(scope="module")
def archive() -> Day:
    """Return the exchange at the end of the week, with half of the week archived."""
    d = Day(archive_after_us=3 * 86_400_000_000)
    d.play(100_000)
    return d


class Unchecked:
    """A stand-in for the contract where it is not available."""

    def body(self, *arguments: Any) -> None: ...


@pytest.fixture(scope="module")
def by_contract(request: pytest.FixtureRequest) -> Any:
    """Return the contract, or a stand-in so that the other checks of a test still run."""
    try:
        return request.getfixturevalue("contract")
    except pytest.skip.Exception:
        return Unchecked()
