"""Deployments whose pods are asked for their health through the API server's pod proxy.

    unshare --net python -m tests.deployer.proxied FOLDER

The API server leads to no loopback address, so pods have others: on the loopback interface of a
network that nobody else is in. Prints what became of each deployment, as JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import yaml

from tests.behaviour.front import Haproxy
from tests.deployer.stage import Ended, Stage, staged
from tests.servers.controlplane import ControlPlane
from tests.servers.etcd import Etcd
from tests.servers.nodeagent import Behaviour, NodeAgent

NETWORK = 10
ADDRESS = f"{NETWORK}.0.0.1"

HEALTH = {"interval": "100ms", "timeout": "2s", "via": "apiserver"}
PROXY = {"apiGroups": [""], "resources": ["pods/proxy"], "verbs": ["get", "create"]}
ROLE = Path(__file__).parents[2] / "examples/kubernetes/rbac-deployer.yaml"


def deployments(stage: Stage) -> dict[str, Ended]:
    documents = yaml.safe_load_all(ROLE.read_text())
    (role,) = [each for each in documents if each["kind"] == "Role"]
    text = stage.config.read_text()

    def become(rules: list[dict[str, list[str]]]) -> None:
        user = stage.cluster.user(rules, stage.namespace)
        stage.config.write_text(text.replace(str(stage.cluster.kubeconfig), str(user.kubeconfig)))

    http = {"type": "http", "path": "/health", **HEALTH}
    brief = {"health_timeout": "2s"}
    become([*role["rules"], PROXY])
    done = {"get": stage.deploy(health=http)}
    done["post"] = stage.deploy(health={**http, "type": "probe", "method": "POST"})
    echo = {**http, "path": "/echo", "headers": {"X-Asked-By": "tests"}, "body": "X-Asked-By"}
    done["headers"] = stage.deploy(health=echo)
    done["elsewhere"] = stage.deploy(health={**http, "port": 9}, **brief)
    stage.nodes.behave(Behaviour(healthy=False), {"app": "todo"})
    done["ill"] = stage.deploy(health=http, **brief)
    stage.nodes.reset()
    become(role["rules"])
    done["forbidden"] = stage.deploy(health=http, **brief)
    return done


def main() -> int:
    folder = Path(sys.argv[1])
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["ip", "address", "add", f"{ADDRESS}/8", "dev", "lo"], check=True)
    with (
        ControlPlane(apiserver_flags=[f"--advertise-address={ADDRESS}"]) as cluster,
        NodeAgent(cluster, network=NETWORK) as nodes,
        Etcd() as etcd,
        cluster.namespace() as namespace,
        staged(folder, cluster, nodes, etcd, namespace, Haproxy(folder, etcd)) as stage,
    ):
        done = deployments(stage)
        told = {name: [each.code, each.text] for name, each in done.items()}
        json.dump({"done": told, "controllers": stage.controllers()}, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
