"""Makes the synthetic patients that the page offers: ``python -m serving.examples`` writes serving/page/examples.

They come from the generator of the demo cohort with a seed of their own, so no model was trained on them.
"""

from __future__ import annotations

import base64
import json
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

from components.common.files import atomic_folder
from components.ingest.demo.classes import CLASS_LABELS
from components.ingest.demo.generate import generate_source
from components.ingest.demo.settings import DemoSettings

EXAMPLES = Path(__file__).with_name("page") / "examples"
SETTINGS = DemoSettings(patients=40, seed=20_300)
NOTICE = "Invented by a generator; no patient exists behind them."
_SEX = {"F": "female", "M": "male"}


def write_examples(folder: Path) -> None:
    """Write one patient a class, and one without image and note, as the server takes them.

    Args:
        folder: Folder to write: ``index.json`` and one file a patient. An earlier one is replaced.
    """
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "source"
        generate_source(source, SETTINGS)
        made = _examples(source)
    with atomic_folder(folder) as target:
        index = []
        for title, patient in made:
            file = title.lower().replace(" ", "_").replace(",", "") + ".json"
            about = f"Synthetic: {NOTICE[0].lower()}{NOTICE[1:]}"
            _write(target / file, {"synthetic": True, "about": about, "patient": patient})
            index.append({"file": file, "title": title})
        _write(target / "index.json", {"synthetic": True, "notice": NOTICE, "patients": index})


def _examples(source: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return title and patient: of each class the first one with series, image and note."""
    tables = {name: pd.read_csv(source / f"{name}.csv", dtype=str) for name in ("patients", "notes", "annotations")}
    images = pd.read_csv(source / "images" / "images.csv", dtype=str)
    readings = pd.concat(pd.read_csv(path, dtype=str) for path in sorted((source / "observations").glob("*.csv")))
    complete = set(readings["mrn"]) & set(images["mrn"]) & set(tables["notes"]["mrn"])
    labels = tables["annotations"].groupby("mrn")["label"].agg(lambda values: values.mode().iloc[0])
    found = []
    for label, class_name in CLASS_LABELS.items():
        mrn = next(mrn for mrn in tables["patients"]["mrn"] if mrn in complete and labels[mrn] == label)
        found.append((f"Labelled {_readable(class_name)}", _patient(mrn, tables, images, readings, source)))
    title, patient = found[-1]
    series_only = {name: value for name, value in patient.items() if not name.startswith(("image", "note"))}
    return [*found, (f"{title}, series alone", series_only)]


def _readable(name: str) -> str:
    return "COPD" if name == "copd" else name.replace("_", " ")


def _patient(
    mrn: str, tables: dict[str, pd.DataFrame], images: pd.DataFrame, readings: pd.DataFrame, source: Path
) -> dict[str, Any]:
    """Return a patient without what names it; device ids stay behind, as they would name other devices elsewhere."""
    person = tables["patients"].set_index("mrn").loc[mrn]
    rows = readings[(readings["mrn"] == mrn) & readings["value"].notna()]
    notes = tables["notes"][tables["notes"]["mrn"] == mrn]
    image = images[images["mrn"] == mrn].iloc[0]
    return {
        "sex": _SEX[str(person["sex"])],
        "birth_date": person["birth_date"][:4],
        "observations": [
            {"channel": channel, "time": time, "value": value, "unit": unit}
            for channel, time, value, unit in zip(
                rows["measurement"], _with_offset(rows["time"]), map(_value, rows["value"]), rows["unit"], strict=True
            )
        ],
        "image": base64.b64encode((source / "images" / image["file"]).read_bytes()).decode(),
        "image_time": _with_offset(pd.Series([image["time"]]))[0],
        "note": [
            {"text": text, "time": time} for text, time in zip(notes["text"], _with_offset(notes["time"]), strict=True)
        ],
    }


def _value(text: str) -> float | str:
    return text if "/" in text else float(text)


def _with_offset(times: pd.Series) -> list[str]:
    """Return local time stamps of the export as ISO 8601; those that summer time skips are moved an hour on."""
    zone = SETTINGS.time_zone
    local = pd.to_datetime(times).dt.tz_localize(zone, ambiguous=True, nonexistent="shift_forward")
    return [time.isoformat() for time in local]


def _write(path: Path, content: object) -> None:
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    path.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_examples(EXAMPLES)
