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
