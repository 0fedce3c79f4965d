"""The smallest value that a JSON schema allows, for answers that have to keep to one. Pure; used by `echo_wishes`.

It reads what schemas of tools and of `response_format` have. Both come from clients: what they make it do is bounded.
"""

import contextlib
import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

from workers_shim import RequestError

MAX_SIZE = 4_000
"""Values and characters of one instance."""
MAX_DEPTH = 64
MAX_NUMBER = 2**53
"""JSON's numbers are doubles to most readers: above it not every whole one is there."""
MIN_STEP = 1e-9
# Whoever reads them by their format has to be able to.
_FORMATS = {
    "date": "2000-01-01",
    "date-time": "2000-01-01T00:00:00Z",
    "duration": "P1D",
    "email": "echo@example.org",
    "hostname": "example.org",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "time": "00:00:00Z",
    "uri": "https://example.org/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


def minimal_instance(schema: Any) -> Any:
    """
    Raises: RequestError, for a schema that cannot be kept to here: one that nothing fulfils, or has a `pattern`.
    """
    return _Builder(schema).build(schema, 0)


class _Builder:
    """For one schema, whose definitions it looks up."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._left = MAX_SIZE

    def build(self, schema: Any, depth: int) -> Any:
        self._spend(1)
        if depth > MAX_DEPTH:
            raise RequestError(f"the JSON schema is nested more than {MAX_DEPTH} levels deep, or without end")
        if schema is True or schema == {}:
            return {}
        if not isinstance(schema, dict):
            raise RequestError(f"{schema!r:.40} is no JSON schema that anything fulfils")
        if "$ref" in schema:
            return self.build(self._find(schema["$ref"]), depth + 1)
        if "const" in schema:
            return schema["const"]
        if isinstance(schema.get("enum"), list) and schema["enum"]:
            return schema["enum"][0]
        for several in ("anyOf", "oneOf"):
            if isinstance(schema.get(several), list) and schema[several]:
                return self._one_of(schema, schema[several], depth)
        if isinstance(schema.get("allOf"), list):
            rest = {key: value for key, value in schema.items() if key != "allOf"}
            return self.build(_merged([rest, *(self._resolved(part) for part in schema["allOf"])]), depth + 1)
        return self._typed(schema, depth)

    def _one_of(self, schema: dict[str, Any], alternatives: list[Any], depth: int) -> Any:
        rest = {key: value for key, value in schema.items() if key not in ("anyOf", "oneOf")}
        *others, last = [_merged([rest, self._resolved(part)]) for part in alternatives]
        for other in others:
            with contextlib.suppress(RequestError):
                return self.build(other, depth + 1)
        return self.build(last, depth + 1)

    def _typed(self, schema: dict[str, Any], depth: int) -> Any:
        match _type_of(schema):
            case "object":
                return self._object(schema, depth)
            case "array":
                return list(self._items(schema, depth))
            case "string":
                return self._string(schema)
            case "integer":
                return int(_number(schema, 1.0))
            case "number":
                number = _number(schema, 0.0)
                return int(number) if number.is_integer() else number
            case "boolean":
                return False
            case "null":
                return None
            case other:
                raise RequestError(f"the JSON schema has a type {other!r:.40} that is not known here")

    def _object(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        properties = schema.get("properties")
        known: Mapping[str, Any] = properties if isinstance(properties, dict) else {}
        required = schema.get("required")
        names = [name for name in required if isinstance(name, str)] if isinstance(required, list) else []
        return {name: self.build(known.get(name, True), depth + 1) for name in names}

    def _items(self, schema: dict[str, Any], depth: int) -> Iterator[Any]:
        count = _count(schema, "minItems")
        self._spend(count)
        prefix = schema.get("prefixItems")
        schemas = itertools.chain(
            prefix if isinstance(prefix, list) else (), itertools.repeat(schema.get("items", True))
        )
        for item in itertools.islice(schemas, count):
            yield self.build(item, depth + 1)

    def _string(self, schema: dict[str, Any]) -> str:
        if "pattern" in schema:
            raise RequestError("a 'pattern' in a JSON schema cannot be kept to by this engine")
        length = _count(schema, "minLength")
        self._spend(length)
        text = _FORMATS.get(str(schema.get("format")), "")
        return text + "x" * (length - len(text))

    def _resolved(self, part: Any) -> Any:
        for _ in range(MAX_DEPTH):
            if not isinstance(part, dict) or "$ref" not in part:
                return part
            part = self._find(part["$ref"])
        raise RequestError("a '$ref' of the JSON schema leads round in a circle")

    def _find(self, reference: Any) -> Any:
        found = self._root
        if not isinstance(reference, str) or not reference.startswith("#"):
            raise RequestError(f"the JSON schema refers to {reference!r:.80}, which is not in it")
        for name in reference[1:].split("/")[1:]:
            name = name.replace("~1", "/").replace("~0", "~")
            if not isinstance(found, dict) or name not in found:
                raise RequestError(f"the JSON schema refers to {reference!r:.80}, which is not in it")
            found = found[name]
        return found

    def _spend(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise RequestError(f"the JSON schema asks for more than {MAX_SIZE} values and characters")


def _type_of(schema: dict[str, Any]) -> Any:
    kind = schema.get("type")
    if isinstance(kind, list) and kind:
        return kind[0]
    if kind is not None:
        return kind
    return "object" if "properties" in schema or "required" in schema else "array" if "items" in schema else "null"


def _merged(schemas: list[Any]) -> Any:
    """As `allOf` means it, of what is usual: properties of several parts together."""
    whole: dict[str, Any] = {}
    for schema in schemas:
        if not isinstance(schema, dict):
            return schema
        for key, value in schema.items():
            known = whole.get(key)
            if isinstance(known, dict) and isinstance(value, dict):
                whole[key] = known | value
            elif isinstance(known, list) and isinstance(value, list) and key == "required":
                whole[key] = known + value
            else:
                whole[key] = value
    return whole


def _number(schema: dict[str, Any], step: float) -> float:
    """The one nearest to 0 that the bounds allow, or so; `step` 0 for any."""
    low, above = _bound(schema, "minimum", -math.inf), _bound(schema, "exclusiveMinimum", -math.inf)
    high, below = _bound(schema, "maximum", math.inf), _bound(schema, "exclusiveMaximum", math.inf)
    grid = _bound(schema, "multipleOf", 0.0) or step
    if grid and grid < MIN_STEP:
        raise RequestError(f"'multipleOf' in a JSON schema has to be at least {MIN_STEP:g}")
    candidates = [0.0]
    for bound, direction in ((low, 1), (above, 1), (high, -1), (below, -1)):
        if not math.isinf(bound):
            on_grid = (math.ceil if direction > 0 else math.floor)(bound / grid) * grid if grid > 0 else bound
            candidates += [on_grid, on_grid + direction * (grid or 0.5)]
    if not any(map(math.isinf, (max(low, above), min(high, below)))):
        candidates.append((max(low, above) + min(high, below)) / 2 if not grid else 0.0)
    for candidate in candidates:
        if low <= candidate <= high and above < candidate < below:
            return float(candidate)
    raise RequestError("the JSON schema has bounds that no number is within")


def _bound(schema: dict[str, Any], key: str, default: float) -> float:
    value = schema.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or value == default:
        return default
    if not abs(value) <= MAX_NUMBER:
        raise RequestError(f"{key!r} in a JSON schema has to be from -2**53 to 2**53")
    return float(value)


def _count(schema: dict[str, Any], key: str) -> int:
    value = schema.get(key, 0)
    return value if isinstance(value, int) and value > 0 else 0
