"""The pipeline as compiled for a cluster: golden files, and what every task must have."""

import json
import os
from pathlib import Path

import pytest
import yaml
from kfp import components

from data_schemas.errors import InputError
from pipelines.cluster import compile_pipeline
from pipelines.cluster_settings import STEPS, TASKS, ClusterSettings, cores, seconds, size_bytes
from pipelines.settings import find_config, load_settings

GOLDEN = Path(__file__).parent / "golden"
# VITALFUSE_UPDATE_GOLDEN=1 writes the golden files anew; look at the difference before you commit it.
UPDATE = bool(os.environ.get("VITALFUSE_UPDATE_GOLDEN"))
LARGE = {
    "images": {"registry": "registry.example.org/ml", "tag": "0.1.0", "pull_secrets": ["registry-login"]},
    "parallelism": 8,
    "steps": {
        "train": {
            "gpus": 1,
            "node_selector": {"gpu": "a100"},
            "tolerations": [{"key": "gpu", "effect": "NoSchedule"}],
            "timeout": "12h",
        },
        "ingest": {"retries": 0, "memory": "8Gi", "memory_limit": "16Gi"},
    },
    "volumes": [{"claim": "hospital-exports", "path": "/data"}],
    "scratch": {"size": "200Gi", "storage_class": "fast", "path": "/minio/mlpipeline"},
    "s3_endpoint": "https://s3.example.org",
    "ca_certificates": {"config_map": "hospital-ca", "key": "hospital.pem"},
    "environment": {"TZ": "UTC"},
}
CASES = {"default": {}, "large": LARGE}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compiled")
    for name, settings in CASES.items():
        compile_pipeline(folder / f"{name}.yaml", ClusterSettings.model_validate(settings))
    return folder


def _documents(compiled, name):
    return list(yaml.safe_load_all((compiled / f"{name}.yaml").read_text()))


def _executors(compiled, name):
    """Return each step's container and its Kubernetes settings."""
    pipeline, platform = _documents(compiled, name)
    kubernetes = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    return {
        executor.removeprefix("exec-").replace("-", "_"): (spec["container"], kubernetes[executor])
        for executor, spec in pipeline["deploymentSpec"]["executors"].items()
    }


def _tasks(compiled, name):
    """Return the specification of each step's task, from whichever part of the graph it is in."""
    pipeline = _documents(compiled, name)[0]
    graphs = [pipeline["root"], *pipeline["components"].values()]
    return {
        task.replace("-", "_"): spec
        for graph in graphs
        for task, spec in graph.get("dag", {}).get("tasks", {}).items()
        if task.replace("-", "_") in TASKS
    }


@pytest.mark.parametrize("name", CASES)
def test_compiled_pipeline_is_the_golden_one(compiled, name):
    golden = GOLDEN / f"{name}.yaml"
    text = (compiled / f"{name}.yaml").read_text()
    if UPDATE:
        golden.write_text(text)
    assert text == golden.read_text(), "if the change is meant: VITALFUSE_UPDATE_GOLDEN=1, and run this test again"


@pytest.mark.parametrize("name", CASES)
def test_compiled_pipeline_loads_again(compiled, name):
    loaded = components.load_component_from_file(str(compiled / f"{name}.yaml"))
    assert loaded.name == "vitalfuse-diagnosis"
    assert {"settings", "ingest_settings", "models", "mlflow_run_id"} <= set(loaded.component_spec.inputs)


@pytest.mark.parametrize("name", CASES)
def test_every_step_has_requests_limits_a_timeout_and_no_root(compiled, name):
    executors = _executors(compiled, name)
    assert set(executors) == set(STEPS)
    for container, kubernetes in executors.values():
        resources = container["resources"]
        assert cores(resources["resourceCpuRequest"]) <= cores(resources["resourceCpuLimit"])
        assert size_bytes(resources["resourceMemoryRequest"]) <= size_bytes(resources["resourceMemoryLimit"])
        assert int(kubernetes["activeDeadlineSeconds"]) > 0
        assert kubernetes["securityContext"]["runAsNonRoot"] is True


