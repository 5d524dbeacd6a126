"""Names of the environment variables through which a runner speaks to the steps.

They carry what must stay out of a step's arguments, because it would defeat caching: where this run's logs go, which
MLflow run is the parent, which commit the code is, and the secret keys of the pseudonyms and of sealed predictions.
"""

RUN_FOLDER = "VITALFUSE_RUN_FOLDER"
RUNNER_PROCESS = "VITALFUSE_RUNNER_PROCESS"
PARENT_RUN_ID = "VITALFUSE_PARENT_RUN_ID"
PSEUDONYM_KEY = "VITALFUSE_PSEUDONYM_KEY"
EVIDENCE_KEY = "VITALFUSE_EVIDENCE_KEY"
GIT_COMMIT = "VITALFUSE_GIT_COMMIT"
KFP_RUN_ID = "KFP_RUN_ID"
