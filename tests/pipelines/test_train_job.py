"""`vitalfuse train-job`: a TrainJob that Kubeflow Trainer's own models take, whose pods may do next to nothing."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml
from click.testing import CliRunner

from components.train.settings import TrainSettings
from data_schemas.errors import InputError
from pipelines.cli import main
from pipelines.deploy import apply, to_yaml
from pipelines.settings import CONFIGS, load_settings
from pipelines.train_job import JOBSET_LABEL, render
from tests.pipelines.authority import AUTHORITY, check_authority
from tests.pipelines.fake_kubernetes import fake_kubernetes
from training.addresses import pod_addresses, pod_tf_config

LOCATIONS = {name: f"s3://bucket/{name}" for name in ("features", "embedding", "model")}
EVERYTHING = [
    "train_job.name=ward-7",
    "train_job.namespace=ward",
    "train_job.nodes=3",
    "train_job.service_account=train",
    "cluster.images={registry: registry.example.org/v, tag: '1.2', pull_secrets: [registry]}",
    "cluster.steps.train={gpus: 1, node_selector: {disk: ssd}, tolerations: [{key: gpu, effect: NoSchedule}]}",
    "cluster.volumes=[{claim: cohort, path: /data, steps: [train]}, {claim: sources, path: /sources}]",
    "cluster.mlflow_uri=http://mlflow.vitalfuse:5000",
    "cluster.s3_endpoint=https://s3.example.org",
    "cluster.environment={NCCL_DEBUG: INFO}",
]


def settings(*overrides):
    return load_settings(CONFIGS / "demo.yaml", list(overrides))


def rendered(*overrides, **locations):
    """The objects by kind."""
    return {item["kind"]: item for item in render(settings(*overrides), **(LOCATIONS | locations))}


def job_spec(objects):
    (replicated,) = objects["TrainingRuntime"]["spec"]["template"]["spec"]["replicatedJobs"]
    return replicated["template"]["spec"]


def pod(objects):
    spec = job_spec(objects)["template"]["spec"]
    (container,) = spec["containers"]
    return spec, container


@pytest.mark.parametrize("overrides", [[], EVERYTHING])
@pytest.mark.parametrize("version", ["1.31", "1.37"])
def test_job_and_policy_are_valid_for_kubernetes(overrides, version):
    import kubernetes_validate

    objects = rendered(*overrides)
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "node"}, "spec": job_spec(objects)}
    # What Trainer fits in from the TrainJob.
    trainer = objects["TrainJob"]["spec"]["trainer"]
    container = job["spec"]["template"]["spec"]["containers"][0]
    container |= {"command": trainer["command"], "args": trainer["args"], "resources": trainer["resourcesPerNode"]}
    container["env"] = container["env"] + trainer["env"]
    job["spec"] |= {"parallelism": trainer["numNodes"], "completions": trainer["numNodes"]}
    for item in (job, objects["NetworkPolicy"]):
        assert kubernetes_validate.validate(item, version, strict=True) == version


@pytest.mark.parametrize("overrides", [[], EVERYTHING])
@pytest.mark.parametrize("kind", ["TrainJob", "TrainingRuntime"])
def test_trainers_own_models_read_it_and_lose_nothing(overrides, kind):
    models = pytest.importorskip("kubeflow_trainer_api.models")
    content = rendered(*overrides)[kind]
    assert getattr(models, f"TrainerV1alpha1{kind}").from_dict(content).to_dict() == content
    broken = json.loads(json.dumps(content))
    broken["spec"]["numberOfNodes"] = 3
    assert getattr(models, f"TrainerV1alpha1{kind}").from_dict(broken).to_dict() != broken


def test_the_pods_find_each_other_by_the_names_that_jobset_gives():
    objects = rendered(*EVERYTHING)
    train_job, runtime = objects["TrainJob"], objects["TrainingRuntime"]
    assert train_job["spec"]["runtimeRef"] == {
        "apiGroup": "trainer.kubeflow.org",
        "kind": "TrainingRuntime",
        "name": runtime["metadata"]["name"],
    }
    assert train_job["apiVersion"] == runtime["apiVersion"] == "trainer.kubeflow.org/v1alpha1"
    assert {item["metadata"]["namespace"] for item in objects.values()} == {"ward"}
    (replicated,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    assert replicated["name"] == "node"
    assert replicated["template"]["metadata"]["labels"] == {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}
    trainer = train_job["spec"]["trainer"]
    assert trainer["numNodes"] == runtime["spec"]["mlPolicy"]["numNodes"] == 3
    assert job_spec(objects)["completionMode"] == "Indexed", "else Kubernetes sets no JOB_COMPLETION_INDEX"
    variables = {item["name"]: item["value"] for item in trainer["env"]} | {"JOB_COMPLETION_INDEX": "2"}
    config = json.loads(pod_tf_config(variables))
    assert config["cluster"]["worker"] == pod_addresses("ward-7", 3)
    assert config["cluster"]["worker"][0] == f"{train_job['metadata']['name']}-node-0-0.ward-7:2222"
    assert config["task"]["index"] == 2
    _, container = pod(objects)
    assert container["ports"] == [{"containerPort": 2222, "name": "grpc", "protocol": "TCP"}]


def test_istios_sidecar_stays_out():
    labels = job_spec(rendered())["template"]["metadata"]["labels"]
    assert labels["sidecar.istio.io/inject"] == "false", "a sidecar would keep the job from ending"
    assert labels["app.kubernetes.io/component"] == "train-job"


def test_the_pods_get_the_section_train_and_start_no_workers_themselves():
    trainer = rendered("train.workers=4", "train.members=2")["TrainJob"]["spec"]["trainer"]
    assert trainer["command"] == ["python3", "-m", "components.train.pod"]
    *locations, section = trainer["args"]
    assert locations == list(LOCATIONS.values())
    wanted = settings("train.members=2").train
    assert TrainSettings.model_validate_json(section) == wanted and wanted.workers == 1


def test_resources_of_a_node_are_those_of_the_step():
    resources = rendered("cluster.steps.train={cpu: 3, cpu_limit: 6, memory: 2Gi, memory_limit: 9Gi, gpus: 1}")[
        "TrainJob"
    ]["spec"]["trainer"]["resourcesPerNode"]
    assert resources["requests"] == {"cpu": "3", "memory": "2Gi"}
    assert resources["limits"] == {"cpu": "6", "memory": "9Gi", "nvidia.com/gpu": "1"}
    without = rendered()["TrainJob"]["spec"]["trainer"]["resourcesPerNode"]
    assert set(without["limits"]) == {"cpu", "memory"}


def test_a_pod_that_fails_starts_all_anew_but_bad_input_and_time_do_not():
    objects = rendered("cluster.steps.train={retries: 5, timeout: 3h}")
    spec = job_spec(objects)
    policy = objects["TrainingRuntime"]["spec"]["template"]["spec"]["failurePolicy"]
    assert spec["backoffLimit"] == 0 and policy["maxRestarts"] == 5 and spec["activeDeadlineSeconds"] == 3 * 3600
    (rule,) = policy["rules"]
    assert rule["action"] == "FailJobSet" and rule["onJobFailureReasons"] == ["PodFailurePolicy", "DeadlineExceeded"]
    (exits,) = spec["podFailurePolicy"]["rules"]
    assert exits["action"] == "FailJob" and exits["onExitCodes"]["values"] == [2]
    assert exits["onExitCodes"]["containerName"] == pod(objects)[1]["name"]
    assert pod(objects)[0]["restartPolicy"] == "Never"


def test_the_pods_may_do_next_to_nothing():
    objects = rendered(*EVERYTHING)
    spec, container = pod(objects)
    assert spec["automountServiceAccountToken"] is False and spec["enableServiceLinks"] is False
    assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["runAsUser"] == 10001
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "runAsUser": 10001,
        "runAsGroup": 10001,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert container["image"] == "registry.example.org/v/train-python:1.2"
    assert [mount["mountPath"] for mount in container["volumeMounts"]] == ["/tmp", "/data"]
    assert spec["volumes"][0]["emptyDir"] == {"sizeLimit": "20Gi"}
    rule = objects["NetworkPolicy"]["spec"]
    (ingress,) = rule["ingress"]
    assert rule["podSelector"] == ingress["from"][0]["podSelector"] == {"matchLabels": {JOBSET_LABEL: "ward-7"}}
    assert [port["port"] for port in ingress["ports"]] == [2222] and len(ingress["from"]) == 1
    assert "NetworkPolicy" not in rendered("train_job.network_policy=false")


def test_the_pods_trust_the_hospitals_own_authority():
    predictor, container = pod(rendered(AUTHORITY))
    check_authority(predictor, container)


def test_secrets_are_named_and_never_written(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush-hush")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hush-hush")
    objects = rendered(*EVERYTHING)
    assert "hush" not in to_yaml(list(objects.values()))
    variables = {item["name"]: item for item in pod(objects)[1]["env"]}
    assert variables["AWS_SECRET_ACCESS_KEY"]["valueFrom"]["secretKeyRef"]["name"] == "vitalfuse-s3"
    assert variables["MLFLOW_TRACKING_URI"]["value"] == "http://mlflow.vitalfuse:5000"
    assert variables["MLFLOW_EXPERIMENT_NAME"]["value"] == "vitalfuse"
    assert variables["AWS_ENDPOINT_URL_S3"]["value"] == "https://s3.example.org"
    # Secrets of other steps stay away: the keys of the pseudonyms and of sealed predictions.
    assert not any("PSEUDONYM" in name or "EVIDENCE" in name for name in variables)


@pytest.mark.parametrize("location", ["/data/f", "features", "s3://bucket", "/sources/f", "/data/../etc"])
def test_a_location_that_the_pods_do_not_see_is_refused(location):
    overrides = [] if location == "/data/f" else [EVERYTHING[6]]
    with pytest.raises(InputError, match="in no claim that the pods see"):
        rendered(*overrides, features=location)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ([], r"cluster\.mlflow_uri.*namespace ward would look there for the server 'mlflow'.*//mlflow\.vitalfuse:5000"),
        (["cluster.s3_endpoint=http://s3:8333"], "cluster.mlflow_uri"),
        (
            ["cluster.mlflow_uri=http://mlflow.vitalfuse:5000", "cluster.s3_endpoint=http://s3:8333"],
            r"cluster\.s3_endpoint.*server 's3' of cluster\.s3_endpoint.*http://s3\.vitalfuse:8333; or http://s3\.ward:8333",
        ),
    ],
)
def test_a_server_that_another_namespace_does_not_find_is_refused(overrides, words):
    with pytest.raises(InputError, match=words):
        rendered("train_job.namespace=ward", *overrides)


def test_a_server_that_the_namespace_finds_is_taken():
    assert rendered("cluster.s3_endpoint=http://s3:8333")
    named = ["train_job.namespace=ward", "cluster.mlflow_uri=http://mlflow.vitalfuse:5000"]
    assert rendered(*named)
    # S3 is not asked by pods whose files are in a claim.
    claimed = {name: f"/data/{name}" for name in LOCATIONS}
    assert rendered(*named, EVERYTHING[6], "cluster.s3_endpoint=http://s3:8333", **claimed)


@pytest.mark.parametrize("prefix", ["s3://bucket", "/data"])
@pytest.mark.parametrize("model", ["run", "run/features", "run//embedding/", "run/features/model"])
def test_a_model_that_would_be_written_over_its_inputs_is_refused(prefix, model):
    inputs = {name: f"{prefix}/run/{name}" for name in ("features", "embedding")}
    with pytest.raises(InputError, match=f"this place is, contains or lies in {prefix}/run/"):
        rendered(EVERYTHING[6], **inputs, model=f"{prefix}/{model}")
    assert rendered(EVERYTHING[6], **inputs, model=f"{prefix}/run/features2")


def test_a_location_in_a_claim_is_taken():
    assert rendered(EVERYTHING[6], model="/data/models/7")["TrainJob"]["spec"]["trainer"]["args"][2] == "/data/models/7"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train_job.name=Ward_7", "train_job.name"),
        ("train_job.nodes=0", "train_job.nodes"),
        ("cluster.steps.train.gpus=2", "a node fits on one GPU"),
        ("train.optimiser.batch_size=1", "2 nodes can't share batches of 1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(override, words):
    with pytest.raises(InputError) as told:
        rendered(override)
    assert words in str(told.value)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kubectl_applies_it(tmp_path, monkeypatch):
    with fake_kubernetes() as cluster:
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "fake", "cluster": {"server": cluster.address}}],
            "users": [{"name": "fake", "user": {}}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake"}}],
            "current-context": "fake",
        }
        (tmp_path / "kubeconfig").write_text(yaml.safe_dump(content))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        objects = render(settings(), **LOCATIONS)
        assert "trainjob.trainer.kubeflow.org/vitalfuse-train" in apply(to_yaml(objects))
        assert {item["kind"] for item in cluster.objects.values()} == {item["kind"] for item in objects}


def test_the_command_prints_or_writes_yaml(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    printed = CliRunner().invoke(main, ["train-job", *LOCATIONS.values(), "--nodes", "4", "--name", "ward-8"])
    assert printed.exit_code == 0, printed.output
    objects = {item["kind"]: item for item in yaml.safe_load_all(printed.stdout)}
    assert objects["TrainJob"]["spec"]["trainer"]["numNodes"] == 4
    assert {objects[kind]["metadata"]["name"] for kind in ("TrainJob", "TrainingRuntime")} == {"ward-8"}
    written = CliRunner().invoke(main, ["train-job", *LOCATIONS.values(), "--output", "job.yaml"])
    assert "wrote job.yaml: TrainJob vitalfuse-train, 2 nodes" in written.stderr
    assert len(list(yaml.safe_load_all((tmp_path / "job.yaml").read_text()))) == 3
    elsewhere = CliRunner().invoke(main, ["train-job", *LOCATIONS.values(), "--namespace", "ward"])
    assert elsewhere.exit_code == 2 and "cluster.mlflow_uri: pods of the namespace ward" in elsewhere.output
    assert len(elsewhere.output.strip().splitlines()) == 1
    refused = CliRunner().invoke(main, ["train-job", *LOCATIONS.values(), "--context", "ward"])
    assert refused.exit_code == 2 and "--context: needs --apply" in refused.output