def test_steps_are_repeated_with_backoff_and_cached_with_their_code_version(compiled):
    for step, task in _tasks(compiled, "default").items():
        policy = task["retryPolicy"]
        assert policy["maxRetryCount"] == 2
        assert (policy["backoffDuration"], policy["backoffFactor"]) == ("30s", 2.0)
        if step in ("open_run", "record_run", "close_run"):
            assert not task["cachingOptions"].get("enableCache")
        else:
            assert task["cachingOptions"]["enableCache"] is True
            assert "code_version" in task["inputs"]["parameters"]
    assert "retryPolicy" not in _tasks(compiled, "large")["ingest"]


@pytest.mark.parametrize("name", CASES)
def test_a_step_may_be_repeated_until_each_attempt_has_had_its_timeout(compiled, name):
    """Argo ends all retries once this time is over, counted from the first attempt's start."""
    executors = _executors(compiled, name)
    repeated = {step: task["retryPolicy"] for step, task in _tasks(compiled, name).items() if "retryPolicy" in task}
    assert len(repeated) > 8
    for step, policy in repeated.items():
        timeout = int(executors[step][1]["activeDeadlineSeconds"])
        waits = [30 * 2**retry for retry in range(policy["maxRetryCount"])]
        assert seconds(policy["backoffMaxDuration"]) > (len(waits) + 1) * timeout + sum(waits), step


def test_what_is_kept_in_mlflow_is_cached_for_its_store_alone(compiled):
    tasks = _tasks(compiled, "default")
    for step in ("compare", "register"):
        source = tasks[step]["inputs"]["parameters"]["store"]["taskOutputParameter"]
        assert source == {"producerTask": "open-run", "outputParameterKey": "store"}
    # Another store trains no model anew.
    assert "store" not in tasks["train"]["inputs"]["parameters"]


def test_the_last_step_has_the_record_of_every_step_and_none_of_the_large_outputs(compiled):
    artifacts = _tasks(compiled, "default")["record_run"]["inputs"]["artifacts"]
    sources = {name: source["taskOutputArtifact"] for name, source in artifacts.items()}
    report = sources.pop("report")
    assert (report["producerTask"], report["outputArtifactKey"]) == ("compare", "report")
    loop = sources.pop("cross_validate_records")
    assert loop["producerTask"].startswith("for-loop") and loop["outputArtifactKey"].endswith("cross-validate-record")
    steps = {step.replace("_", "-") for step in STEPS} - {"open-run", "record-run", "close-run", "cross-validate"}
    assert {source["producerTask"] for source in sources.values()} == steps
    assert {source["outputArtifactKey"] for source in sources.values()} == {"record"}


def test_the_run_is_closed_also_when_a_step_fails(compiled):
    root = _documents(compiled, "default")[0]["root"]["dag"]["tasks"]
    assert root["close-run"]["triggerPolicy"]["strategy"] == "ALL_UPSTREAM_TASKS_COMPLETED"
    assert set(root) == {"close-run", "exit-handler-1"}


def test_credentials_are_named_and_never_written(compiled):
    for name in CASES:
        for step, (container, kubernetes) in _executors(compiled, name).items():
            named = {secret["secretName"] for secret in kubernetes["secretAsEnv"]}
            own = {"ingest": {"vitalfuse-pseudonyms"}}
            own |= {reader: {"vitalfuse-evidence"} for reader in ("open_run", "compare", "register")}
            assert named == {"vitalfuse-s3", "vitalfuse-mlflow"} | own.get(step, set())
            written = {variable["name"] for variable in container.get("env", [])}
            assert not [name for name in written if "KEY" in name or "PASSWORD" in name or "TOKEN" in name]


def test_pods_learn_the_run_that_they_belong_to(compiled):
    for _, kubernetes in _executors(compiled, "default").values():
        assert kubernetes["fieldPathAsEnv"] == [
            {"name": "KFP_RUN_ID", "fieldPath": "metadata.labels['pipeline/runid']"}
        ]


