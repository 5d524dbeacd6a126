"""Tables of small cohorts."""

from __future__ import annotations

import pandas as pd

from data_schemas.cohort import Channel

CHANNELS = [
    Channel(name="heart_rate", unit="/min", low=20.0, high=300.0),
    Channel(name="body_temperature", unit="Cel", low=25.0, high=45.0),
]
START = pd.Timestamp("2022-06-01T08:00:00Z")


def patients_frame(labels: list[str | None], prefix: str = "p") -> pd.DataFrame:
    return pd.DataFrame(
        {
            "patient_id": [f"{prefix}{i:03d}" for i in range(len(labels))],
            "label": labels,
            "labels": pd.Series([[label] for label in labels], dtype=object),
            "site": None,
            "sex": "unknown",
            "birth_year": pd.array([1960] * len(labels), dtype="Int32"),
        }
    )


def observations_frame(rows: list[tuple]) -> pd.DataFrame:
    """Rows of (patient, device, channel, hours since START, value)."""
    frame = pd.DataFrame(rows, columns=["patient_id", "device_id", "channel", "hours", "value"])
    frame["time"] = START + pd.to_timedelta(frame["hours"].astype(float), unit="h")
    frame["value"] = frame["value"].astype(float)
    return frame.assign(unit="1")
