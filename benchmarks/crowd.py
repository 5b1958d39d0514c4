"""Many apps with many pods: a fake API server, a real etcd, pods that answer, a daemon.

The API server is the tests' fake, which passes the contract suite of the real one: no real one
holds 50,000 pods on a machine like this. Pods are addresses of 127/8 (see `everyone`).
"""

from __future__ import annotations

import base64
import gc
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.daemons import PROGRAM, Vulcanized
from tests.fakes import manifests
from tests.fakes.kubernetes import FakeKubernetes
from tests.servers.etcd import Etcd

NETWORK = 127
FRESH = "127.200"
"""Where the addresses of pods begin that come later; none of the first has one of these."""

_TRANSACTION = 100  # etcd takes 128 operations in one


class Crowd:
    """`apps` apps and `pods` pods, behind an API server of their own and one prefix in etcd."""

    def __init__(self, folder: Path, etcd: Etcd, port: int, apps: int, pods: int) -> None:
        self.apps, self.pods = apps, pods
        self.kubernetes = FakeKubernetes()
        self.port = port
        self.etcd = etcd
        self.prefix = f"/crowd-{apps}-{pods}"
        self.folder = folder / f"crowd-{apps}-{pods}"
        self.folder.mkdir()
        self._daemons = self._fresh = 0
        seed = manifests.many_pods(pods, apps=apps, network=NETWORK)
        self.kubernetes.store.seed("pods", seed)
        self._put_configs()
        # What lives as long as we do is nothing that a collector should walk while we measure.
        gc.collect()
        gc.freeze()

    def _put_configs(self) -> None:
        for begin in range(0, self.apps, _TRANSACTION):
            puts = [
                {
                    "requestPut": {
                        "key": _base64(self.config_key(app)),
                        "value": _base64(self.config(app)),
                    }
                }
                for app in self.names[begin : begin + _TRANSACTION]
            ]
            self.etcd.call("kv/txn", {"success": puts})

    @property
    def names(self) -> list[str]:
        """All apps, in the namespace `default`."""
        return [f"app-{number}" for number in range(self.apps)]

    def config_key(self, app: str) -> str:
        """Where in etcd the app's config is."""
        return f"{self.prefix}/apps/default/{app}"

    def config(self, app: str) -> str:
        """An app config for it."""
        return json.dumps({"hosts": [host(app)], "port": self.port})

    def fresh_pod(self, app: str, version: str = "1") -> tuple[str, str]:
        """Another pod of an app, Ready at once: its name and its address, never used before."""
        name, address = self.fresh()
        self.kubernetes.store.create("pods", manifests.pod(name, app, version, ip=address))
        return name, address

    def fresh(self) -> tuple[str, str]:
        """A name and an address that no pod has."""
        self._fresh += 1
        address = f"{FRESH}.{self._fresh // 250}.{self._fresh % 250 + 1}"
        return f"fresh-{self._fresh}", address

    @property
    def sides(self) -> str:
        """What a daemon and a deployer are told of the cluster and of etcd."""
        kubeconfig = self.kubernetes.write_kubeconfig(self.folder / "kubeconfig.yaml")
        return (
            f'[kubernetes]\nkubeconfig = "{kubeconfig}"\n\n'
            f'[etcd]\nendpoints = {json.dumps(self.etcd.endpoints)}\nprefix = "{self.prefix}"\n'
        )

    @contextmanager
    def daemon(
        self, program: Sequence[str] = PROGRAM, targets: str = "", instance: str = "bench"
    ) -> Iterator[Vulcanized]:
        """A daemon that has never run before, with its HAProxy; not started. It is ended.

        `targets`: other `[[targets]]` in place of HAProxy.
        """
        self._daemons += 1
        folder = self.folder / f"daemon-{self._daemons}"
        sides = f'instance = "{instance}"\n\n{self.sides}'
        level = {"VULCANIZED_LOG__LEVEL": "info"}  # lines cost time
        more = f'[sync]\nstate = "{folder / "state"}"' if targets else ""
        daemon = Vulcanized(
            folder, sides, targets=targets, more=more, environment=level, program=program
        )
        try:
            yield daemon
        finally:
            if daemon.process.running:
                daemon.close()


def host(app: str) -> str:
    """The host that an app answers to."""
    return f"{app}.test"


@contextmanager
def crowd(folder: Path, etcd: Etcd, port: int, apps: int, pods: int) -> Iterator[Crowd]:
    """A crowd whose API server runs; `port`: where its pods listen."""
    made = Crowd(folder, etcd, port, apps, pods)
    with made.kubernetes:
        yield made


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