def test_gpu_node_volume_and_scratch_go_where_they_are_wanted(compiled):
    executors = _executors(compiled, "large")
    container, kubernetes = executors["train"]
    assert container["image"] == "registry.example.org/ml/train-python:0.1.0"
    assert container["resources"]["accelerator"]["resourceType"] == "nvidia.com/gpu"
    assert container["resources"]["accelerator"]["resourceCount"] == "1"
    assert kubernetes["nodeSelector"]["labels"] == {"gpu": "a100"}
    assert kubernetes["tolerations"][0]["key"] == "gpu"
    assert kubernetes["activeDeadlineSeconds"] == str(12 * 3600)
    assert "accelerator" not in executors["compare"][0]["resources"]
    with_claim = {step for step, (_, item) in executors.items() if "pvcMount" in item}
    assert with_claim == {"open_run", "ingest"}
    with_scratch = {step for step, (_, item) in executors.items() if "genericEphemeralVolume" in item}
    assert with_scratch == executors.keys() - {"open_run", "record_run", "close_run"}
    temporary = [item["value"] for item in container["env"] if item["name"] == "TMPDIR"]
    assert temporary == [kubernetes["genericEphemeralVolume"][0]["mountPath"]] == ["/minio/mlpipeline"]


def test_every_step_trusts_the_hospitals_own_authority(compiled):
    for container, kubernetes in _executors(compiled, "large").values():
        (volume,) = kubernetes["configMapAsVolume"]
        assert volume["configMapName"] == "hospital-ca"
        environment = {variable["name"]: variable["value"] for variable in container["env"]}
        for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
            assert environment[name] == f"{volume['mountPath']}/hospital.pem"
    for container, kubernetes in _executors(compiled, "default").values():
        assert "configMapAsVolume" not in kubernetes
        assert "AWS_CA_BUNDLE" not in {variable["name"] for variable in container["env"]}


def test_parallelism_limits_the_loop(compiled):
    pipeline = _documents(compiled, "large")[0]
    limits = [
        task["iteratorPolicy"]["parallelismLimit"]
        for graph in [pipeline["root"], *pipeline["components"].values()]
        for task in graph.get("dag", {}).get("tasks", {}).values()
        if "iteratorPolicy" in task
    ]
    assert limits == [8]


def test_shards_fan_out_and_are_joined(tmp_path):
    settings = ClusterSettings.model_validate(
        LARGE | {"shard_parallelism": 3, "steps": LARGE["steps"] | {"preprocess_shard": {"cpu": "1500m"}}}
    )
    compile_pipeline(tmp_path / "sharded.yaml", settings, shards=4)
    loaded = components.load_component_from_file(str(tmp_path / "sharded.yaml"))
    assert loaded.name == "vitalfuse-diagnosis"
    executors, tasks = _executors(tmp_path, "sharded"), _tasks(tmp_path, "sharded")
    sharded = {"ingest_shard", "merge_cohort", "preprocess_shard", "merge_features"}
    assert set(executors) == set(TASKS) - {"ingest", "preprocess"} and sharded < set(tasks)
    for step in sharded:
        assert tasks[step]["cachingOptions"]["enableCache"] is True
        assert "code_version" in tasks[step]["inputs"]["parameters"]
    # A shard gets what its whole step gets, unless it is named itself; the joining task has what it is given itself.
    requests = {step: executors[step][0]["resources"] for step in sharded}
    assert requests["ingest_shard"]["resourceMemoryRequest"] == "8Gi"
    assert requests["merge_cohort"]["resourceMemoryRequest"] == "1Gi"
    assert requests["preprocess_shard"]["resourceCpuRequest"] == "1500m"
    assert "retryPolicy" not in tasks["ingest_shard"] and "retryPolicy" in tasks["merge_cohort"]
    with_key = [
        step
        for step, (_, item) in executors.items()
        if "vitalfuse-pseudonyms" in {secret["secretName"] for secret in item["secretAsEnv"]}
    ]
    assert with_key == ["ingest_shard"]
    assert {step for step, (_, item) in executors.items() if "pvcMount" in item} == {"open_run", "ingest_shard"}
    assert sharded <= {step for step, (_, item) in executors.items() if "genericEphemeralVolume" in item}
    pipeline = _documents(tmp_path, "sharded")[0]
    loops = [
        (json.loads(task["parameterIterator"]["items"]["raw"]), task["iteratorPolicy"]["parallelismLimit"])
        for graph in [pipeline["root"], *pipeline["components"].values()]
        for task in graph.get("dag", {}).get("tasks", {}).values()
        if "raw" in task.get("parameterIterator", {}).get("items", {})
    ]
    assert loops == [(["1-of-4", "2-of-4", "3-of-4", "4-of-4"], 3)] * 2


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("cluster.steps.train.cpu=8", "cpu 8 is more than cpu_limit 4"),
        ("cluster.steps.trian.gpus=1", "train"),
        ("cluster.environment.AWS_SECRET_ACCESS_KEY=abc", "secret"),
        ("cluster.scratch.size=much", "cluster.scratch.size"),
        ("cluster.backoff.first=soon", "cluster.backoff.first"),
        ("cluster.backoff.longest=10m", "field cluster.backoff.longest: there is no such setting"),
        ("cluster.backoff.factor=1.5", "cluster.backoff.factor"),
        ("cluster.defaults.retries=20", "the last of 20 retries would wait for 4369 h"),
        ("cluster.defaults.tolerations=[{key: gpu, operator: Exists, value: x}]", "Exists takes no value"),
        ("cluster.defaults.tolerations=[{value: x}]", "Equal needs a key"),
        ("cluster.environment.MLFLOW_TRACKING_URI=http://x", "MLFLOW_TRACKING_URI would be overwritten"),
        ("cluster.environment.MLFLOW_REGISTRY_URI=http://x", "cluster.mlflow_uri"),
        ("cluster={scratch: {size: 1Gi}, environment: {TMPDIR: /x}}", "TMPDIR would be overwritten"),
        ("cluster={s3_endpoint: http://s3, environment: {AWS_ENDPOINT_URL_S3: http://x}}", "cluster.s3_endpoint"),
        ("cluster={ca_certificates: {config_map: c}, environment: {SSL_CERT_FILE: /x}}", "cluster.ca_certificates"),
        ("cluster.ca_certificates={config_map: c, key: ../x}", "cluster.ca_certificates.key"),
    ],
)
def test_bad_settings_are_told_in_one_line(override, words):
    with pytest.raises(InputError) as caught:
        load_settings(find_config("demo"), [override])
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_environment_value_that_is_refused_is_not_repeated():
    with pytest.raises(InputError) as caught:
        load_settings(find_config("demo"), ["cluster.environment.DATABASE_PASSWORD=hunter2"])
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "override",
    [
        "cluster.mlflow_uri=http://me:hunter2@mlflow:5000",
        "cluster.s3_endpoint=https://hunter2@s3.example.org",
        "cluster.environment.DSN=postgresql://me:hunter2@database/ward",
        "deploy.mlflow_uri=http://me:hunter2@mlflow:5000",
    ],
)
def test_an_address_that_holds_a_password_is_refused_and_not_repeated(override):
    with pytest.raises(InputError) as caught:
        load_settings(find_config("demo"), [override])
    assert override.partition("=")[0].rpartition(".")[0] in str(caught.value)
    assert "names a user or a password" in str(caught.value) and "hunter2" not in str(caught.value)


