"""Rows that were not taken, and the choice between listing a malformed row and ending the step."""

from __future__ import annotations

import re
from typing import Literal

import numpy as np
import pandas as pd

from data_schemas.errors import InputError

OnBadRow = Literal["fail", "reject"]
COLUMNS = ["file", "row", "field", "reason"]

ABSENT = "no value"
DUPLICATE = "duplicate row"
IMPLAUSIBLE = "outside the plausible range"
UNKNOWN_PATIENT = "patient is not in the source's list of patients"

# Numbers and dates are shown to help; any other text might be a name that slipped into the wrong column.
_SAFE_TO_SHOW = re.compile(r"[\dTZ:/.,+\- ]{1,40}")


def shown(text: object) -> str:
    """Describe a malformed value without repeating text that may tell who the patient is.

    Args:
        text: The value received.

    Returns:
        The quoted value where it holds digits and punctuation only, else its length.
    """
    value = str(text)
    if not value.strip():
        return "nothing"
    return repr(value) if _SAFE_TO_SHOW.fullmatch(value) else f"text of {len(value)} characters"


class Rejections:
    """Collects rejected rows of all sources.

    Args:
        on_bad_row: "fail" raises at the first malformed row; "reject" lists it and goes on.
    """

    def __init__(self, on_bad_row: OnBadRow) -> None:
        self.on_bad_row = on_bad_row
        self._parts: list[pd.DataFrame] = []

    def add(self, rows: pd.DataFrame, field: str | pd.Series, reason: str) -> None:
        """List rows that were not taken.

        Args:
            rows: Columns ``file`` and ``row`` (1-based, header included).
            field: Column or channel, one for all rows or one a row.
            reason: Why, the same words for all rows of a kind.
        """
        if len(rows):
            values = field.astype(str).to_numpy() if isinstance(field, pd.Series) else field
            part = pd.DataFrame({"file": rows["file"].astype(str).to_numpy(), "row": rows["row"].to_numpy(np.int64)})
            self._parts.append(part.assign(field=values, reason=reason))

    def malformed(
        self,
        rows: pd.DataFrame,
        field: str,
        reason: str,
        *,
        remedy: str,
        received: pd.Series | None = None,
    ) -> None:
        """End the step at the first of these rows, or list them all, as the setting ``on_bad_row`` says.

        Args:
            rows: Columns ``file`` and ``row``.
            field: Column in which it was found.
            reason: What is wrong.
            remedy: What the user can do about it.
            received: The values of the field, aligned with ``rows``.

        Raises:
            InputError: There is such a row and ``on_bad_row`` is "fail".
        """
        if len(rows) and self.on_bad_row == "fail":
            first = rows.iloc[0]
            problem = reason if received is None else f"{reason}; received {shown(received.iloc[0])}"
            raise InputError(
                problem,
                file=str(first["file"]),
                row=int(first["row"]),
                field=field,
                remedy=f"{remedy}, or set ingest.on_bad_row to reject, which lists such rows and goes on",
            )
        self.add(rows, field, reason)

    def table(self) -> pd.DataFrame:
        """Return all rejected rows (file, row, field, reason) in their order, whoever found them first."""
        if not self._parts:
            return pd.DataFrame({name: pd.Series(dtype="int64" if name == "row" else "object") for name in COLUMNS})
        return in_order(pd.concat(self._parts, ignore_index=True)[COLUMNS])


def in_order(rejected: pd.DataFrame) -> pd.DataFrame:
    """Sort rejected rows by file, row, field and reason.

    Args:
        rejected: Columns file, row, field, reason.

    Returns:
        The sorted rows.
    """
    # Each distinct text is compared once: files, fields and reasons repeat over millions of rows.
    keys = [rejected[name] if name == "row" else pd.factorize(rejected[name], sort=True)[0] for name in COLUMNS]
    return rejected.take(np.lexsort(keys[::-1])).reset_index(drop=True)
