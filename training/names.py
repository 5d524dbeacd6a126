"""Names of the models, importable without the libraries behind them."""

CANDIDATE = "cnn_lstm_attention"
MODEL_NAMES = (
    CANDIDATE,
    "cnn",
    "lstm",
    "gru",
    "random_forest",
    "svm",
    "transformer",
    "gradient_boosting",
)

# By measured time of a cross-validation on the demo cohort, so that no slow one is left for the end, alone.
SLOWEST_FIRST = (
    "transformer",
    CANDIDATE,
    "cnn",
    "gru",
    "lstm",
    "gradient_boosting",
    "random_forest",
    "svm",
)
