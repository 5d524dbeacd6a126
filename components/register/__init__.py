"""The ``register`` step: the trained model becomes a version in MLflow's model registry."""
