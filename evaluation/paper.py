"""The paper's published numbers, looked up by this project's class and model names."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import yaml

NO_CLASS_FIGURE = "the paper has no figure for this class"
NO_MODEL_FIGURE = "the paper has no figure for this model"
_FILE = Path(__file__).with_name("paper_results.yaml")


@dataclass(frozen=True)
class PaperResults:
    """The tables and figures of the paper.

    Attributes:
        class_codes: Normalised class name to the paper's code, "Z1" to "Z6".
        models: This project's model name to the paper's.
        auc: Table II: paper's model name to AUC by code.
        macro_precision: Table III: paper's model name to the precision of each of 10 folds, in [0, 1].
        confusion: Fig. 4, int ``[6, 6]``, true class by row, over all 300 participants.
        accuracy: Fig. 5, by code, in [0, 1].
        kappa_and_mcc: Fig. 6, by code, in words.
        diagnosis_seconds: Fig. 7, by code.
        traditional_seconds: Fig. 7, the traditional electronic record, by code.
    """

    class_codes: dict[str, str]
    models: dict[str, str]
    auc: dict[str, dict[str, float]]
    macro_precision: dict[str, list[float]]
    confusion: np.ndarray
    accuracy: dict[str, float]
    kappa_and_mcc: dict[str, str]
    diagnosis_seconds: dict[str, float]
    traditional_seconds: dict[str, float]

    @property
    def codes(self) -> list[str]:
        """The paper's class codes in the order of ``confusion``."""
        return list(self.accuracy)

    def code(self, class_name: str) -> str | None:
        """Return the paper's code of a class.

        Args:
            class_name: A class of a cohort, such as "diabetes", "COPD" or "Z3".

        Returns:
            "Z1" to "Z6", or None where the paper has no such class.
        """
        return self.class_codes.get(_normalise(class_name))

    def class_auc(self, model: str, class_name: str) -> float | None:
        """Return Table II's AUC.

        Args:
            model: A model of this project, such as "random_forest".
            class_name: A class of a cohort.

        Returns:
            The AUC, or None where the paper has none.
        """
        return self.auc.get(self.models.get(model, ""), {}).get(self.code(class_name) or "")

    def fold_precision(self, model: str) -> list[float] | None:
        """Return Table III's macro precision of the 10 folds, in [0, 1].

        Args:
            model: A model of this project.

        Returns:
            Ten numbers, or None where the paper has none.
        """
        return self.macro_precision.get(self.models.get(model, ""))


@cache
def paper_results() -> PaperResults:
    """Read the paper's numbers.

    Returns:
        The tables and figures.
    """
    content = yaml.safe_load(_FILE.read_text())
    codes = {_normalise(code): code for code in content["classes"]}
    codes |= {entry["name"]: code for code, entry in content["classes"].items()}
    return PaperResults(
        class_codes=codes | content["aliases"],
        models=content["models"],
        auc=content["auc"],
        macro_precision={
            model: [percent / 100 for percent in folds] for model, folds in content["macro_precision_percent"].items()
        },
        confusion=np.array(content["confusion"]),
        accuracy={code: percent / 100 for code, percent in content["accuracy_percent"].items()},
        kappa_and_mcc=content["kappa_and_mcc"],
        diagnosis_seconds=content["diagnosis_seconds"],
        traditional_seconds=content["traditional_seconds"],
    )


def _normalise(name: str) -> str:
    return name.strip().lower().replace(" ", "_").replace("-", "_")
