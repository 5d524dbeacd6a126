"""The reference of all settings, written from the models themselves, so that it cannot go stale."""

from __future__ import annotations

import json
from typing import Any

from pipelines.cluster_settings import STEP_DEFAULTS
from pipelines.settings import Settings

_TITLE = """# Settings

Written by `vitalfuse settings`; a test keeps it true. Any key can be set on the command line too:
`vitalfuse run --set preprocess.folds=10`. A key that doesn't exist is refused with the nearest valid name.
Environment variables in a settings file, such as `${DATA}`, are replaced by their values.
"""


def settings_reference() -> str:
    """Return the reference of all settings.

    Returns:
        Markdown: a table a section, with each key's type, default and meaning.
    """
    schema = Settings.model_json_schema(by_alias=True)
    definitions = schema.get("$defs", {})
    return _TITLE + "".join(_section("", schema, definitions))


def _section(
    prefix: str, node: dict[str, Any], definitions: dict[str, Any], given: dict[str, Any] | None = None
) -> list[str]:
    """Return the tables of a section and of those below it.

    Args:
        prefix: What stands before its keys.
        node: Its schema.
        definitions: Definitions of the whole schema.
        given: Defaults that the section has at this place, over those of its model.
    """
    rows, nested = [], []
    required = node.get("required", [])
    for key, field in node.get("properties", {}).items():
        name = f"{prefix}{key}"
        subsection = _model(field, definitions)
        if subsection is not None:
            nested += _heading(name, subsection) + _section(f"{name}.", subsection, definitions, field.get("default"))
            nested += _step_table() if name == "cluster.defaults" else []
            continue
        if given is not None and key in given and given[key] != field.get("default"):
            field = field | {"default": given[key]}
        default = "required" if key in required else f"`{_default(field)}`"
        meaning = "Selects this section" if "const" in field else field.get("description", "")
        rows.append(f"| `{name}` | {_type(field, definitions)} | {default} | {meaning} |\n")
        for option in _item_models(field, definitions):
            nested += _heading(f"{name}[]", option) + _section(f"{name}[].", option, definitions)
    table = ["\n| key | type | default | meaning |\n| --- | --- | --- | --- |\n", *rows] if rows else []
    return table + nested


def _step_table() -> list[str]:
    """Return the table of the steps that are ready with values of their own."""
    values = {step: resources.model_dump(exclude_none=True) for step, resources in STEP_DEFAULTS.items()}
    keys = list(dict.fromkeys(key for named in values.values() for key in named))
    rows = []
    for step, named in values.items():
        cells = [f"`{json.dumps(named[key])}`" if key in named else "as above" for key in keys]
        rows.append(f"| `{step}` | {' | '.join(cells)} |\n")
    head = f"| step | {' | '.join(keys)} |\n|{' --- |' * (len(keys) + 1)}\n"
    return ["\nThese steps have defaults of their own, which go over `cluster.defaults`:\n\n", head, *rows]


def _default(field: dict[str, Any]) -> str:
    # pydantic's schema leaves out defaults that are made anew for each object: empty ones, here.
    empty = {"array": "[]", "object": "{}"}.get(field.get("type", ""), "null")
    return json.dumps(field["default"]) if "default" in field else empty


def _heading(name: str, node: dict[str, Any]) -> list[str]:
    kind = node.get("properties", {}).get("format", {}).get("const")
    title = f"{name} with format `{kind}`" if kind else name
    first_line = node.get("description", "").partition("\n")[0]
    return [f"\n## {title}\n\n{first_line}\n"]


def _resolve(node: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    return definitions[node["$ref"].rsplit("/", 1)[-1]] if "$ref" in node else node


def _options(node: dict[str, Any], definitions: dict[str, Any]) -> list[dict[str, Any]]:
    options = node.get("anyOf") or node.get("oneOf") or [node]
    return [_resolve(option, definitions) for option in options]


def _model(field: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any] | None:
    models = [option for option in _options(_resolve(field, definitions), definitions) if "properties" in option]
    return models[0] if models else None


def _item_models(field: dict[str, Any], definitions: dict[str, Any]) -> list[dict[str, Any]]:
    if field.get("type") != "array":
        return []
    return [option for option in _options(field.get("items", {}), definitions) if "properties" in option]


def _type(field: dict[str, Any], definitions: dict[str, Any]) -> str:
    names = []
    for option in _options(_resolve(field, definitions), definitions):
        if "const" in option:
            names.append(f"`{option['const']}`")
        elif "enum" in option:
            names += [f"`{value}`" for value in option["enum"]]
        elif option.get("type") == "array":
            names.append("list")
        else:
            names.append(str(option.get("type", "any")) + _bounds(option))
    return " or ".join(names)


def _bounds(option: dict[str, Any]) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    return "".join(f", {sign} {option[name]}" for name, sign in signs.items() if name in option)
