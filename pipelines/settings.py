"""The one tree of settings: loaded from YAML, validated, handed out to the steps section by section."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, Field, ValidationError, field_serializer, field_validator, model_validator

from components.common.settings import Section
from components.common.uris import without_passwords
from components.compare.settings import CompareSettings
from components.cross_validate.settings import CrossValidateSettings
from components.embed_text.settings import EmbedTextSettings
from components.ingest.settings import IngestSettings
from components.preprocess.settings import PreprocessSettings
from components.register.settings import RegisterSettings
from components.train.settings import TrainSettings
from components.validate.settings import ValidateSettings
from data_schemas.errors import InputError
from pipelines.cluster_settings import ClusterSettings
from pipelines.deploy_settings import DeploySettings
from pipelines.train_job_settings import TrainJobSettings
from serving.monitor.settings import MonitorSettings
from serving.settings import ServeSettings
from training.names import CANDIDATE, MODEL_NAMES

CONFIGS = Path(__file__).parent / "configs"


class TrackingSettings(Section):
    """Where MLflow keeps runs, artifacts and registered models."""

    uri: str | None = Field(
        default=None,
        description="MLflow tracking URI; without it MLFLOW_TRACKING_URI, else SQLite in the workspace",
    )
    experiment: str = Field(default="vitalfuse", min_length=1, description="MLflow experiment")

    @field_serializer("uri")
    def _without_password(self, uri: str | None) -> str | None:
        """Keep a password to this process: settings are written down with every run, and for a cluster as arguments."""
        return uri and without_passwords(uri)


class Settings(Section):
    """Everything that a run depends on.

    Attributes are the sections; each step sees its own section alone.
    """

    name: str = Field(min_length=1, description="Name of the run, as shown in MLflow")
    workspace: Path = Field(default=Path("workspace"), description="Folder for runs, cache, MLflow store and artifacts")
    tracking: TrackingSettings = TrackingSettings()
    models: list[str] = Field(
        default=list(MODEL_NAMES), min_length=1, description="Models to cross-validate; the candidate is always one"
    )
    shards: int = Field(
        default=1,
        ge=1,
        le=1000,
        description="Parts into which ingest and preprocess divide the patients, as tasks of their own; results do "
        "not depend on it. 1 = no parts",
    )
    ingest: IngestSettings
    # Not called "validate", which is a method of every pydantic model.
    validation: ValidateSettings = Field(default=ValidateSettings(), alias="validate")
    preprocess: PreprocessSettings = PreprocessSettings()
    embed_text: EmbedTextSettings = EmbedTextSettings()
    train: TrainSettings = TrainSettings()
    cross_validate: CrossValidateSettings = CrossValidateSettings()
    compare: CompareSettings = CompareSettings()
    register_model: RegisterSettings = Field(default=RegisterSettings(), alias="register")
    cluster: ClusterSettings = ClusterSettings()
    serve: ServeSettings = ServeSettings()
    monitor: MonitorSettings = MonitorSettings()
    deploy: DeploySettings = DeploySettings()
    train_job: TrainJobSettings = TrainJobSettings()

    @field_validator("models")
    @classmethod
    def _known_models(cls, models: list[str]) -> list[str]:
        for name in models:
            if name not in MODEL_NAMES:
                raise ValueError(f"there is no model {name!r}; {nearest_name(name, list(MODEL_NAMES))}")
        return list(dict.fromkeys(models))

    @model_validator(mode="after")
    def _candidate_is_compared(self) -> Settings:
        if CANDIDATE not in self.models:
            raise ValueError(f"models must hold the candidate {CANDIDATE}, which is compared with the others")
        return self

    def section(self, step: str) -> dict[str, Any]:
        """Return one step's section as plain JSON values, as its component takes it.

        Args:
            step: Step name.

        Returns:
            The section, without keys whose value is None, which KFP can't carry.
        """
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)[step]


def config_names() -> list[str]:
    """Return the names of the ready settings files."""
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def find_config(name_or_path: str) -> Path:
    """Return the settings file of that name or path.

    Args:
        name_or_path: A ready settings file's name, such as ``demo``, or a path.

    Returns:
        The file.

    Raises:
        InputError: There is no such file.
    """
    path = Path(name_or_path)
    if path.is_file():
        return path
    ready = CONFIGS / f"{name_or_path}.yaml"
    if ready.is_file():
        return ready
    raise InputError(
        "there is no such settings file",
        file=name_or_path,
        remedy=f"Give a path to a YAML file, or one of: {', '.join(config_names())}",
    )


def load_settings(path: Path, overrides: list[str] | None = None) -> Settings:
    """Load and validate a settings file.

    Args:
        path: A YAML file.
        overrides: ``section.key=value`` each, with the value in YAML; they go over the file's values.

    Returns:
        The settings.

    Raises:
        InputError: The file is not YAML, or a key or a value is not valid; names the nearest valid key.
    """
    try:
        content = yaml.safe_load(os.path.expandvars(path.read_text())) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        raise InputError(
            f"is not valid YAML ({getattr(error, 'problem', None) or error})",
            file=str(path),
            row=mark.line + 1 if mark else None,
            remedy="Mend the syntax",
        ) from error
    if not isinstance(content, dict):
        raise InputError("does not hold a mapping of sections", file=str(path), remedy="See docs/settings.md")
    for override in overrides or []:
        _apply_override(content, override)
    try:
        return Settings.model_validate(content)
    except ValidationError as error:
        raise _readable(error, path, content) from error


def _apply_override(content: dict, override: str) -> None:
    key, separator, value = override.partition("=")
    if not separator or not key:
        raise InputError(
            f"{override!r} is not of the form section.key=value",
            field="--set",
            remedy="Example: --set preprocess.folds=3",
        )
    *parents, last = key.split(".")
    section: dict | list = content
    for parent in parents:
        section = _subsection(section, parent, key)
    try:
        section[_key(section, last)] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise InputError(f"the value in {override!r} is not valid YAML", field="--set", remedy="Quote it") from error


def _subsection(section: dict | list, name: str, key: str) -> dict | list:
    if isinstance(section, dict) and section.get(name) is None:
        section[name] = {}
    try:
        child = section[_key(section, name)]
    except (IndexError, ValueError):
        child = None
    if not isinstance(child, dict | list):
        raise InputError(f"{name!r} in {key!r} is not a section", field="--set", remedy="See docs/settings.md")
    return child


def _key(section: dict | list, name: str) -> Any:
    return int(name) if isinstance(section, list) else name


def _readable(error: ValidationError, path: Path, content: dict) -> InputError:
    """Turn the first of pydantic's complaints into one line."""
    first = error.errors()[0]
    location = [str(part) for part in first["loc"]]
    field = ".".join(_written_keys(first["loc"], content)) or None
    if first["type"] == "extra_forbidden":
        valid = _valid_keys(Settings, location[:-1])
        nearest = nearest_name(location[-1], valid)
        return InputError(
            "there is no such setting", file=str(path), field=field, remedy=nearest[0].upper() + nearest[1:]
        )
    if first["type"] == "missing":
        return InputError("the setting is missing", file=str(path), field=field, remedy="Add it; see docs/settings.md")
    if first["type"] == "union_tag_invalid":
        tag, valid = first["ctx"]["tag"], first["ctx"]["expected_tags"].replace("'", "").split(", ")
        return InputError(
            f"there is no {tag!r}; {nearest_name(tag, valid)}",
            file=str(path),
            field=f"{field}.{first['ctx']['discriminator'].strip(chr(39))}",
            remedy="See docs/settings.md",
        )
    message = first["msg"].removeprefix("Value error, ")
    received = "" if first["type"] == "value_error" else f"; received {first['input']!r}"
    return InputError(f"{message}{received}", file=str(path), field=field, remedy="See docs/settings.md")


