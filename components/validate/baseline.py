"""The statistics of an earlier validation, against which drift is measured."""

from __future__ import annotations

import hashlib
from pathlib import Path

from components.validate.settings import ValidateSettings
from data_schemas.errors import InputError


def baseline_digest(settings: ValidateSettings) -> str:
    """Return a digest of the baseline, part of the step's cache key: the file may be replaced under the same name.

    Args:
        settings: Section ``validate``.

    Returns:
        SHA-256, hexadecimal; empty where the settings name no baseline.

    Raises:
        InputError: It can't be read.
    """
    if settings.baseline is None:
        return ""
    try:
        return hashlib.sha256(Path(settings.baseline).read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(
            f"There is no baseline {settings.baseline} ({error.strerror})",
            field="validate.baseline",
            remedy="Name the statistics.pb of an earlier validation, or null; on a cluster, in a volume that open_run "
            "and validate see",
        ) from error
