"""The exchange's machine-readable contract, made ready for jsonschema."""

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
    """A YAML document, quickly where libyaml is there."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return nullable(yaml.load(path.read_text(), Loader=loader))


def nullable(node: Any) -> Any:
    """OpenAPI's `nullable: true` in words jsonschema knows."""
    if isinstance(node, list):
        return [nullable(n) for n in node]
    if not isinstance(node, dict):
        return node
    made = {k: nullable(v) for k, v in node.items() if k not in ("example", "examples")}
    if made.pop("nullable", False):
        made = {"anyOf": [made, {"type": "null"}]}
    return made


class Contract:
    """Both documents, and how to hold a value against them."""

    def __init__(self, folder: Path) -> None:
        self.openapi = load(folder / "openapi.yaml")
        self.asyncapi = load(folder / "asyncapi.yaml")

    def body(self, method: str, path: str, status: int, value: Any) -> None:
        """Hold a REST body against the response of a path.

        Raises:
            jsonschema.ValidationError: with the path of what does not fit.
        """
        answer = self.openapi["paths"][path][method.lower()]["responses"][str(status)]
        self._validate(self.openapi, answer["content"]["application/json"]["schema"], value)

    def frame(self, name: str, value: Any) -> None:
        """Hold a WebSocket frame against a payload schema."""
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
    """In the middle of the week: markets of every status that the tape itself brings about."""
    d = Day()
    d.play(6_000)
    return d


@pytest.fixture(scope="module")
def archive() -> Day:
    """The end of the week, of which half has gone to the archive."""
    d = Day(archive_after=3 * 86_400_000_000)
    d.play(100_000)
    return d


class Unchecked:
    """In place of the contract where it is not at hand."""

    def body(self, *told: Any) -> None: ...


@pytest.fixture(scope="module")
def by_contract(request: pytest.FixtureRequest) -> Any:
    """The contract; what else a test checks is checked without it too."""
    try:
        return request.getfixturevalue("contract")
    except pytest.skip.Exception:
        return Unchecked()
