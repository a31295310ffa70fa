"""The published schema, made short, and what of it a caller would miss: changes that break programs.

``python -m tests.api_schema`` writes ``tests/data/api-schema.json`` anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SNAPSHOT = Path(__file__).parent / "data" / "api-schema.json"
CHANGELOG = Path(__file__).resolve().parents[1] / "docs" / "reference" / "api-changelog.md"
SPOKEN = ("description", "summary", "example", "examples", "tags", "title", "externalDocs")
"""What is for people alone."""


def shortened(schema: dict[str, Any]) -> dict[str, Any]:
    """Paths and schemas, without what is said to people and without errors, which all have one shape."""
    short: dict[str, Any] = _silent({"paths": schema["paths"], "schemas": schema["components"]["schemas"]}, named=True)
    for operations in short["paths"].values():
        for operation in operations.values():
            operation.pop("security", None)
            operation["responses"] = {s: each for s, each in operation["responses"].items() if s.startswith("2")}
    return short


def _silent(node: Any, *, named: bool = False) -> Any:
    """``named``: its keys are names of the API's own, not of the OpenAPI specification."""
    if isinstance(node, dict):
        return {
            key: _silent(value, named=not named and key in ("properties", "paths", "schemas"))
            for key, value in sorted(node.items())
            if named or key not in SPOKEN
        }
    return [_silent(each) for each in node] if isinstance(node, list) else node


def broken(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What a program written for ``before`` may trip over in ``after``, one line each."""
    return [*_operations(before, after), *_schemas(before, after)]


def _operations(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    for path, operations in before["paths"].items():
        for method, old in operations.items():
            name = f"{method.upper()} {path}"
            new = after["paths"].get(path, {}).get(method)
            if new is None:
                yield f"{name} is gone"
                continue
            given = {(each["name"], each["in"]): each for each in new.get("parameters", [])}
            for each in old.get("parameters", []):
                if (each["name"], each["in"]) not in given:
                    yield f"{name}: parameter {each['name']} is gone"
            known = {(each["name"], each["in"]) for each in old.get("parameters", [])}
            for key, each in given.items():
                if each.get("required") and key not in known:
                    yield f"{name}: parameter {each['name']} is required now"
            for status, answer in old["responses"].items():
                if status not in new["responses"]:
                    yield f"{name}: no answer {status} any more"
                elif answer != new["responses"][status]:
                    yield f"{name}: another answer {status}"
            if "requestBody" in new and old.get("requestBody", {}).get("content") != new["requestBody"].get("content"):
                yield f"{name}: another body"


def _schemas(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    bodies = _schemas_of_bodies(after)
    for name, old in before["schemas"].items():
        new = after["schemas"].get(name)
        if new is None:
            yield f"{name} is gone"
            continue
        for key, value in old.get("properties", {}).items():
            changed = new.get("properties", {}).get(key)
            if changed is None:
                yield f"{name}.{key} is gone"
            elif changed != value:
                yield f"{name}.{key} is another kind of value"
        # Of an answer it is a promise, of a body a demand; and the other way round.
        was, now = set(old.get("required", [])), set(new.get("required", []))
        if name in bodies:
            yield from (f"{name}.{key} is required now" for key in sorted(now - was))
        else:
            yield from (
                f"{name}.{key} may be missing now" for key in sorted((was - now) & set(new.get("properties", ())))
            )
        if lost := sorted(map(str, set(old.get("enum", [])) - set(new.get("enum", [])))):
            yield f"{name} has no {', '.join(lost)} any more"


def _schemas_of_bodies(schema: dict[str, Any]) -> set[str]:
    """Names of the schemas that requests are made of."""
    waiting: list[Any] = [
        operation.get("requestBody") for operations in schema["paths"].values() for operation in operations.values()
    ]
    found: set[str] = set()
    while waiting:
        node = waiting.pop()
        if isinstance(node, list):
            waiting += node
        elif isinstance(node, dict):
            waiting += node.values()
            name = str(node.get("$ref", "")).rpartition("/")[2]
            if name and name not in found:
                found.add(name)
                waiting.append(schema["schemas"][name])
    return found


def untold(broken: list[str], changelog: str) -> list[str]:
    """Those of the breaking changes that the changelog does not name."""
    text = " ".join(changelog.split())
    return [line for line in broken if line not in text]


def write() -> None:
    from tests.api_client import openapi

    now = shortened(openapi())
    if SNAPSHOT.exists():
        known = json.loads(SNAPSHOT.read_text(encoding="utf-8"))
        if missing := untold(broken(known, now), CHANGELOG.read_text(encoding="utf-8")):
            raise SystemExit("These break programs. Tell them in the changelog, word by word:\n" + "\n".join(missing))
    SNAPSHOT.parent.mkdir(exist_ok=True)
    SNAPSHOT.write_text(json.dumps(now, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    import os

    import django

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
    django.setup()
    write()
