"""The manifests: valid for Kubernetes, and within the rules that docs/kubernetes.md states."""

from __future__ import annotations

import re
import shutil

import pytest
import yaml

from pipelines.cluster_settings import STEPS, ClusterSettings, cores, size_bytes
from tests.infra.manifests import OVERLAYS, UPGRADED, by_name, containers, of_kind, render, selects, workloads

# The oldest and the newest version that docs/kubernetes.md names.
VERSIONS = ("1.31", "1.37")
# Pods that others make in the namespace.
OTHER_PODS = {
    "steps": {"pipeline/runid": "a-run"},
    "train-job": {"app.kubernetes.io/name": "vitalfuse", "app.kubernetes.io/component": "train-job"},
    "served": {"serving.kserve.io/inferenceservice": "vitalfuse-diagnosis"},
}
# KFP makes this one itself, for its own object store.
KFPS_SECRETS = {"mlpipeline-minio-artifact"}

pytestmark = pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("overlay", [*OVERLAYS, UPGRADED])
def test_every_object_is_valid(overlay, version):
    import kubernetes_validate

    for item in render(overlay):
        assert kubernetes_validate.validate(item, version, strict=True) == version


def test_the_validation_refuses_what_kubernetes_would():
    import kubernetes_validate

    broken = yaml.safe_load(yaml.safe_dump(by_name(render("small"), "Deployment", "mlflow")))
    broken["spec"]["template"]["spec"]["containers"][0]["readOnlyRootFilesystem"] = True
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSIONS[0], strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_objects_are_there_once_and_in_the_namespace(overlay):
    names = [(item["kind"], item["metadata"]["name"]) for item in render(overlay)]
    assert len(names) == len(set(names))
    for item in render(overlay):
        if item["kind"] != "Namespace":
            assert item["metadata"]["namespace"] == "vitalfuse", item["metadata"]["name"]
            assert "Cluster" not in item["kind"], "nothing reaches beyond the namespace"
    (namespace,) = of_kind(render(overlay), "Namespace")
    labels = namespace["metadata"]["labels"]
    assert {labels[f"pod-security.kubernetes.io/{mode}"] for mode in ("enforce", "audit", "warn")} == {"restricted"}


@pytest.mark.parametrize("overlay", [*OVERLAYS, UPGRADED])
def test_every_pod_is_within_the_restricted_profile(overlay):
    """The checks of https://kubernetes.io/docs/concepts/security/pod-security-standards/, and a read-only root."""
    allowed = {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
    for _, template in workloads(render(overlay)):
        spec = template["spec"]
        pod = spec["securityContext"]
        assert pod["runAsNonRoot"] is True
        assert pod["runAsUser"] > 0
        assert pod["seccompProfile"]["type"] == "RuntimeDefault"
        assert not any(spec.get(name) for name in ("hostNetwork", "hostPID", "hostIPC", "hostUsers"))
        assert not pod.get("sysctls")
        for volume in spec.get("volumes", []):
            assert set(volume) - {"name"} <= allowed
        for container in containers(template):
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert context["readOnlyRootFilesystem"] is True
            assert not context.get("privileged")
            assert context.get("runAsNonRoot", True) is True
            assert context.get("runAsUser", 1) > 0
            assert context.get("seccompProfile", {}).get("type", "RuntimeDefault") == "RuntimeDefault"
            assert not [port for port in container.get("ports", []) if "hostPort" in port]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_container_has_requests_limits_and_probes(overlay):
    for name, template in workloads(render(overlay)):
        for container in template["spec"]["containers"]:
            resources = container["resources"]
            assert 0 < cores(resources["requests"]["cpu"]) <= cores(resources["limits"]["cpu"])
            assert 0 < size_bytes(resources["requests"]["memory"]) <= size_bytes(resources["limits"]["memory"])
            assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container), name
            ports = {port["name"] for port in container["ports"]}
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                assert container[probe].get("httpGet", {}).get("port") in ports | {None}
        for volume in template["spec"].get("volumes", []):
            if "emptyDir" in volume:
                assert size_bytes(volume["emptyDir"]["sizeLimit"]) > 0, "a full disk of the node ends other pods"


