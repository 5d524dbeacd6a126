"""Which code this is: the versions of the steps, as the images print them, and the commit."""

from __future__ import annotations

import json
import os
import subprocess

from components.common import environment
from components.common.code_version import ROOT, SOURCES, code_version, code_versions, package_version

__all__ = ["SOURCES", "code_version", "code_versions", "git_commit", "package_version"]


def git_commit() -> str:
    """Return the commit of the code.

    Returns:
        That of the checkout, with "-dirty" where files differ from it; where the package is installed, the one named in
        the environment, as in the images; else "unknown".
    """
    # A package that is installed below some other checkout must not take that one's commit.
    if (ROOT / ".git").exists():
        command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        try:
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            pass
    return os.environ.get(environment.GIT_COMMIT) or "unknown"


if __name__ == "__main__":
    print(json.dumps(code_versions()))
