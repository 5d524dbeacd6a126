"""The manifests: valid for Kubernetes, and within the rules that docs/kubernetes.md states."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
import yaml

from pipelines.cluster_settings import ClusterSettings, cores, size_bytes
from tests.infra.manifests import (
    OVERLAYS,
    UPGRADED,
    by_name,
    containers,
    of_kind,
    render,
    render_changed,
    render_own,
    selects,
    workloads,
)

# The oldest and the newest version that docs/kubernetes.md names.
VERSIONS = ("1.31", "1.37")
PAGE = Path(__file__).resolve().parents[2] / "docs" / "kubernetes.md"
# Pods that others make in the namespace.
OTHER_PODS = {
    "steps": {"pipeline/runid": "a-run"},
    "train-job": {"app.kubernetes.io/name": "vitalfuse", "app.kubernetes.io/component": "train-job"},
    "served": {"serving.kserve.io/inferenceservice": "vitalfuse-diagnosis"},
}
# The first one KFP makes itself, for its own object store.
KFPS_SECRETS = {"mlpipeline-minio-artifact", "kfp-mlflow-credentials"}

pytestmark = pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")


def _named(namespace):
    return {"kubernetes.io/metadata.name": namespace}


@dataclass(frozen=True)
class End:
    """One end of a connection: a pod of some namespace, or an address of no pod."""

    labels: dict = field(default_factory=dict)
    namespace: dict = field(default_factory=lambda: _named("vitalfuse"))
    address: str | None = None


RUN = OTHER_PODS["steps"]
SERVED = OTHER_PODS["served"]
TRAIN_JOB = OTHER_PODS["train-job"]
WARD = _named("ward") | {"vitalfuse/uses-mlflow": "true"}
DNS = End({"k8s-app": "kube-dns"}, _named("kube-system"))
KFP = End({"app": "ml-pipeline"}, _named("kubeflow"))
DNS_CACHE, KUBERNETES_API = End(address="169.254.20.10"), End(address="10.0.0.1")
DATABASE, S3 = End(address="10.0.1.7"), End(address="10.0.2.7")
EVERY_POD = "every pod"
# Who may reach what is not in the namespace: where, protocol, port, and the pods.
OUTWARD = [
    (DNS, "UDP", 53, EVERY_POD),
    (DNS, "TCP", 53, EVERY_POD),
    (DNS, "TCP", 443, set()),
    (End({"k8s-app": "other"}, _named("kube-system")), "UDP", 53, set()),
    (DNS_CACHE, "UDP", 53, EVERY_POD),
    (DNS_CACHE, "TCP", 53, EVERY_POD),
    (KUBERNETES_API, "TCP", 443, {"steps"}),
    (KUBERNETES_API, "TCP", 6443, {"steps"}),
    (KUBERNETES_API, "TCP", 10250, set()),
    *[(KFP, "TCP", port, {"steps"}) for port in (8080, 8333, 8887, 8888, 9000)],
    (KFP, "TCP", 3306, set()),
    (End({}, _named("ward")), "TCP", 8080, set()),
    (End(address="198.51.100.7"), "TCP", 443, set()),
]
OUTWARD_IN_PRODUCTION = [
    (DATABASE, "TCP", 5432, {"mlflow"}),
    (DATABASE, "TCP", 443, set()),
    (S3, "TCP", 443, {"mlflow", "steps", "train-job", "served"}),
    (S3, "TCP", 5432, set()),
]
# Which pods of other namespaces may reach which here.
INWARD = [
    (End(RUN, _named("kubeflow")), {"mlflow"}),
    (KFP, {"mlflow"}),
    (End({"app": "other"}, _named("kubeflow")), set()),
    (End(SERVED, WARD), {"mlflow"}),
    (End({"app": "other"}, WARD), set()),
    (End(SERVED, _named("ward")), set()),
    (End(TRAIN_JOB, WARD), {"mlflow"}),
    (End(TRAIN_JOB, _named("ward")), set()),
    (End(TRAIN_JOB, _named("kubeflow")), set()),
    (End(RUN, WARD), set()),
    (End(RUN, _named("ward")), set()),
    (End({}, _named("ingress-nginx")), set()),
    (End(address="198.51.100.7"), set()),
]


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
            # CRI-O and podman may refuse a name without its registry; ours is built or named by the user.
            assert "." in name.partition("/")[0] or name == "vitalfuse/mlflow", container["image"]
            if overlay != "small":
                assert re.match(r"v?\d+\.\d+", tag), container["image"]


@pytest.mark.parametrize("overlay", [*OVERLAYS, UPGRADED, "small+upgrade-database"])
def test_an_image_that_was_loaded_onto_the_node_is_not_pulled(overlay):
    """As kind and minikube load it. Where nothing is said, Kubernetes pulls `latest` each time."""
    for name, template in workloads(render(overlay)):
        for container in containers(template):
            latest = container["image"].endswith(":latest")
            policy = container.get("imagePullPolicy", "Always" if latest else "IfNotPresent")
            assert policy == "IfNotPresent", (name, container["name"])


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
                uses = {"use"} if rule.get("resourceNames") == ["vitalfuse-runner"] else set()
                assert set(rule["verbs"]) <= {"get", "list"} | uses
    bound = {
        subject["name"]
        for binding in of_kind(render(overlay), "RoleBinding")
        for subject in binding["subjects"]
        if subject["kind"] == "ServiceAccount"
    }
    assert bound == {"vitalfuse-runner", "vitalfuse-submitter"}, "MLflow's account and those of the stores have no role"


def _may(rules, group, resource, verb, name):
    """Return whether rules of a role allow a request, as Kubernetes answers it to KFP's server."""
    return any(
        group in rule["apiGroups"]
        and resource in rule["resources"]
        and verb in rule["verbs"]
        and name in rule.get("resourceNames", [name])
        for rule in rules
    )


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_who_submits_may_do_what_kfp_asks_for(overlay):
    rules = by_name(render(overlay), "Role", "vitalfuse-submitter")["rules"]
    # pod-logs.ts of KFP's UI; then what KFP 2.18 asks for.
    assert _may(rules, "kubeflow.org", "viewers", "get", "")
    assert _may(rules, "pipelines.kubeflow.org", "runs", "readLog", "a-run")
    assert _may(rules, "", "serviceaccounts", "use", "vitalfuse-runner")
    assert not _may(rules, "", "serviceaccounts", "use", "default-editor")
    assert not _may(rules, "", "serviceaccounts", "get", "vitalfuse-runner")


