"""`vitalfuse deploy`: an InferenceService that KServe's own models take, and kubectl applies."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from data_schemas.errors import InputError
from pipelines.deploy import CONTAINER, Release, apply, find_release, render, to_yaml
from pipelines.settings import CONFIGS, Settings, load_settings
from tests.pipelines.authority import AUTHORITY, check_authority
from tests.pipelines.fake_kubernetes import FakeCluster, fake_kubernetes

RELEASE = Release(
    "vitalfuse-diagnosis", "7", "champion", {"vitalfuse.model_digest": "ab12", "vitalfuse.gates": "passed"}
)
SERVICES = "/apis/serving.kserve.io/v1beta1/namespaces/{}/inferenceservices/vitalfuse-diagnosis"
MLFLOW = "http://mlflow.vitalfuse:5000"
POLICIES = "/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies/vitalfuse-diagnosis-ingress"
needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")


def settings(*overrides: str) -> Settings:
    return load_settings(CONFIGS / "demo.yaml", list(overrides))


def rendered(*overrides: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The predictor and its container."""
    service = render(settings(*overrides), RELEASE)[0]
    predictor = service["spec"]["predictor"]
    return predictor, predictor["containers"][0]


def variables(container: dict[str, Any]) -> dict[str, Any]:
    return {item["name"]: item.get("value") or item["valueFrom"]["secretKeyRef"] for item in container["env"]}


def test_kserves_own_models_read_it_and_lose_nothing(monkeypatch):
    import kserve
    from kubernetes import client

    # The client's reader looks types up among its own models; KServe's stand beside them.
    for name in dir(kserve.models):
        if name.startswith("V1beta1") and not hasattr(client.models, name):
            monkeypatch.setattr(client.models, name, getattr(kserve.models, name), raising=False)
    everything = [
        "deploy.canary=10",
        "deploy.service_account=serve",
        "deploy.pull_secrets=[registry]",
        "deploy.node_selector={disk: ssd}",
        "deploy.tolerations=[{key: gpu, effect: NoSchedule}]",
        "deploy.storage_uri=s3://models/7",
    ]
    for overrides in ([], everything):
        service, policy = render(settings(*overrides), RELEASE)
        api = client.ApiClient()
        for content, kind in ((service, "V1beta1InferenceService"), (policy, "V1NetworkPolicy")):
            read = api._ApiClient__deserialize(content, kind)
            assert api.sanitize_for_serialization(read) == content


