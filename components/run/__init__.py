"""Opens and closes the MLflow run of a pipeline run on a cluster, where no process of ours waits for its end."""