@pytest.mark.parametrize("overlay", [*OVERLAYS, UPGRADED])
def test_images_have_a_version(overlay):
    for _, template in workloads(render(overlay)):
        for container in containers(template):
            name, _, tag = container["image"].rpartition(":")
            assert name and tag
            if overlay != "small":
                assert re.match(r"v?\d+\.\d+", tag), container["image"]


@pytest.mark.parametrize("overlay", [*OVERLAYS, UPGRADED])
def test_nothing_secret_is_written(overlay):
    assert not of_kind(render(overlay), "Secret")
    secret = re.compile(r"(password|secret|token|_key|access_key)", re.IGNORECASE)
    for _, template in workloads(render(overlay)):
        for container in containers(template):
            for variable in container.get("env", []):
                if secret.search(variable["name"]):
                    assert "value" not in variable, variable["name"]
                    assert "secretKeyRef" in variable["valueFrom"]
            assert not secret.search(" ".join(container.get("args", [])))
    for settings in of_kind(render(overlay), "ConfigMap"):
        for name, text in settings["data"].items():
            assert not secret.search(name), name
            assert not re.search(r"://[^/\s]*:[^/\s]*@", text), "a password in an address"
            assert not re.search(r"^\s*\w*(password|secret)\w*\s*=", text, re.IGNORECASE | re.MULTILINE)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_selectors_and_names_find_what_they_mean(overlay):
    objects = render(overlay)
    templates = dict(workloads(objects))
    for item in of_kind(objects, "Deployment", "StatefulSet"):
        assert selects(item["spec"]["selector"], item["spec"]["template"]["metadata"]["labels"])
    for service in of_kind(objects, "Service"):
        chosen = [
            template
            for template in templates.values()
            if selects({"matchLabels": service["spec"]["selector"]}, template["metadata"]["labels"])
        ]
        assert len(chosen) == 1, service["metadata"]["name"]
        named = {port["name"] for container in containers(chosen[0]) for port in container.get("ports", [])}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= named
    for budget in of_kind(objects, "PodDisruptionBudget"):
        assert any(selects(budget["spec"]["selector"], item["metadata"]["labels"]) for item in templates.values())
    for scaler in of_kind(objects, "HorizontalPodAutoscaler"):
        target = by_name(objects, scaler["spec"]["scaleTargetRef"]["kind"], scaler["spec"]["scaleTargetRef"]["name"])
        assert "replicas" not in target["spec"], "the autoscaler's number would be set back at each apply"
    for item in of_kind(objects, "StatefulSet"):
        by_name(objects, "Service", item["spec"]["serviceName"])
    for ingress in of_kind(objects, "Ingress"):
        for rule in ingress["spec"]["rules"]:
            assert rule["host"] in ingress["spec"]["tls"][0]["hosts"]
            for path in rule["http"]["paths"]:
                service = by_name(objects, "Service", path["backend"]["service"]["name"])
                assert path["backend"]["service"]["port"]["name"] in {port["name"] for port in service["spec"]["ports"]}


