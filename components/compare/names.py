"""How models and metrics are called in tables and sentences."""

from __future__ import annotations

from evaluation.report import readable

_MODELS = {
    "cnn_lstm_attention": "CNN-LSTM-attention",
    "cnn": "CNN",
    "lstm": "LSTM",
    "gru": "GRU",
    "random_forest": "Random forest",
    "svm": "SVM",
    "transformer": "Transformer",
    "gradient_boosting": "Gradient boosting",
}
METRICS = {
    "macro_auc": "Macro AUC",
    "accuracy": "Accuracy",
    "macro_precision": "Macro precision",
    "kappa": "Kappa",
    "mcc": "MCC",
    "macro_recall": "Macro recall",
    "macro_f1": "Macro F1",
    "log_loss": "Log loss",
    "brier": "Brier score",
    "calibration_error": "Calibration error",
}
HEADLINE = ("macro_auc", "accuracy", "macro_precision", "kappa", "mcc")


def model_name(name: str) -> str:
    """Return how a model is called in text.

    Args:
        name: Registry name, such as "random_forest".

    Returns:
        Such as "Random forest"; another model's own name in words.
    """
    return _MODELS.get(name, readable(name))


def join_names(names: list[str]) -> str:
    """Join model names into a phrase.

    Args:
        names: Registry names, one at least.

    Returns:
        Such as "CNN, LSTM and GRU".
    """
    called = [model_name(name) for name in names]
    return called[0] if len(called) == 1 else f"{', '.join(called[:-1])} and {called[-1]}"