def _written_keys(location: tuple[int | str, ...], content: Any) -> list[str]:
    """Return a place as the user wrote it: without the tags of unions, which pydantic puts between the keys."""
    keys: list[str] = []
    for part in location[:-1]:
        is_key = isinstance(content, dict) and part in content
        if is_key or (isinstance(content, list) and isinstance(part, int)):
            keys.append(str(part))
            content = content[part]
    return keys + [str(part) for part in location[-1:]]


def nearest_name(name: str, valid: list[str]) -> str:
    """Return a hint for a name that is not valid.

    Args:
        name: What was received.
        valid: The valid names.

    Returns:
        The nearest valid name, where one is near, and all valid ones.
    """
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.4)
    names = ", ".join(valid)
    return f"did you mean {close[0]!r}? Valid are: {names}" if close else f"valid are: {names}"


def _valid_keys(model: type[BaseModel], location: list[str]) -> list[str]:
    """Return the keys that are valid at a place in the tree, going by JSON schema to see through unions and lists."""
    schema = model.model_json_schema(by_alias=True)
    definitions = schema.get("$defs", {})
    nodes = [schema]
    for part in location:
        nodes = [child for node in nodes for child in _children(node, part, definitions)]
    return sorted({key for node in nodes for key in _resolve(node, definitions).get("properties", {})})


def _resolve(node: dict, definitions: dict) -> dict:
    return definitions[node["$ref"].rsplit("/", 1)[-1]] if "$ref" in node else node


def _children(node: dict, part: str, definitions: dict) -> list[dict]:
    node = _resolve(node, definitions)
    properties = node.get("properties", {})
    if part in properties:
        return _alternatives(properties[part], definitions)
    if node.get("type") == "array":
        return _alternatives(node["items"], definitions)
    # pydantic puts the tag of a discriminated union into the location: it leads to no child of its own.
    return [node] if properties.get("format", {}).get("const") == part else []


def _alternatives(node: dict, definitions: dict) -> list[dict]:
    node = _resolve(node, definitions)
    options = node.get("anyOf") or node.get("oneOf") or [node]
    return [_resolve(option, definitions) for option in options]