def test_the_ingress_is_that_of_the_clusters_controller(tmp_path):
    def change(folder):
        file = folder / "addresses.env"
        text = file.read_text()
        assert "INGRESS_CLASS=nginx\n" in text
        file.write_text(text.replace("INGRESS_CLASS=nginx\n", "INGRESS_CLASS=traefik\n"))

    assert by_name(render("production"), "Ingress", "mlflow")["spec"]["ingressClassName"] == "nginx"
    changed = render_changed("production", tmp_path, change)
    assert by_name(changed, "Ingress", "mlflow")["spec"]["ingressClassName"] == "traefik"


def test_the_pages_own_overlay_signs_in_to_a_registry_and_trusts_an_authority():
    import kubernetes_validate

    (block,) = re.findall(r"^```yaml\n# my-overlay/.*?^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    content = yaml.safe_load(block.strip("`").removeprefix("yaml"))
    (resource,) = content.pop("resources")
    assert resource.endswith("infra/kubernetes/overlays/production")
    objects = render_own("production", files=["hospital.pem"], **content)
    deployment = by_name(objects, "Deployment", "mlflow")
    for item in (deployment, by_name(objects, "ConfigMap", "hospital-ca")):
        for version in VERSIONS:
            assert kubernetes_validate.validate(item, version, strict=True) == version
    spec = deployment["spec"]["template"]["spec"]
    (server,) = spec["containers"]
    assert server["image"] == "registry.example.org/vitalfuse/mlflow:0.1.0"
    assert spec["imagePullSecrets"] == [{"name": "registry-login"}]
    named = {variable["name"]: variable.get("value") for variable in server["env"]}
    assert {"PGPASSWORD", "AWS_SECRET_ACCESS_KEY"} <= set(named), "what the server had is still there"
    mounts = {mount["mountPath"]: mount["name"] for mount in server["volumeMounts"]}
    folder, _, key = named["AWS_CA_BUNDLE"].rpartition("/")
    (volume,) = [volume for volume in spec["volumes"] if volume["name"] == mounts[folder]]
    assert by_name(objects, "ConfigMap", volume["configMap"]["name"])["data"] == {key: "the content of hospital.pem"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_server_in_another_namespace_answers_to_the_names_that_the_user_gives(overlay):
    merged = {
        "name": "mlflow-settings",
        "namespace": "vitalfuse",
        "behavior": "merge",
        "literals": ["MLFLOW_SERVER_ALLOWED_HOSTS=mlflow.ward:5000"],
    }
    objects = render_own(overlay, namespace="ward", configMapGenerator=[merged])
    (server,) = by_name(objects, "Deployment", "mlflow")["spec"]["template"]["spec"]["containers"]
    settings = by_name(objects, "ConfigMap", server["envFrom"][0]["configMapRef"]["name"])
    assert settings["metadata"]["namespace"] == "ward"
    assert settings["data"]["MLFLOW_SERVER_ALLOWED_HOSTS"] == "mlflow.ward:5000"
    assert settings["data"]["MLFLOW_PORT"] == "5000"


def _policies(objects, labels):
    return [item["spec"] for item in of_kind(objects, "NetworkPolicy") if selects(item["spec"]["podSelector"], labels)]


def _is_meant(peer, end):
    """Return whether a peer of a rule is this end of a connection."""
    if "ipBlock" in peer:
        return end.address is not None and ip_address(end.address) in ip_network(peer["ipBlock"]["cidr"])
    here = {"matchLabels": _named("vitalfuse")}
    return (
        end.address is None
        and selects(peer.get("namespaceSelector", here), end.namespace)
        and selects(peer.get("podSelector", {}), end.labels)
    )


def _allows(objects, labels, direction, other, port, protocol="TCP"):
    """Return whether the policies of a pod of the namespace let it reach, or be reached from, the other end."""
    key = {"Egress": "to", "Ingress": "from"}[direction]
    return any(
        {"protocol": protocol, "port": port} in rule["ports"] and any(_is_meant(peer, other) for peer in rule[key])
        for policy in _policies(objects, labels)
        if direction in policy["policyTypes"]
        for rule in policy.get(direction.lower(), [])
    )


def _may_connect(objects, source, target, port):
    """Return whether the policies let one pod of the namespace reach another, from both ends."""
    leaves = _allows(objects, source, "Egress", End(target), port)
    enters = _allows(objects, target, "Ingress", End(source), port)
    assert leaves == enters, f"{source} -> {target}: one end allows what the other refuses"
    return leaves


def _pods(objects):
    return {name: template["metadata"]["labels"] for name, template in workloads(objects)} | OTHER_PODS


def _ports(objects):
    return {
        name: port["containerPort"]
        for name, template in workloads(objects)
        for container in containers(template)
        for port in container["ports"]
    }


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_reach_only_what_they_need(overlay):
    objects = render(overlay)
    pods, ports = _pods(objects), _ports(objects)
    for labels in pods.values():
        denied = [
            policy for policy in _policies(objects, labels) if not policy.get("ingress") and not policy.get("egress")
        ]
        assert any(set(policy["policyTypes"]) == {"Ingress", "Egress"} for policy in denied)
    allowed = {
        (source, target)
        for source in pods
        for target in ports
        if source != target and _may_connect(objects, pods[source], pods[target], ports[target])
    }
    expected = {("steps", "mlflow"), ("served", "mlflow"), ("train-job", "mlflow")}
    if overlay == "small":
        expected |= {("mlflow", "postgres")} | {(source, "s3") for source in ("mlflow", "steps", "train-job", "served")}
    assert allowed == expected


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_reach_outside_of_the_namespace_only_what_they_need(overlay):
    objects = render(overlay)
    pods = _pods(objects)
    for end, protocol, port, expected in OUTWARD + (OUTWARD_IN_PRODUCTION if overlay == "production" else []):
        allowed = {name for name, labels in pods.items() if _allows(objects, labels, "Egress", end, port, protocol)}
        assert allowed == (set(pods) if expected == EVERY_POD else expected), (end, protocol, port)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_are_reached_from_outside_of_the_namespace_only_by_those_who_need_it(overlay):
    objects = render(overlay)
    pods, ports = _pods(objects), _ports(objects)
    for end, expected in INWARD:
        if overlay == "small" and end == End(RUN, _named("kubeflow")):
            expected = expected | {"s3"}
        if overlay == "production" and end.namespace == _named("ingress-nginx"):
            expected = expected | {"mlflow"}
        allowed = {
            name
            for name, labels in pods.items()
            for port in {*ports.values(), 2222, 8080}
            if _allows(objects, labels, "Ingress", end, port)
        }
        assert allowed == expected, end


def test_addresses_and_ports_are_those_of_the_cluster(tmp_path):
    """Not those of the examples: what is not replaced would be shut off."""
    values = {
        "KUBERNETES_API": ("10.0.0.1/32", "172.16.0.9/32"),
        "KUBERNETES_API_PORT": ("6443", "16443"),
        "DATABASE": ("10.0.1.0/24", "172.16.1.0/24"),
        "DATABASE_PORT": ("5432", "6432"),
        "S3": ("10.0.2.0/24", "172.16.2.0/24"),
        "S3_PORT": ("443", "7480"),
        "DNS_CACHE": ("169.254.20.10/32", "172.20.0.10/32"),
    }

    def change(folder):
        text = (folder / "addresses.env").read_text()
        for name, (old, new) in values.items():
            assert f"{name}={old}\n" in text
            text = text.replace(f"{name}={old}\n", f"{name}={new}\n")
        (folder / "addresses.env").write_text(text)

    objects = render_changed("production", tmp_path, change)
    pods = _pods(objects)
    for address, protocol, port, expected in [
        ("172.16.0.9", "TCP", 16443, {"steps"}),
        ("172.16.1.7", "TCP", 6432, {"mlflow"}),
        ("172.16.2.7", "TCP", 7480, {"mlflow", "steps", "train-job", "served"}),
        ("172.20.0.10", "UDP", 53, set(pods)),
    ]:
        end = End(address=address)
        assert {
            name for name, labels in pods.items() if _allows(objects, labels, "Egress", end, port, protocol)
        } == expected, address


def test_addresses_of_the_small_overlay_are_those_of_the_cluster(tmp_path):
    def change(folder):
        file = folder / "addresses.env"
        file.write_text(file.read_text().replace("10.0.0.0/8", "172.16.0.9/32").replace("_PORT=6443", "_PORT=8443"))

    objects = render_changed("small", tmp_path, change)
    assert _allows(objects, RUN, "Egress", End(address="172.16.0.9"), 8443)
    assert not _allows(objects, RUN, "Egress", KUBERNETES_API, 443)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_istios_sidecar_stays_out(overlay):
    """Namespaces of KFP's profiles ask for it; `restricted` refuses its rights, or the network policies its server."""
    for name, template in workloads(render(overlay)):
        assert template["metadata"]["labels"]["sidecar.istio.io/inject"] == "false", name


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
def test_the_server_is_called_as_the_pipeline_calls_it(overlay):
    """Its Service's name is in the settings of the pipeline, and among the hosts that it answers."""
    from mlflow.server.security_utils import is_allowed_host_header

    objects = render(overlay)
    (settings,) = [
        item for item in of_kind(objects, "ConfigMap") if item["metadata"]["name"].startswith("mlflow-settings")
    ]
    hosts = settings["data"]["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    service = by_name(objects, "Service", "mlflow")
    port = service["spec"]["ports"][0]["port"]
    assert ClusterSettings().mlflow_uri == f"http://mlflow:{port}"
    names = ["mlflow", "mlflow.vitalfuse", "mlflow.vitalfuse.svc", "mlflow.vitalfuse.svc.cluster.local"]
    called = [f"{name}:{port}" for name in names]
    # As create_user.py calls it in the pod, and a browser through a forwarded port.
    called += [f"127.0.0.1:{settings['data']['MLFLOW_PORT']}", f"localhost:{port}", "localhost:15000"]
    origins = settings["data"].get("MLFLOW_SERVER_CORS_ALLOWED_ORIGINS", "").split(",")
    assert "*" not in origins
    for ingress in of_kind(objects, "Ingress"):
        host = ingress["spec"]["rules"][0]["host"]
        called.append(host)
        assert f"https://{host}" in origins, "else the UI can look and not change"
    for host in called:
        assert is_allowed_host_header(hosts, host), f"{host}: 403 Invalid Host header"
    for host in ("attacker.example.com", f"attacker.example.com:{port}", "localhost.example.com:5000", "10.0.0.7:5000"):
        assert not is_allowed_host_header(hosts, host), host
    if overlay == "production":
        assert settings["data"]["PGSSLMODE"] == "verify-full"
        assert settings["data"]["MLFLOW_S3_ENDPOINT_URL"].startswith("https://")


def _add_upgrade(folder):
    file = folder / "kustomization.yaml"
    content = yaml.safe_load(file.read_text())
    content.setdefault("components", []).append("../../components/upgrade-database")
    file.write_text(yaml.safe_dump(content))


@pytest.mark.parametrize("overlay", [UPGRADED, *OVERLAYS])
def test_tables_are_upgraded_with_the_servers_image_and_settings(overlay, tmp_path):
    """In an overlay of the user's own, and in the overlays themselves, whose patches come after their components."""
    objects = render(overlay) if overlay == UPGRADED else render_changed(overlay, tmp_path, _add_upgrade)
    spec = by_name(objects, "Deployment", "mlflow")["spec"]["template"]["spec"]
    (upgrade,), (server,) = spec["initContainers"], spec["containers"]
    for key in ("image", "env", "envFrom", "volumeMounts"):
        assert upgrade[key] == server[key]
    assert ("database-ca" in {mount["name"] for mount in upgrade["volumeMounts"]}) == (overlay != "small")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_with_cilium_steps_alone_reach_the_kubernetes_api_whatever_its_address(overlay):
    objects = render(f"{overlay}+cilium")
    (policy,) = of_kind(objects, "CiliumNetworkPolicy")
    assert policy["metadata"]["namespace"] == "vitalfuse"
    chosen = {name for name, labels in _pods(objects).items() if selects(policy["spec"]["endpointSelector"], labels)}
    assert chosen == {"steps"}
    (rule,) = policy["spec"]["egress"]
    assert rule["toEntities"] == ["kube-apiserver"]
    ports = {item["port"] for to in rule["toPorts"] for item in to["ports"]}
    of_the_base = by_name(objects, "NetworkPolicy", "steps-to-kubernetes-api")["spec"]["egress"][0]["ports"]
    assert {str(item["port"]) for item in of_the_base} <= ports
