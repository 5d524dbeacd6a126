"""Checks JSON against the models of the generated client, which come from KFP's API definition."""

from __future__ import annotations

import re
from typing import Any

import kfp_server_api.models as models

_TYPES: dict[str, type | tuple[type, ...]] = {"str": str, "bool": bool, "int": int, "datetime": str}


def faults(data: Any, kind: str, place: str = "") -> list[str]:
    """Return what in the data does not fit the type: unknown fields, wrong types, unknown words of an enumeration."""
    if data is None or kind == "object":
        return []
    if found := re.fullmatch(r"list\[(.*)\]", kind):
        items = enumerate(data) if isinstance(data, list) else []
        return _is(list, data, place) + [
            fault for i, item in items for fault in faults(item, found[1], f"{place}[{i}]")
        ]
    if found := re.fullmatch(r"dict\(str, (.*)\)", kind):
        values = data.items() if isinstance(data, dict) else []
        return _is(dict, data, place) + [
            fault for k, value in values for fault in faults(value, found[1], f"{place}.{k}")
        ]
    if kind in _TYPES:
        return _is(_TYPES[kind], data, place)
    model = getattr(models, kind)
    if hasattr(model, "allowable_values"):
        return [] if data in model.allowable_values else [f"{place}: {data!r} is none of {model.allowable_values}"]
    if not isinstance(data, dict):
        return _is(dict, data, place)
    fields = {model.attribute_map[name]: kind for name, kind in model.openapi_types.items()}
    unknown = [f"{place}.{name}: unknown field of {kind}" for name in data if name not in fields]
    known = [(name, value) for name, value in data.items() if name in fields]
    return unknown + [fault for name, value in known for fault in faults(value, fields[name], f"{place}.{name}")]


def _is(wanted: type | tuple[type, ...], data: Any, place: str) -> list[str]:
    return [] if isinstance(data, wanted) else [f"{place}: {data!r} is no {wanted}"]
