"""The patients of a generated export as a hospital would send them: raw readings, image files and notes."""

from __future__ import annotations

import base64
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pandas as pd
import yaml

_SEX = {"F": "female", "M": "male"}


def _read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def raw_patients(source: Path) -> dict[str, dict]:
    """Requests by the patients' keys in the source; nothing of the package reads or converts anything here."""
    zone = ZoneInfo(yaml.safe_load((source / "source.yaml").read_text())["time_zone"])

    def at(text: str) -> str:
        return datetime.fromisoformat(text).replace(tzinfo=zone).isoformat()

    readings = pd.concat([_read(path) for path in sorted((source / "observations").glob("*.csv"))])
    notes, images = _read(source / "notes.csv"), _read(source / "images" / "images.csv")
    requests: dict[str, dict] = {}
    for person in _read(source / "patients.csv").itertuples():
        request: dict = {"sex": _SEX.get(person.sex, "unknown")}
        if person.birth_date:
            request["birth_date"] = person.birth_date
        request["observations"] = [
            {
                "channel": row.measurement,
                "time": at(row.time),
                "value": row.value if "/" in row.value else float(row.value),
                "unit": row.unit,
                "device_id": row.device_id,
            }
            for row in readings[readings["mrn"] == person.mrn].itertuples()
            if row.value
        ]
        own = notes[notes["mrn"] == person.mrn]
        request["note"] = [{"text": row.text, "time": at(row.time)} for row in own.itertuples() if row.text]
        for row in images[images["mrn"] == person.mrn].itertuples():
            request["image"] = base64.b64encode((source / "images" / row.file).read_bytes()).decode()
            request["image_time"] = at(row.time)
        requests[person.mrn] = request
    return requests