def test_the_version_is_pinned_and_told():
    service, _ = render(settings(), RELEASE)
    predictor, container = rendered()
    assert (service["apiVersion"], service["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    assert container["name"] == CONTAINER and container["image"] == "vitalfuse/serve-python:latest"
    assert container["command"] == ["vitalfuse"]
    arguments = " ".join(container["args"])
    assert arguments.startswith("serve ") and "--model vitalfuse-diagnosis --version 7" in arguments
    assert "--alias" not in arguments and "canaryTrafficPercent" not in predictor
    told = service["metadata"]["annotations"]
    assert told["vitalfuse/version"] == "7" and told["vitalfuse/alias"] == "champion"
    assert told["vitalfuse/model-digest"] == "ab12" and "not for clinical use" in told["vitalfuse/intended-use"]


def test_the_arguments_are_those_of_vitalfuse_serve():
    from click.testing import CliRunner

    from pipelines.cli import main

    _, container = rendered("serve.max_queue=17", "serve.log.folder=/tmp/log", "serve.alias=challenger")
    context = main.commands["serve"].make_context("serve", container["args"][1:])
    assert context.params["version"] == "7" and context.params["port"] == 8080
    inside = settings(*context.params["overrides"]).serve
    assert inside.max_queue == 17 and inside.log.folder == Path("/tmp/log") and inside.alias == "champion"
    assert CliRunner().invoke(main, ["serve", "--help"]).exit_code == 0


def test_canary_and_replicas_are_kserves_fields():
    predictor, _ = rendered("deploy.canary=10", "deploy.min_replicas=2", "deploy.max_replicas=6")
    assert predictor["canaryTrafficPercent"] == 10
    assert (predictor["minReplicas"], predictor["maxReplicas"]) == (2, 6)
    assert (predictor["scaleMetric"], predictor["scaleTarget"]) == ("concurrency", 8)


def test_the_pod_may_do_next_to_nothing():
    predictor, container = rendered()
    assert predictor["automountServiceAccountToken"] is False
    # Knative refuses a pod with a security context of its own, in the state in which it is installed.
    assert "securityContext" not in predictor
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
        "runAsGroup": 10001,
        "runAsNonRoot": True,
        "runAsUser": 10001,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert container["resources"]["limits"] == {"cpu": "2", "memory": "2Gi"}
    assert container["readinessProbe"]["httpGet"] == {"path": "/v2/health/ready", "port": 8080}
    assert container["livenessProbe"]["httpGet"] == {"path": "/v2/health/live", "port": 8080}


def test_the_pods_trust_the_hospitals_own_authority():
    predictor, container = rendered(AUTHORITY)
    check_authority(predictor, container)


def test_secrets_are_named_and_never_written(monkeypatch):
    monkeypatch.setenv("VITALFUSE_SERVE_TOKEN", "hush-hush")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush-hush")
    text = to_yaml(render(settings(), RELEASE))
    assert "hush" not in text
    found = variables(rendered()[1])
    assert found["VITALFUSE_SERVE_TOKEN"] == {"name": "vitalfuse-serve", "key": "token", "optional": False}
    assert found["VITALFUSE_PREDICTION_KEY"]["optional"] is True
    assert found["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"


def test_a_server_that_another_namespace_does_not_find_is_refused():
    with pytest.raises(
        InputError, match=r"deploy\.mlflow_uri.*namespace ward would look there for the server 'mlflow'"
    ):
        render(settings("deploy.namespace=ward"), RELEASE)
    for more in (
        f"deploy.mlflow_uri={MLFLOW}",
        "deploy.mlflow_uri=http://mlflow:5000",
        f"cluster.mlflow_uri={MLFLOW}",
        "deploy.storage_uri=s3://models/7",
    ):
        assert render(settings("deploy.namespace=ward", more), RELEASE)


def test_istios_sidecar_stays_out():
    assert rendered()[0]["labels"] == {"sidecar.istio.io/inject": "false"}


def test_a_model_folder_in_s3_is_copied_by_kserve():
    _, container = rendered("deploy.storage_uri=s3://models/7")
    assert "--folder /mnt/models" in " ".join(container["args"]) and "--version" not in container["args"]
    found = variables(container)
    assert found["STORAGE_URI"] == "s3://models/7" and "MLFLOW_TRACKING_URI" not in found


def test_only_the_gateway_and_the_namespace_may_ask():
    policy = render(settings("deploy.ingress_namespaces=[gateway]", "deploy.mode=RawDeployment"), RELEASE)[1]
    (rule,) = policy["spec"]["ingress"]
    assert [port["port"] for port in rule["ports"]] == [8080]
    assert rule["from"][0] == {"podSelector": {}}
    assert rule["from"][1]["namespaceSelector"]["matchExpressions"][0]["values"] == ["gateway"]
    assert policy["spec"]["podSelector"]["matchLabels"] == {"serving.kserve.io/inferenceservice": "vitalfuse-diagnosis"}
    assert len(render(settings("deploy.network_policy=false"), RELEASE)) == 1


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("deploy.min_replicas=9", "min_replicas 9 is more than max_replicas 4"),
        ("deploy.memory=4Gi", "memory 4Gi is more than memory_limit 2Gi"),
        ("deploy.name=Not_A_Name", "deploy.name"),
        ("deploy.storage_uri=/home/me/model", "deploy.storage_uri"),
        ("deploy.secrets=[{name: a, keys: {k: V}, steps: [train]}]", "steps belong to cluster.secrets"),
    ],
)
def test_settings_that_do_not_fit_are_refused(override, words):
    with pytest.raises(InputError) as told:
        settings(override)
    assert words in str(told.value)
    with pytest.raises(InputError, match="canary needs the mode Serverless"):
        settings("deploy.mode=RawDeployment", "deploy.canary=10")


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('registry')}/mlflow.db"


