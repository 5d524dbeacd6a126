"""What the served model takes and gives: patients as a hospital has them, and diagnoses."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import CoreSchema, ErrorDetails, PydanticCustomError, core_schema

ABSTAIN = "abstain"
LOINC: Literal["http://loinc.org"] = "http://loinc.org"
# Of the years that ingest takes time stamps of.
_FIRST_TIME, _AFTER_LAST_TIME = datetime(1678, 1, 1, tzinfo=UTC), datetime(2262, 1, 1, tzinfo=UTC)
_MOST_FAULTS = 100


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a request; it repeats nothing that tells of the patient.

    Attributes:
        field: Path of the field, such as "patients[0].observations[3].unit".
        problem: What is wrong.
        remedy: What the caller can do about it.
        malformed: Whether the request is not of the documented form (HTTP 400); else it is of that form and cannot be
            used (HTTP 422).
    """

    field: str
    problem: str
    remedy: str
    malformed: bool = False

    def __str__(self) -> str:
        """Return the one line that a caller reads."""
        return f"{self.field}: {self.problem}. {self.remedy}."


class InvalidRequest(ValueError):  # noqa: N818 - named as HTTP names it
    """Patients that cannot be diagnosed, with every fault that was found.

    Args:
        faults: The faults, one at least.
    """

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__(self.faults)

    @property
    def malformed(self) -> bool:
        """Whether a fault is one of form (HTTP 400); else all are of content (HTTP 422)."""
        return any(fault.malformed for fault in self.faults)

    def at(self, place: str) -> InvalidRequest:
        """Return the same error for a patient that stands elsewhere.

        Args:
            place: Path of the patient, such as "instances[2]".

        Returns:
            The error, each field's path with ``place`` before it.
        """
        return InvalidRequest(replace(fault, field=_join(place, fault.field)) for fault in self.faults)

    def __str__(self) -> str:
        """Return the first fault in one line, and how many more there are."""
        more = len(self.faults) - 1
        return str(self.faults[0]) + (f" ({more} more)" if more else "")


def _join(place: str, field: str) -> str:
    return f"{place}.{field}" if field and not field.startswith("[") else f"{place}{field}"


def _time_form(value: object) -> object:
    """Let texts with a time of day and Python's own times through: a number is no time stamp here."""
    if isinstance(value, datetime) or (isinstance(value, str) and ":" in value):
        return value
    raise PydanticCustomError("time_form", "is not a time stamp")


