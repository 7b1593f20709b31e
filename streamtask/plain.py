"""Which models have plain fields only, so that what is written of them is known to be read back as it is.

Told by pydantic's own schema of a class. Whatever is not known here, down to a setting, may change what is read.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

#: What the schema of a model has that has nothing of its own but fields, what that of its fields, and that of one.
_MODEL_KEYS = {"type", "cls", "schema", "custom_init", "root_model", "config", "ref", "metadata"}
_FIELDS_KEYS = {"type", "fields", "model_name", "computed_fields"}
_FIELD_KEYS = {"type", "schema", "metadata"}
#: Types of fields, as schemas name them, whose values JSON says exactly.
_TYPES: dict[str, type] = {"int": int, "str": str, "bool": bool, "float": float}


def plain_fields(cls: type[BaseModel], base: type[BaseModel]) -> dict[str, frozenset[type]]:
    """Of each field the types whose values come back as they are; empty where that is not known of all fields.

    A class with other settings than its `base` is not known.
    """
    schema: Any = cls.__pydantic_core_schema__
    if not isinstance(schema, dict):
        # A field's type is not defined yet.
        return {}
    fields = schema.get("schema", {})
    settings, usual = ({**each.get("config", {}), "title": ""} for each in (schema, base.__pydantic_core_schema__))
    if (
        not schema.keys() <= _MODEL_KEYS
        or schema["type"] != "model"
        or schema.get("custom_init")
        or schema.get("root_model")
        or settings != usual
        or fields.keys() != _FIELDS_KEYS
        or fields["type"] != "model-fields"
        or fields["computed_fields"]
    ):
        return {}
    declared = fields["fields"].items()
    plain = {name: _types(each["schema"]) for name, each in declared if each.keys() <= _FIELD_KEYS}
    return plain if len(plain) == len(declared) and all(plain.values()) else {}


def _types(schema: dict[str, Any]) -> frozenset[type]:
    """The types of a field's values that come back as they are; empty where the field is more than a type."""
    match schema:
        case {"type": "default", "schema": inner} if "serialization" not in schema:
            # What is read has every field: a default changes nothing of it.
            return _types(inner)
        case {"type": "nullable", "schema": inner} if schema.keys() == {"type", "schema"}:
            types = _types(inner)
            return types | {type(None)} if types else types
        case {"type": str(name)} if schema.keys() == {"type"} and name in _TYPES:
            return frozenset((_TYPES[name],))
    return frozenset()