@pytest.fixture(scope="module")
def registry(store) -> Any:
    from mlflow import MlflowClient

    client = MlflowClient(store)
    client.create_registered_model("vitalfuse-diagnosis")
    for tags in ({"vitalfuse.gates": "passed"}, {"vitalfuse.gates": "failed"}, {}):
        client.create_model_version("vitalfuse-diagnosis", "file:///nowhere", tags=tags)
    client.set_registered_model_alias("vitalfuse-diagnosis", "champion", "1")
    return client


def test_the_version_is_looked_up_once(registry):
    found = find_release(registry, "vitalfuse-diagnosis", "@champion")
    assert (found.version, found.alias) == ("1", "champion")
    assert find_release(registry, "vitalfuse-diagnosis", "1").alias is None
    assert find_release(registry, "another", "models:/vitalfuse-diagnosis/1").model == "vitalfuse-diagnosis"
    with pytest.raises(InputError, match=r"vitalfuse-diagnosis has no alias @challenger\. There are: @champion"):
        find_release(registry, "vitalfuse-diagnosis", "@challenger")
    with pytest.raises(InputError, match=r"no version 9\. There are: 1, 2, 3"):
        find_release(registry, "vitalfuse-diagnosis", "9")
    with pytest.raises(InputError, match="'newest' is no version"):
        find_release(registry, "vitalfuse-diagnosis", "newest")


def test_a_version_that_failed_its_gates_needs_to_be_asked_for(registry):
    with pytest.raises(InputError, match="version 2 of vitalfuse-diagnosis failed its gates"):
        find_release(registry, "vitalfuse-diagnosis", "2")
    with pytest.raises(InputError, match="version 3 of vitalfuse-diagnosis has no gates"):
        find_release(registry, "vitalfuse-diagnosis", "3")
    for version in ("2", "3"):
        assert find_release(registry, "vitalfuse-diagnosis", version, allow_failed_gates=True).version == version


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    with fake_kubernetes() as found:
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "fake", "cluster": {"server": found.address}}],
            "users": [{"name": "fake", "user": {}}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake"}}],
            "current-context": "fake",
        }
        (tmp_path / "kubeconfig").write_text(yaml.safe_dump(content))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield found


@needs_kubectl
def test_kubectl_applies_it(cluster: FakeCluster):
    manifest = to_yaml(render(settings("deploy.namespace=ward", f"deploy.mlflow_uri={MLFLOW}"), RELEASE))
    dry = apply(manifest, dry_run=True)
    assert "server dry run" in dry and cluster.objects == {}
    printed = apply(manifest, context="fake")
    assert "inferenceservice.serving.kserve.io/vitalfuse-diagnosis" in printed
    service, policy = (cluster.objects[path.format("ward")] for path in (SERVICES, POLICIES))
    assert service == next(yaml.safe_load_all(manifest)) and policy["kind"] == "NetworkPolicy"
    assert all(query["fieldManager"] == ["vitalfuse"] for _, query in cluster.applies)


@needs_kubectl
def test_a_cluster_that_refuses_is_told_in_one_line(cluster: FakeCluster):
    cluster.refuse = "you may not patch inferenceservices"
    with pytest.raises(InputError, match="you may not patch inferenceservices"):
        apply(to_yaml(render(settings(), RELEASE)))


def test_without_kubectl_it_says_so(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match="kubectl is not installed"):
        apply("")


def test_the_command_writes_yaml(registry, store, tmp_path, monkeypatch):
    from click.testing import CliRunner

    from pipelines.cli import main

    monkeypatch.chdir(tmp_path)
    common = ["--set", f"tracking.uri={store}", "--set", f"deploy.mlflow_uri={MLFLOW}"]
    result = CliRunner().invoke(
        main, ["deploy", "@champion", "--canary", "10", "--namespace", "ward", "--output", "d.yaml", *common]
    )
    assert result.exit_code == 0, result.output
    service, policy = yaml.safe_load_all((tmp_path / "d.yaml").read_text())
    assert service["spec"]["predictor"]["canaryTrafficPercent"] == 10
    assert {service["metadata"]["namespace"], policy["metadata"]["namespace"]} == {"ward"}
    printed = CliRunner().invoke(main, ["deploy", "1", "--tracking-uri", store])
    assert len(list(yaml.safe_load_all(printed.stdout))) == 2
    refused = CliRunner().invoke(main, ["deploy", "1", "--dry-run", *common])
    assert refused.exit_code == 2 and "--dry-run: needs --apply" in refused.output