class _TimeForm:
    """What a time stamp has to look like; JSON is checked by pydantic's own core alone, as there may be thousands."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        moment = core_schema.datetime_schema(tz_constraint="aware", ge=_FIRST_TIME, lt=_AFTER_LAST_TIME)
        with_time_of_day = core_schema.str_schema(pattern=":")
        return core_schema.json_or_python_schema(
            json_schema=core_schema.chain_schema([with_time_of_day, moment]),
            python_schema=core_schema.no_info_before_validator_function(_time_form, moment),
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, str]:
        return {"type": "string", "format": "date-time"}


def _calendar_date(value: str) -> str:
    # A year or a month stands for its first day.
    try:
        date.fromisoformat(value + "-01-01"[len(value) - 4 :])
    except ValueError as error:
        raise PydanticCustomError("no_date", "is no date") from error
    return value


Time = Annotated[datetime, _TimeForm]
_Date = Annotated[
    str, StringConstraints(strict=True, pattern=r"^\d{4}(-\d{2}(-\d{2})?)?$"), AfterValidator(_calendar_date)
]
_Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
_ShortText = Annotated[str, StringConstraints(strict=True, max_length=200)]
_LongText = Annotated[str, StringConstraints(strict=True, max_length=1_000_000)]
# 48 MB of image file, in base64.
_ImageText = Annotated[str, StringConstraints(strict=True, max_length=64_000_000)]
_PIXELS_SCHEMA = {
    "description": "Pixels in [0, 1]: [height][width] or [height][width][1 or 3]",
    "type": "array",
    "items": {
        "type": "array",
        "items": {"anyOf": [{"type": "number"}, {"type": "array", "items": {"type": "number"}}]},
    },
}
_Pixels = Annotated[list[Any], WithJsonSchema(_PIXELS_SCHEMA)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Observation(_Model):
    """One reading, as it was shown and when, in the unit in which it was shown.

    It has either a channel or a code; ``serving.readings`` looks at that, for all readings at once.
    """

    channel: _ShortText | None = Field(
        default=None, description="Name in channels.yaml, such as heart_rate or blood_pressure", examples=["heart_rate"]
    )
    code: _ShortText | None = Field(default=None, description="LOINC code, in place of channel", examples=["8867-4"])
    system: Literal["http://loinc.org"] = Field(default=LOINC, description="System of the code")
    time: Time = Field(
        description="ISO 8601 with an offset, by the device's clock", examples=["2022-06-01T10:00:00+02:00"]
    )
    value: _Number | _ShortText = Field(description="A number, or a blood pressure as 120/80", examples=[72.0])
    unit: _ShortText | None = Field(
        default=None,
        description="UCUM, or as people write it; the channel's canonical unit where none",
        examples=["/min"],
    )
    device_id: _ShortText | None = Field(
        default=None, description="Where the model knows the device's calibration certificate, it is applied"
    )


class Note(_Model):
    """One clinical note."""

    text: _LongText
    time: Time | None = Field(default=None, description="When it was written")


class Patient(_Model):
    """What is known of one patient; whatever is left out counts as not known."""

    reference: _ShortText | None = Field(
        default=None,
        description="The caller's own key of the patient, to join labels later; the model never sees it, and the "
        "prediction log keeps a keyed hash of it alone",
    )
    observations: list[Observation] = Field(
        default=[], max_length=200_000, description="Readings of all devices, in any order"
    )
    image: _ImageText | _Pixels | None = Field(
        default=None, description="An image file (PNG, JPEG, TIFF, BMP or WebP) in base64, or pixels"
    )
    image_time: Time | None = Field(default=None, description="When the image was taken")
    note: _LongText | Annotated[list[Note], Field(max_length=10_000)] | None = Field(
        default=None, description="The clinical note, or all of them, dated; they are joined in the order of their time"
    )
    sex: Literal["female", "male", "other", "unknown"] | None = Field(
        default=None, description="Read by models that have sex as a channel"
    )
    birth_date: _Date | None = Field(
        default=None, description="Year, month or day; read by models that have age as a channel", examples=["1960"]
    )
    age: Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)] | None = Field(
        default=None, description="Years at the start, in place of birth_date"
    )
    start: Time | None = Field(
        default=None,
        description="When the stay began, such as the admission; without it, at the first reading or document. Read by "
        "models that have sex or age as a channel",
    )
    as_of: Time | None = Field(
        default=None, description="What is dated later is not used; without it, all that is sent is used"
    )

    @model_validator(mode="after")
    def _one_age(self) -> Patient:
        if self.birth_date is not None and self.age is not None:
            raise PydanticCustomError("one_age", "needs either an age or a birth_date")
        return self


class ModelInfo(_Model):
    """Which model has answered."""

    name: str
    version: str | None = Field(description="Version in the registry; null where it was loaded from elsewhere")
    cohort_digest: str = Field(description="Digest of the cohort that it was trained on")


class Diagnosis(_Model):
    """What the model says of one patient. For research and evaluation; not for clinical use."""

    diagnosis: str = Field(description='The most probable class, or "abstain"')
    probabilities: dict[str, float] = Field(description="Calibrated, by class; they sum to 1")
    conformal_set: list[str] | None = Field(
        description="Classes among which the true one is, at the confidence of the calibration; the most probable "
        "first. Null where the model was not calibrated"
    )
    attention: dict[str, float] = Field(description="Weight of each modality; 0 for an absent one; they sum to 1")
    modalities: list[str] = Field(description="Modalities that the diagnosis rests on")
    model: ModelInfo
    warnings: list[str] = Field(description="What was left out or corrected, and why")


_PATIENTS = TypeAdapter(list[Patient])


def parse_patients(content: object, *, place: str = "patients") -> list[Patient]:
    """Check that Python values, such as those of ``json.loads``, are patients.

    Args:
        content: A list of dictionaries.
        place: What the list is called in messages.

    Returns:
        The patients.

    Raises:
        InvalidRequest: They are not; all faults are of form.
    """
    try:
        return _PATIENTS.validate_python(content)
    except ValidationError as error:
        raise InvalidRequest(faults_of(error.errors(include_url=False), place)) from None


def parse_patients_json(content: bytes | str, *, place: str = "patients") -> list[Patient]:
    """Check that a JSON text holds patients; quicker than ``parse_patients`` after ``json.loads``.

    Args:
        content: A JSON list of objects.
        place: What the list is called in messages.

    Returns:
        The patients.

    Raises:
        InvalidRequest: It does not; all faults are of form.
    """
    try:
        return _PATIENTS.validate_json(content)
    except ValidationError as error:
        raise InvalidRequest(faults_of(error.errors(include_url=False), place)) from None


def faults_of(errors: Sequence[ErrorDetails], place: str = "") -> list[Fault]:
    """Turn pydantic's complaints into faults, one a field, without the values that were received.

    Args:
        errors: ``ValidationError.errors()``, also FastAPI's.
        place: Path before each field's own.

    Returns:
        The faults, in order, the first hundred at most.
    """
    faults: dict[str, Fault] = {}
    for error in errors[:_MOST_FAULTS]:
        field = _path(error["loc"], place)
        problem, remedy = _explain(error)
        faults.setdefault(field, Fault(field, problem, remedy, malformed=True))
    # A list of notes is no single text either: only what is wrong inside the list is worth telling.
    inside = {field[: place.start()] for field in faults for place in re.finditer(r"\[\d+\]", field)}
    return [
        fault for field, fault in faults.items() if fault.problem != _PROBLEMS["string_type"] or field not in inside
    ]


_FIELDS = {name for model in (Observation, Note, Patient) for name in model.model_fields}
# Names of fields that a caller may have made up, but that no patient's name looks like.
_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,39}")
_TIME_REMEDY = "Write it as 2022-06-01T10:00:00+02:00, with the offset from UTC"
_VALUE_REMEDY = "Write a finite number, or a blood pressure as 120/80; leave out readings without a value"
_PROBLEMS = {
    "missing": "is missing",
    "json_invalid": "is not JSON",
    "list_type": "is not a list",
    "model_type": "is not an object",
    "model_attributes_type": "is not an object",
    "float_type": "is not a number",
    "string_type": "is not a text",
    "finite_number": "is not a finite number",
    "timezone_aware": "has no offset from UTC",
    "greater_than_equal": "is below zero",
    "too_long": "has more than {limit} items",
    "string_too_long": "has more than {limit} characters",
    "string_unicode": "is not Unicode text",
}
_TIME_PROBLEMS = {
    "string_type": "is not a time stamp",
    "string_pattern_mismatch": "is not a time stamp",
    "greater_than_equal": "is not between the years 1678 and 2261",
    "less_than": "is not between the years 1678 and 2261",
}
_REMEDIES = {
    "time": _TIME_REMEDY,
    "image_time": _TIME_REMEDY,
    "start": _TIME_REMEDY,
    "as_of": _TIME_REMEDY,
    "value": _VALUE_REMEDY,
    "note": "Send a text, or a list of objects with text and time",
    "text": "Send the note's text",
    "sex": "Write female, male, other or unknown",
    "birth_date": "Write it as 1960, 1960-06 or 1960-06-01",
    "age": "Write years, as a number from 0",
    "system": f"Write {LOINC}, or name the channel",
    "image": "Send an image file in base64, or pixels as lists of numbers",
}


def _path(location: tuple[int | str, ...], place: str) -> str:
    path = place
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part in _FIELDS:
            path = _join(path, part) if path else part
    return path


def _explain(error: ErrorDetails) -> tuple[str, str]:
    """Return problem and remedy; pydantic's own words, which may repeat the input, are used for known kinds only."""
    kind, location = error["type"], error["loc"]
    field = next((part for part in reversed(location) if part in _FIELDS), "")
    remedy = _REMEDIES.get(str(field), "Send it as the documentation of the request says")
    if kind == "extra_forbidden":
        name = str(location[-1])
        named = f" '{name}'" if _PLAIN_NAME.fullmatch(name) else ""
        inner: dict[str, type[BaseModel]] = {"observations": Observation, "note": Note}
        owner: type[BaseModel] = next((inner[str(part)] for part in location[:-1] if part in inner), Patient)
        known = ", ".join(owner.model_fields)
        return f"has a field{named} that is not known", f"Leave it out; known are {known}"
    if kind in ("one_age", "time_form", "no_date"):
        return error["msg"], "Send one of the two" if kind == "one_age" else remedy
    if remedy == _TIME_REMEDY and kind in _TIME_PROBLEMS:
        return _TIME_PROBLEMS[kind], remedy
    limit = (error.get("ctx") or {}).get("max_length")
    return _PROBLEMS.get(kind, "is not of the documented form").format(limit=limit), remedy
