"""Where the workers of one fit find each other, in the form that TensorFlow reads: TF_CONFIG."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from contextlib import ExitStack

TF_CONFIG = "TF_CONFIG"
# Set by Kubernetes in every pod of an indexed job.
POD_INDEX = "JOB_COMPLETION_INDEX"
# Set by the manifest of a TrainJob.
TRAIN_JOB = "VITALFUSE_TRAIN_JOB"
TRAIN_NODES = "VITALFUSE_TRAIN_NODES"
PORT = 2222
# Kubeflow Trainer gives this name to the job whose pods train.
NODE = "node"


def tf_config(addresses: list[str], index: int) -> str:
    """Return TF_CONFIG for one worker; the first one is the chief.

    Args:
        addresses: ``host:port`` of every worker, in the same order for all of them.
        index: Place of this worker among them.

    Returns:
        The value of the environment variable, JSON.

    Raises:
        ValueError: There is no such place.
    """
    if not 0 <= index < len(addresses):
        raise ValueError(f"There are {len(addresses)} workers, counted from 0; received {index}.")
    return json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}})


def loopback_addresses(count: int) -> list[str]:
    """Find free ports of this machine.

    Args:
        count: Number of workers.

    Returns:
        An address on the loopback interface for each worker. Nothing holds the ports until the workers listen.
    """
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for held in sockets:
            held.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{held.getsockname()[1]}" for held in sockets]


def pod_addresses(job: str, nodes: int) -> list[str]:
    """Return the addresses of the pods of a TrainJob.

    Args:
        job: Name of the TrainJob, which its JobSet and the headless service bear too.
        nodes: Number of its nodes.

    Returns:
        The host names that JobSet gives its pods, each with the port.
    """
    return [f"{job}-{NODE}-0-{index}.{job}:{PORT}" for index in range(nodes)]


def pod_tf_config(environment: Mapping[str, str]) -> str:
    """Return TF_CONFIG of this pod of a TrainJob.

    Args:
        environment: Environment variables of the pod.

    Returns:
        The value of TF_CONFIG: that of the environment where there is one, else one made from the pod's place.

    Raises:
        ValueError: A variable is missing, or is no number that fits.
    """
    if given := environment.get(TF_CONFIG):
        return given
    missing = [name for name in (TRAIN_JOB, TRAIN_NODES, POD_INDEX) if not environment.get(name)]
    if missing:
        raise ValueError(f"The pod of a TrainJob needs {TRAIN_JOB}, {TRAIN_NODES} and {POD_INDEX}; missing {missing}.")
    return tf_config(pod_addresses(environment[TRAIN_JOB], int(environment[TRAIN_NODES])), int(environment[POD_INDEX]))