@pytest.mark.parametrize("overlay", [*OVERLAYS, UPGRADED])
def test_references_to_other_objects_hold(overlay):
    objects = render(overlay)
    accounts = {item["metadata"]["name"] for item in of_kind(objects, "ServiceAccount")}
    settings = {item["metadata"]["name"] for item in of_kind(objects, "ConfigMap")}
    for _, template in workloads(objects):
        spec = template["spec"]
        assert spec["serviceAccountName"] in accounts
        assert spec["automountServiceAccountToken"] is False, "none of these speaks to the Kubernetes API"
        claims = {
            claim["metadata"]["name"]
            for item in of_kind(objects, "StatefulSet")
            if item["spec"]["template"] is template
            for claim in item["spec"]["volumeClaimTemplates"]
        }
        volumes = {volume["name"] for volume in spec.get("volumes", [])} | claims
        for container in containers(template):
            assert {mount["name"] for mount in container["volumeMounts"]} == volumes
            assert {source["configMapRef"]["name"] for source in container.get("envFrom", [])} <= settings
        for volume in spec.get("volumes", []):
            if "configMap" in volume:
                assert volume["configMap"]["name"] in settings
    for binding in of_kind(objects, "RoleBinding"):
        by_name(objects, "Role", binding["roleRef"]["name"])
        for subject in binding["subjects"]:
            assert subject["kind"] == "Group" or subject["name"] in accounts


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_roles_allow_no_more_than_they_must(overlay):
    roles = {item["metadata"]["name"]: item["rules"] for item in of_kind(render(overlay), "Role")}
    assert set(roles) == {"vitalfuse-runner", "vitalfuse-submitter"}
    for rules in roles.values():
        for rule in rules:
            assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]
            if "secrets" in rule["resources"]:
                assert rule["verbs"] == ["get"]
                assert set(rule["resourceNames"]) == KFPS_SECRETS
            if rule["apiGroups"] == [""]:
                assert set(rule["verbs"]) <= {"get", "list"}
    bound = {
        subject["name"]
        for binding in of_kind(render(overlay), "RoleBinding")
        for subject in binding["subjects"]
        if subject["kind"] == "ServiceAccount"
    }
    assert bound == {"vitalfuse-runner", "vitalfuse-submitter"}, "MLflow's account and those of the stores have no role"


def _policies(objects, labels):
    return [item["spec"] for item in of_kind(objects, "NetworkPolicy") if selects(item["spec"]["podSelector"], labels)]


