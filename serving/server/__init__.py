"""The server: KServe's Open Inference Protocol endpoints and MLflow's on one FastAPI app, around one predictor."""
