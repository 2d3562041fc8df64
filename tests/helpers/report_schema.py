"""Reads JSON reports, and checks that they have the documented form."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import jsonschema

import pytest_tempres

SCHEMA = Path(pytest_tempres.__file__).with_name("reports") / "report.schema.json"


def read_report(path: Path) -> dict[str, Any]:
    """Return the JSON report at `path`."""
    return validated(path.read_text(encoding="utf-8"))


def validated(text: str) -> dict[str, Any]:
    """Return a JSON report that follows the schema and has no keys that the schema lacks."""
    report = json.loads(text)
    _validator().validate(report)
    return report


@functools.cache
def _validator() -> jsonschema.Draft202012Validator:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(_strict(schema))


def _strict(schema: Any) -> Any:
    """Return `schema` without the permission to add keys."""
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: _strict(value) for key, value in schema.items()}
    if "properties" in schema and "type" in schema:
        strict.setdefault("additionalProperties", False)
    return strict
