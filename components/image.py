"""The container images that the components name.

A local run ignores them; on a cluster they carry this package, so that nothing is installed when a pod starts.
"""

DATA = "vitalfuse/data-python:latest"
VALIDATE = "vitalfuse/validate-python:latest"
TRAIN = "vitalfuse/train-python:latest"
