"""What every step shares: atomic writes, step results, tracking."""

import os

# MLflow reports its use to its makers unless told not to, before it is imported. A hospital's pipeline reports nothing.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