def _may_connect(objects, source, target, port, protocol="TCP"):
    """Return whether the policies let one pod of the namespace reach another, from both ends."""

    def allows(policies, direction, key, other):
        return any(
            (not rule.get("ports") or {"protocol": protocol, "port": port} in rule["ports"])
            and any(
                "ipBlock" not in peer and "namespaceSelector" not in peer and selects(peer["podSelector"], other)
                for peer in rule[key]
            )
            for policy in policies
            if direction in policy["policyTypes"]
            for rule in policy.get(direction.lower(), [])
        )

    leaves = allows(_policies(objects, source), "Egress", "to", target)
    enters = allows(_policies(objects, target), "Ingress", "from", source)
    assert leaves == enters, f"{source} -> {target}: one end allows what the other refuses"
    return leaves


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_reach_only_what_they_need(overlay):
    objects = render(overlay)
    pods = {name: template["metadata"]["labels"] for name, template in workloads(objects)} | OTHER_PODS
    for labels in pods.values():
        denied = [
            policy for policy in _policies(objects, labels) if not policy.get("ingress") and not policy.get("egress")
        ]
        assert any(set(policy["policyTypes"]) == {"Ingress", "Egress"} for policy in denied)
    ports = {
        name: port["containerPort"]
        for name, template in workloads(objects)
        for container in containers(template)
        for port in container["ports"]
    }
    allowed = {
        (source, target)
        for source in pods
        for target in ports
        if source != target and _may_connect(objects, pods[source], pods[target], ports[target])
    }
    expected = {("steps", "mlflow"), ("served", "mlflow"), ("train-job", "mlflow")}
    if overlay == "small":
        expected |= {("mlflow", "postgres"), ("mlflow", "s3"), ("steps", "s3"), ("train-job", "s3")}
    assert allowed == expected


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_pods_of_a_train_job_reach_each_other_and_no_other_job(overlay):
    from pipelines import train_job
    from pipelines.settings import CONFIGS, load_settings

    locations = {name: f"s3://bucket/{name}" for name in ("features", "embedding", "model")}
    policy, _, job = train_job.render(load_settings(CONFIGS / "demo.yaml"), **locations)
    assert policy["metadata"]["namespace"] == "vitalfuse"
    objects = [*render(overlay), policy]
    pod = OTHER_PODS["train-job"] | {train_job.JOBSET_LABEL: job["metadata"]["name"]}
    assert _may_connect(objects, pod, pod, train_job.PORT)
    for labels in (*OTHER_PODS.values(), OTHER_PODS["train-job"] | {train_job.JOBSET_LABEL: "another"}):
        enters = [
            peer
            for policy in _policies(objects, pod)
            for rule in policy.get("ingress", [])
            for peer in rule["from"]
            if selects(peer["podSelector"], labels)
        ]
        assert not enters


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_rule_of_the_network_names_ports_and_no_whole_internet(overlay):
    for item in of_kind(render(overlay), "NetworkPolicy"):
        for direction, key in (("ingress", "from"), ("egress", "to")):
            for rule in item["spec"].get(direction, []):
                assert rule["ports"]
                assert rule[key]
                for peer in rule[key]:
                    block = peer.get("ipBlock", {}).get("cidr")
                    assert block != "0.0.0.0/0"
                    assert not str(block).startswith("192.0.2."), "a stand-in that the overlay has to replace"
                    assert peer.get("namespaceSelector") != {}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_quota_holds_the_servers_and_a_run(overlay):
    """The pods of the overlay, train, and as many cross-validations as run at a time, with KFP's two helpers each."""
    objects = render(overlay)
    hard = by_name(objects, "ResourceQuota", "vitalfuse")["spec"]["hard"]
    helper = by_name(objects, "LimitRange", "vitalfuse")["spec"]["limits"][0]
    settings = ClusterSettings()
    steps = ["train"] + ["cross_validate"] * settings.parallelism
    scalers = {
        item["spec"]["scaleTargetRef"]["name"]: item["spec"]["maxReplicas"]
        for item in of_kind(objects, "HorizontalPodAutoscaler")
    }
    for bound, suffix, ready in (("requests", "", "defaultRequest"), ("limits", "_limit", "default")):
        for resource, number in (("cpu", cores), ("memory", size_bytes)):
            servers = sum(
                scalers.get(name, 1) * number(container["resources"][bound][resource])
                for name, template in workloads(objects)
                for container in containers(template)
            )
            run = sum(number(getattr(settings.resources(step), f"{resource}{suffix}")) for step in steps)
            helpers = len(steps) * number(helper[ready][resource])
            assert servers + run + helpers <= number(hard[f"{bound}.{resource}"]), f"{bound}.{resource}"
    for step in STEPS:
        assert cores(settings.resources(step).cpu_limit) <= cores(helper["max"]["cpu"])
        assert size_bytes(settings.resources(step).memory_limit) <= size_bytes(helper["max"]["memory"])
    claims = [
        claim["spec"]["resources"]["requests"]["storage"]
        for item in of_kind(objects, "StatefulSet")
        for claim in item["spec"]["volumeClaimTemplates"]
    ]
    assert sum(map(size_bytes, claims)) <= size_bytes(hard["requests.storage"])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_server_is_called_as_the_pipeline_calls_it(overlay):
    """Its Service's name is in the settings of the pipeline, and among the hosts that it answers."""
    objects = render(overlay)
    (settings,) = [
        item for item in of_kind(objects, "ConfigMap") if item["metadata"]["name"].startswith("mlflow-settings")
    ]
    hosts = settings["data"]["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    service = by_name(objects, "Service", "mlflow")
    port = service["spec"]["ports"][0]["port"]
    assert ClusterSettings().mlflow_uri == f"http://mlflow:{port}"
    assert {f"mlflow:{port}", f"mlflow.vitalfuse.svc.cluster.local:{port}"} <= set(hosts)
    assert "*" not in hosts
    origins = settings["data"].get("MLFLOW_SERVER_CORS_ALLOWED_ORIGINS", "").split(",")
    assert "*" not in origins
    for ingress in of_kind(objects, "Ingress"):
        host = ingress["spec"]["rules"][0]["host"]
        assert host in hosts
        assert f"https://{host}" in origins, "else the UI can look and not change"
    if overlay == "production":
        assert settings["data"]["PGSSLMODE"] == "verify-full"
        assert settings["data"]["MLFLOW_S3_ENDPOINT_URL"].startswith("https://")


def test_tables_are_upgraded_with_the_servers_image_and_settings():
    spec = by_name(render(UPGRADED), "Deployment", "mlflow")["spec"]["template"]["spec"]
    (upgrade,), (server,) = spec["initContainers"], spec["containers"]
    for key in ("image", "env", "envFrom", "volumeMounts"):
        assert upgrade[key] == server[key]
