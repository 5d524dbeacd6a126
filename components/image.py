"""The container images that the components name.

They carry this package, so that nothing is installed when a pod starts. Steps that run as processes of this machine
ignore them.
"""

DATA = "vitalfuse/data-python:latest"
VALIDATE = "vitalfuse/validate-python:latest"
TRAIN = "vitalfuse/train-python:latest"
