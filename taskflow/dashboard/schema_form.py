"""From the JSON Schema of a payload to the fields of a form, and back."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct

from taskflow.dashboard.asked import in_utc

LOCAL: Final = "#/$defs/"
WHOLE: Final = ""
"""The path of the one field of a payload that has no fields of its own."""

PREFIX: Final = "payload."
"""Before the names of a payload's fields in a form, and in an InvalidTask."""

KINDS: Final = {
    "date": "date",
    "date-time": "datetime-local",
    "time": "time",
    "email": "email",
    "uri": "url",
}
"""The inputs for the formats of texts."""

BOUNDS: Final = {"minimum": "min", "maximum": "max", "minLength": "minlength", "maxLength": "maxlength"}


class Field(Struct, frozen=True, kw_only=True):
    """An input for one field of a payload; *kind* is its type, or ``select``, ``checkbox``, ``json``."""

    path: str
    kind: str
    is_required: bool = False
    is_nullable: bool = False
    help: str = ""
    value: str = ""
    choices: list[Any] = []
    bounds: dict[str, str] = {}

    @property
    def name(self) -> str:
        """Its name in the form."""
        return PREFIX + self.path if self.path else "payload"


class Unreadable(ValueError):
    """What stands in the field *name* is none of its values."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(problem)
        self.name = name


def fields_of(schema: Mapping[str, Any]) -> list[Field]:
    """The inputs for a payload of this *schema*: one for each of its fields, or one for all of it."""
    defs: Mapping[str, Any] = schema.get("$defs", {})
    top = _resolve(schema, defs)
    properties: Mapping[str, Any] = top.get("properties", {})
    if top.get("type") != "object" or not properties:
        text = "{\n  \n}" if top.get("minProperties") else "{}"
        return [Field(path=WHOLE, kind="json", is_required=True, value=text)]
    required: list[str] = top.get("required", [])
    return [_field(name, part, defs, is_required=name in required) for name, part in properties.items()]


def _resolve(schema: Mapping[str, Any], defs: Mapping[str, Any]) -> Mapping[str, Any]:
    """*schema*, or what it refers to with what it adds to it."""
    reference = schema.get("$ref", "")
    return {**defs[reference.removeprefix(LOCAL)], **schema} if reference.startswith(LOCAL) else schema


def _field(name: str, given: Mapping[str, Any], defs: Mapping[str, Any], *, is_required: bool) -> Field:
    schema = _resolve(given, defs)
    is_nullable = False
    if len(choices := [one for one in schema.get("anyOf", []) if one != {"type": "null"}]) == 1:
        is_nullable = True
        schema = {**schema, **_resolve(choices[0], defs)}
    kind, default = _kind(schema), schema.get("default")
    return Field(
        path=name,
        kind=kind,
        is_required=is_required,
        is_nullable=is_nullable,
        help=schema.get("description", "") if "$ref" not in schema else given.get("description", ""),
        value=_text(default, kind),
        choices=list(schema.get("enum", [])),
        bounds={BOUNDS[key]: str(schema[key]) for key in BOUNDS if key in schema},
    )


def _kind(schema: Mapping[str, Any]) -> str:
    choices = schema.get("enum")
    match schema.get("type"):
        case _ if choices and all(isinstance(choice, str) for choice in choices):
            return "select"
        case "string":
            return KINDS.get(schema.get("format", ""), "text")
        case "integer" | "number":
            return "number"
        case "boolean":
            return "checkbox"
        case _:
            return "json"


def _text(value: Any, kind: str) -> str:
    """How the default *value* stands in the form."""
    if value is None:
        return ""
    if kind == "checkbox":
        return "on" if value else ""
    if kind == "datetime-local":
        return str(value)[:19]
    return value if isinstance(value, str) and kind != "json" else msgspec.json.encode(value).decode()


def payload_of(fields: list[Field], form: Mapping[str, str]) -> bytes:
    """The payload that was filled in, as JSON; raises Unreadable. Whether it fits its type is not checked here."""
    if len(fields) == 1 and fields[0].path == WHOLE:
        return form.get("payload", "").strip().encode()
    payload: dict[str, Any] = {}
    for field in fields:
        text = form.get(field.name, "")
        if field.kind == "checkbox":
            payload[field.path] = bool(text)
        elif text.strip():
            payload[field.path] = _value(field, text)
        elif field.is_nullable and field.is_required:
            payload[field.path] = None
    return msgspec.json.encode(payload)


def _value(field: Field, text: str) -> Any:
    if field.kind in {"number", "json"}:
        try:
            return msgspec.json.decode(text)
        except (ValueError, RecursionError) as error:
            wanted = "a number" if field.kind == "number" else f"JSON ({error})"
            raise Unreadable(field.name, f"Expected {wanted}") from error
    if field.kind == "datetime-local":
        return in_utc(text.strip())
    return text if field.kind in {"text", "select"} else text.strip()
