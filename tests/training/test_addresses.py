"""How workers are told of each other: on one machine, and in the pods of a TrainJob."""

from __future__ import annotations

import json

import pytest

from training.addresses import loopback_addresses, pod_addresses, pod_tf_config, tf_config

POD = {"JOB_COMPLETION_INDEX": "1", "VITALFUSE_TRAIN_JOB": "ward-7", "VITALFUSE_TRAIN_NODES": "3"}


def test_tensorflow_reads_what_is_written(monkeypatch):
    import tensorflow as tf

    addresses = ["one:1", "two:2", "three:3"]
    monkeypatch.setenv("TF_CONFIG", tf_config(addresses, 2))
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    assert resolver.cluster_spec().as_dict() == {"worker": addresses}
    assert (resolver.task_type, resolver.task_id) == ("worker", 2)


@pytest.mark.parametrize("index", [-1, 2])
def test_a_place_that_is_not_there_is_refused(index):
    with pytest.raises(ValueError, match=f"2 workers, counted from 0; received {index}"):
        tf_config(["one:1", "two:2"], index)


def test_free_ports_of_the_loopback_interface():
    addresses = loopback_addresses(4)
    assert len(set(addresses)) == 4
    for address in addresses:
        host, port = address.split(":")
        assert host == "127.0.0.1" and 1024 < int(port) < 65536


def test_a_pod_knows_its_place_by_kubernetes_own_variable():
    config = json.loads(pod_tf_config(POD))
    assert config["task"] == {"type": "worker", "index": 1}
    # The host names that JobSet gives: <jobset>-<replicated job>-<job index>-<pod index>.<jobset>
    assert config["cluster"]["worker"] == [f"ward-7-node-0-{index}.ward-7:2222" for index in range(3)]
    assert config["cluster"]["worker"] == pod_addresses("ward-7", 3)


def test_a_tf_config_that_is_there_is_kept():
    assert pod_tf_config(POD | {"TF_CONFIG": "{}"}) == "{}"


@pytest.mark.parametrize("name", POD)
def test_a_missing_variable_is_named(name):
    with pytest.raises(ValueError, match=rf"missing \['{name}'\]"):
        pod_tf_config({key: value for key, value in POD.items() if key != name})
    with pytest.raises(ValueError, match="missing"):
        pod_tf_config(POD | {name: ""})
