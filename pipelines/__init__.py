"""The pipeline, its settings, its runners and the command line."""

import os

# As in components.common: also for `vitalfuse ui` and servers, which start MLflow and import nothing of the steps.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
