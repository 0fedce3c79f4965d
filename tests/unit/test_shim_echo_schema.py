"""The smallest value that a JSON schema allows."""

from typing import Any

import pytest

from workers_shim.engines.echo_schema import MAX_SIZE, minimal_instance
from workers_shim.request import RequestError

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "minLength": 2}, "age": {"type": "integer", "minimum": 18}},
    "required": ["name", "age"],
}


@pytest.mark.parametrize(
    ("schema", "instance"),
    [
        ({}, {}),
        ({"type": "object"}, {}),
        (PERSON, {"name": "xx", "age": 18}),
        ({"type": "object", "properties": {"optional": {"type": "string"}}}, {}),
        ({"required": ["a"], "properties": {"a": {"type": "null"}}}, {"a": None}),
        ({"type": "array", "items": PERSON}, []),
        ({"type": "array", "items": {"type": "boolean"}, "minItems": 2}, [False, False]),
        ({"type": "array", "prefixItems": [{"const": 1}], "items": {"const": 2}, "minItems": 3}, [1, 2, 2]),
        ({"type": ["string", "null"]}, ""),
        ({"type": "string", "format": "date"}, "2000-01-01"),
        ({"enum": ["a", "b"]}, "a"),
        ({"const": None}, None),
        ({"anyOf": [{"type": "boolean"}, PERSON]}, False),
        ({"oneOf": [{"type": "string", "pattern": "^a"}, {"type": "null"}]}, None),
        ({"allOf": [{"properties": {"a": {"const": 1}}, "required": ["a"]}, {"$ref": "#/$defs/b"}],
          "$defs": {"b": {"properties": {"b": {"const": 2}}, "required": ["b"]}}}, {"a": 1, "b": 2}),
        ({"$ref": "#/$defs/p", "$defs": {"p": PERSON}}, {"name": "xx", "age": 18}),
        ({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"const": 3}}}, 3),
    ],
)  # fmt: skip
def test_the_smallest_value_that_a_schema_allows(schema: Any, instance: Any) -> None:
    assert minimal_instance(schema) == instance


@pytest.mark.parametrize(
    ("schema", "number"),
    [
        ({"type": "number"}, 0),
        ({"type": "number", "minimum": 1.5}, 1.5),
        ({"type": "number", "exclusiveMinimum": 1, "exclusiveMaximum": 1.25}, 1.125),
        ({"type": "number", "maximum": -3}, -3),
        ({"type": "integer", "minimum": 1.5}, 2),
        ({"type": "integer", "exclusiveMinimum": 5}, 6),
        ({"type": "integer", "exclusiveMaximum": -5}, -6),
        ({"type": "integer", "minimum": 1, "multipleOf": 7}, 7),
        ({"type": "integer", "minimum": 1e15}, 10**15),
    ],
)
def test_numbers_keep_to_their_bounds(schema: Any, number: float) -> None:
    assert minimal_instance(schema) == number


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        (False, "no JSON schema that anything fulfils"),
        ({"type": "string", "pattern": "^a"}, "'pattern'"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "no number"),
        ({"type": "integer", "exclusiveMinimum": 2, "exclusiveMaximum": 3}, "no number"),
        ({"type": "integer", "minimum": 1e300}, "2\\*\\*53"),
        ({"type": "number", "minimum": 1, "multipleOf": 1e-300}, "multipleOf"),
        ({"type": "thing"}, "'thing'"),
        ({"$ref": "#/nowhere"}, "not in it"),
        ({"$ref": "https://example.org/"}, "not in it"),
        ({"$ref": "#"}, "without end"),
        ({"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"$ref": "#/$defs/a"}}}, "circle"),
        ({"type": "object", "required": ["a"], "properties": {"a": {"$ref": "#"}}}, "without end"),
        ({"type": "string", "minLength": 10**9}, str(MAX_SIZE)),
        ({"type": "array", "minItems": 10**9}, str(MAX_SIZE)),
        ({"type": "array", "minItems": 99, "items": {"type": "array", "minItems": 99}}, str(MAX_SIZE)),
    ],
)
def test_what_cannot_be_kept_to_is_the_requests_fault(schema: Any, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        minimal_instance(schema)
