"""Whether a model is no worse than the champion, on the patients that both held out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from components.common.sealed import matched_rows
from components.register.settings import GateSettings
from data_schemas.errors import InputError
from data_schemas.predictions import TEST
from evaluation.intervals import bootstrap_weights
from evaluation.resampled import macro_auc

_PREFIX = "probability:"


@dataclass(frozen=True)
class NonInferiority:
    """A paired difference of macro AUC, version minus champion.

    Attributes:
        difference: On the common patients.
        bound: Its one-sided lower bootstrap bound.
        common: Patients held out by both, with the same label.
    """

    difference: float
    bound: float
    common: int


def compare_with_champion(own: pd.DataFrame, champion: pd.DataFrame, settings: GateSettings) -> NonInferiority:
    """Compare a version with the champion by predictions that were made already.

    Args:
        own: The version's blinded predictions.
        champion: The champion's, blinded with the same key.
        settings: Confidence, resamples, and the smallest number of common patients.

    Returns:
        The difference and its bound.

    Raises:
        InputError: They can't be compared: other classes, or too few common patients.
    """
    classes = class_names(own)
    if set(class_names(champion)) != set(classes):
        raise InputError("the champion has other classes")
    tables = {"own": own[own["set"] == TEST], "champion": champion[champion["set"] == TEST]}
    rows, counts = matched_rows(tables, classes)
    if counts["common"] < settings.smallest_common:
        raise InputError(
            f"the champion held out {counts['common']} of the same patients with the same label; "
            f"{settings.smallest_common} are needed"
        )
    mine = rows["own"]
    weights = bootstrap_weights(mine.labels, mine.groups, resamples=settings.resamples, seed=settings.seed)
    once = np.ones((1, len(mine)))
    resampled = macro_auc(mine, weights) - macro_auc(rows["champion"], weights)
    return NonInferiority(
        difference=float((macro_auc(mine, once) - macro_auc(rows["champion"], once))[0]),
        bound=float(np.nanquantile(resampled, 1 - settings.confidence)),
        common=mine.group_count,
    )


def class_names(predictions: pd.DataFrame) -> list[str]:
    """Return the classes of a predictions table, in its order.

    Args:
        predictions: Columns ``probability:<class>``.

    Returns:
        Class names.
    """
    return [column.removeprefix(_PREFIX) for column in predictions.columns.astype(str) if column.startswith(_PREFIX)]
