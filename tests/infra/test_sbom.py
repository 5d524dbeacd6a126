import importlib.util
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "infra" / "images" / "sbom.py"
STATUS = """Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.41-12+deb13u1
Description: GNU C Library
 with a second line: that is no header

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1

Package: tzdata
Status: install ok installed
Architecture: all
Version: 1:2025b-4
"""


def _script():
    specification = importlib.util.spec_from_file_location("sbom", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_installed_debian_packages_become_components():
    components = _script().debian_components(STATUS, "debian-13")
    assert [(item["name"], item["version"]) for item in components] == [
        ("libc6", "2.41-12+deb13u1"),
        ("tzdata", "1:2025b-4"),
    ]
    assert components[0]["purl"] == "pkg:deb/debian/libc6@2.41-12%2Bdeb13u1?arch=amd64&distro=debian-13"


def test_both_lists_are_joined_under_the_image():
    python = {"bomFormat": "CycloneDX", "metadata": {"timestamp": "now"}, "components": [{"name": "numpy"}]}
    joined = _script().join(python, [{"name": "libc6"}], "vitalfuse/train", "1.2")
    assert [item["name"] for item in joined["components"]] == ["numpy", "libc6"]
    assert joined["metadata"]["component"]["type"] == "container"
    assert joined["metadata"]["timestamp"] == "now"
    assert joined["bomFormat"] == "CycloneDX"
