"""Joins the Debian packages of an image to the list of its Python packages, in CycloneDX.

Usage: ``sbom.py PYTHON_LIST FOLDER IMAGE VERSION OUTPUT``. FOLDER holds dpkg's ``status`` and ``os-release``.
"""

from __future__ import annotations

import json
import sys
from email.parser import HeaderParser
from pathlib import Path
from urllib.parse import quote


def debian_components(status: str, distribution: str) -> list[dict[str, str]]:
    """Return the installed packages of a dpkg status file as CycloneDX components.

    Args:
        status: Content of the file: one block of headers a package.
        distribution: Such as ``debian-13``.

    Returns:
        Type, name, version and package URL of each, in the file's order.
    """
    components = []
    for block in status.strip().split("\n\n"):
        package = HeaderParser().parsestr(block)
        if package["Status"] != "install ok installed":
            continue
        name, version = package["Package"], package["Version"]
        purl = f"pkg:deb/debian/{name}@{quote(version)}?arch={package['Architecture']}&distro={distribution}"
        components.append({"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl})
    return components


def join(python: dict, debian: list[dict[str, str]], image: str, version: str) -> dict:
    """Return the list of the whole image.

    Args:
        python: CycloneDX list of its Python packages.
        debian: Components of its Debian packages.
        image: Name of the image.
        version: Version of vitalfuse.

    Returns:
        CycloneDX list.
    """
    component = {"type": "container", "bom-ref": f"{image}@{version}", "name": image, "version": version}
    metadata = {**python.get("metadata", {}), "component": component}
    return {**python, "metadata": metadata, "components": python["components"] + debian}


def main() -> None:
    """Join the two lists."""
    python, folder, image, version, output = sys.argv[1:]
    release = dict(line.split("=", 1) for line in (Path(folder) / "os-release").read_text().splitlines() if "=" in line)
    distribution = f"{release['ID']}-{release['VERSION_ID']}".replace('"', "")
    debian = debian_components((Path(folder) / "status").read_text(), distribution)
    joined = join(json.loads(Path(python).read_text()), debian, image, version)
    Path(output).write_text(json.dumps(joined, indent=1))


if __name__ == "__main__":
    main()
