"""A hospital's own certificate authority in the pods that this package asks for."""

from typing import Any

AUTHORITY = "cluster.ca_certificates={config_map: hospital-ca, key: hospital.pem}"


def check_authority(pod: dict[str, Any], container: dict[str, Any]) -> None:
    """Check that a container sees the ConfigMap of ``AUTHORITY``, and that its programs are told of the file."""
    (volume,) = [item for item in pod["volumes"] if "configMap" in item]
    assert volume["configMap"] == {"name": "hospital-ca"}
    (mount,) = [item for item in container["volumeMounts"] if item["name"] == volume["name"]]
    assert mount["readOnly"] is True
    file = f"{mount['mountPath']}/hospital.pem"
    found = {item["name"]: item.get("value") for item in container["env"]}
    assert {found[name] for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")} == {file}