def test_variables_that_nothing_overwrites_are_taken():
    kept = {"TMPDIR": "/data/tmp", "AWS_ENDPOINT_URL_S3": "http://s3", "PROXY": "http://proxy:3128"}
    assert ClusterSettings.model_validate({"environment": kept}).environment == kept


@pytest.mark.parametrize(
    ("given", "operator"),
    [
        ({"key": "gpu", "value": "true", "effect": "NoSchedule"}, "Equal"),
        ({"key": "gpu", "effect": "NoSchedule"}, "Exists"),
        ({"key": "gpu", "operator": "Equal"}, "Equal"),
        ({}, "Exists"),
    ],
)
def test_a_toleration_has_an_operator_that_kubernetes_takes(given, operator):
    settings = ClusterSettings.model_validate({"defaults": {"tolerations": [given]}})
    (toleration,) = settings.resources("train").tolerations
    assert toleration.model_dump(exclude_none=True) == given | {"operator": operator}


def test_a_steps_own_values_go_over_the_defaults():
    settings = ClusterSettings.model_validate(
        {"defaults": {"cpu": "1", "timeout": "1h"}, "steps": {"train": {"memory_limit": "64Gi"}}}
    )
    train, compare = settings.resources("train"), settings.resources("compare")
    assert (train.cpu, train.memory, train.memory_limit, train.timeout) == ("2", "4Gi", "64Gi", "24h")
    assert (compare.cpu, compare.timeout, compare.retries) == ("1", "1h", 2)


def test_quantities():
    assert (cores("500m"), cores("2")) == (0.5, 2.0)
    assert (size_bytes("4Gi"), size_bytes("500M")) == (4 * 2**30, 500e6)
    assert (seconds("90s"), seconds("2h")) == (90, 7200)
