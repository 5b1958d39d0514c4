"""Find the programs that the tests drive, or say what to install."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

ASSETS = "KUBEBUILDER_ASSETS"
"""The environment's name for a folder with etcd, kube-apiserver and so on; wins over all else."""

_ADMIN_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin")
_PACKAGES = {
    "etcd": "etcd-server",
    "etcdctl": "etcd-client",
    "go": "golang",
    "haproxy": "haproxy",
    "nginx": "nginx",
}


class ServerMissing(Exception):
    """A server program is not here and cannot be made; the message says why and what to do."""


def in_assets(*names: str) -> Path | None:
    """The folder that `KUBEBUILDER_ASSETS` names, if it holds all these programs."""
    folder = os.environ.get(ASSETS)
    if folder and all(os.access(Path(folder, name), os.X_OK) for name in names):
        return Path(folder).absolute()
    return None


def find_program(name: str) -> Path:
    """Where a program is: in `KUBEBUILDER_ASSETS`, on the PATH, or where Debian keeps daemons.

    Raises `ServerMissing` with the package to install.
    """
    folder = in_assets(name)
    if folder is not None:
        return folder / name
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *_ADMIN_FOLDERS])
    found = shutil.which(name, path=path)
    if found is None:
        package = _PACKAGES.get(name, name)
        raise ServerMissing(f"{name} is not installed: apt-get install {package}")
    return Path(found)
