"""A real Kubernetes control plane on loopback: etcd, API server, controllers, scheduler.

There is no kubelet: pods are scheduled and then stay Pending, unless a
`tests.servers.nodeagent.NodeAgent` plays their nodes.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import urllib3
import yaml

from tests.servers.api import Api, ApiError
from tests.servers.build import KUBERNETES, Progress, ensure
from tests.servers.certs import Authority, signing_key
from tests.servers.etcd import Etcd
from tests.servers.ports import free_port
from tests.servers.process import ServerProcess
from tests.servers.wait import eventually

# Restricted users are known to the API server by a file that it reads at its start only.
_USERS = 200

_READY = 60.0

# The stock 20 requests a second of the controller manager would make 2,000 pods take two minutes.
_FAST = ("--kube-api-qps=1000", "--kube-api-burst=2000")

Rule = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class User:
    """Somebody who can log in with a bearer token; `kubeconfig` says as whom and where."""

    name: str
    token: str
    kubeconfig: Path


class ControlPlane:
    """A context manager that starts a control plane of its own and removes it with all data.

    `controllers` and `scheduler` select what runs beside etcd and the API server: without
    controllers there are no service accounts (pods need none then) and no garbage collection.
    `apiserver_flags` are added to the API server's. All ports are free loopback ports and stay the
    same over restarts.

    Raises `ServerMissing` when made if a program is not there and cannot be built. A cold build
    takes minutes and tells its `progress`.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        controllers: bool = True,
        scheduler: bool = True,
        apiserver_flags: Sequence[str] = (),
        progress: Progress | None = None,
    ) -> None:
        wanted = ["kube-apiserver"]
        wanted += ["kube-controller-manager"] if controllers else []
        wanted += ["kube-scheduler"] if scheduler else []
        programs = ensure(KUBERNETES, *wanted, progress=progress)
        self._own_folder = folder is None
        self.folder = folder or Path(tempfile.mkdtemp(prefix="control-plane-"))
        self.folder.mkdir(parents=True, exist_ok=True)
        self.etcd = Etcd(self.folder / "etcd")
        self.port = free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        authority = Authority(self.folder / "tls", "kubernetes")
        self.ca = authority.ca
        self._free_users = self._write_users()
        self.admin = self._free_users.pop()
        self.kubeconfig = self.admin.kubeconfig
        self.api = Api(self.url, self.ca, self.admin.token)
        key = signing_key(self.folder / "service-accounts.key")
        certificate = authority.issue("apiserver")
        self.kubelet = authority.issue("kubelet")
        # Each is None where it was not asked for.
        self.apiserver = self._server(
            programs / "kube-apiserver",
            "--etcd-servers=" + ",".join(self.etcd.endpoints),
            "--bind-address=127.0.0.1",
            f"--secure-port={self.port}",
            f"--tls-cert-file={certificate.cert}",
            f"--tls-private-key-file={certificate.key}",
            f"--cert-dir={self.folder / 'tls'}",
            f"--kubelet-certificate-authority={self.ca}",
            "--authorization-mode=RBAC",
            f"--token-auth-file={self.folder / 'tokens.csv'}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}",
            "--service-cluster-ip-range=10.0.0.0/16",
            # The `kubernetes` Service would point at 127.0.0.1, which endpoints may not.
            "--endpoint-reconciler-type=none",
            *([] if controllers else ["--disable-admission-plugins=ServiceAccount"]),
            *apiserver_flags,
        )
        self.controller_manager = (
            self._server(
                programs / "kube-controller-manager",
                f"--kubeconfig={self.kubeconfig}",
                f"--service-account-private-key-file={key}",
                f"--root-ca-file={self.ca}",
                "--use-service-account-credentials",
                "--leader-elect=false",
                "--secure-port=0",
                *_FAST,
            )
            if controllers
            else None
        )
        self.scheduler = (
            self._server(
                programs / "kube-scheduler",
                f"--kubeconfig={self.kubeconfig}",
                "--leader-elect=false",
                "--secure-port=0",
                *_FAST,
            )
            if scheduler
            else None
        )

    def start(self) -> Self:
        """Start what is not running and wait until pods are accepted; `ServerFailed` if not."""
        if not all(member.process.running for member in self.etcd.members):
            self.etcd.start()
        if not self.apiserver.running:
            self.start_apiserver()
        for follower in (self.controller_manager, self.scheduler):
            if follower and not follower.running:
                follower.start()
        if self.controller_manager:
            # Made by a controller; pods are refused before.
            self.controller_manager.wait_until(
                lambda: self.api.get("/api/v1/namespaces/default/serviceaccounts/default"),
                _READY,
                (ApiError, urllib3.exceptions.HTTPError),
            )
        return self

    def start_apiserver(self) -> None:
        """Start the API server alone, as after `apiserver.kill()`, and wait until it is ready."""
        self.apiserver.start()
        self.apiserver.wait_until(
            lambda: self.api.get("/readyz"), _READY, (ApiError, urllib3.exceptions.HTTPError)
        )

    def restart_apiserver(self) -> None:
        """Kill the API server and start it on the same port; ready on return (2 to 3 s)."""
        self.apiserver.kill()
        self.start_apiserver()

    def close(self) -> None:
        """End everything at once, and remove the folder if it was a temporary one."""
        for server in (self.scheduler, self.controller_manager, self.apiserver):
            if server:
                server.kill()  # a polite end takes the API server seconds, and saves nothing here
        self.etcd.close()
        self.api.close()
        if self._own_folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def user(self, rules: Sequence[Rule] = (), namespace: str | None = None) -> User:
        """Somebody new who may do what `rules` say, in one namespace or (None) in all.

        A rule is as in RBAC: `{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}`. In
        effect on return. No rules: may do nothing but log in. 199 of them are to be had.
        """
        user = self._free_users.pop()
        if rules:
            self._grant(user, [dict(rule) for rule in rules], namespace)
        return user

    def client(self, user: User, *, timeout: float = 15.0) -> Api:
        """Requests as that user; the caller closes it. `api` is the administrator's."""
        return Api(self.url, self.ca, user.token, timeout=timeout)

    def write_kubeconfig(self, path: Path, user: User, server: str | None = None) -> Path:
        """A kubeconfig for that user, through `server` (a proxy's URL on 127.0.0.1) if given."""
        cluster = {"server": server or self.url, "certificate-authority": str(self.ca)}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "tests", "cluster": cluster}],
            "users": [{"name": user.name, "user": {"token": user.token}}],
            "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": user.name}}],
            "current-context": "tests",
        }
        path.write_text(yaml.safe_dump(config, sort_keys=False))
        return path

    def create_namespace(self, prefix: str = "test") -> str:
        """A new namespace in which pods are accepted; its name."""
        body = {"metadata": {"generateName": f"{prefix}-"}}
        name = str(self.api.post("/api/v1/namespaces", body)["metadata"]["name"])
        if self.controller_manager:
            path = f"/api/v1/namespaces/{name}/serviceaccounts/default"
            eventually(lambda: self.api.get(path), 15, "a default service account", ignore=ApiError)
        return name

    def delete_namespace(self, name: str, wait: float = 0.0) -> None:
        """Delete a namespace with all in it, if it is there still.

        `wait` is how many seconds to wait for that to be done. It takes 5 to 15 s by itself: the
        namespace controller counts what is left only now and then.
        """
        path = f"/api/v1/namespaces/{name}"
        with contextlib.suppress(ApiError):
            self.api.delete(path)
        if wait:
            eventually(lambda: self._is_gone(path), wait, f"namespace {name} is gone")

    @contextlib.contextmanager
    def namespace(self, prefix: str = "test") -> Iterator[str]:
        """A new namespace for the time of a `with` block."""
        name = self.create_namespace(prefix)
        try:
            yield name
        finally:
            self.delete_namespace(name)

    def _is_gone(self, path: str) -> bool:
        try:
            self.api.get(path)
        except ApiError as error:
            if error.status == 404:
                return True
            raise
        return False

    def _grant(self, user: User, rules: list[dict[str, Any]], namespace: str | None) -> None:
        prefix = "Cluster" if namespace is None else ""
        base = "/apis/rbac.authorization.k8s.io/v1"
        base += "" if namespace is None else f"/namespaces/{namespace}"
        metadata = {"name": user.name}
        group = "rbac.authorization.k8s.io"
        self.api.post(f"{base}/{prefix.lower()}roles", {"metadata": metadata, "rules": rules})
        binding = {
            "metadata": metadata,
            "roleRef": {"apiGroup": group, "kind": f"{prefix}Role", "name": user.name},
            "subjects": [{"apiGroup": group, "kind": "User", "name": user.name}],
        }
        self.api.post(f"{base}/{prefix.lower()}rolebindings", binding)
        review = {
            "spec": {
                "user": user.name,
                "resourceAttributes": {
                    "namespace": namespace or "",
                    "group": rules[0]["apiGroups"][0],
                    "resource": rules[0]["resources"][0],
                    "verb": rules[0]["verbs"][0],
                },
            }
        }
        path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        eventually(
            lambda: self.api.post(path, review)["status"]["allowed"], 10, f"{user.name} is allowed"
        )

    def _write_users(self) -> list[User]:
        """Write the token file: some users without rights, the administrator last."""
        folder = self.folder / "users"
        folder.mkdir(exist_ok=True)
        names = [f"user-{number:03}" for number in range(1, _USERS)] + ["admin"]
        users = [User(name, secrets.token_hex(16), folder / f"{name}.yaml") for name in names]
        lines = [f"{user.token},{user.name},{user.name}" for user in users]
        lines[-1] += ",system:masters"
        (self.folder / "tokens.csv").write_text("\n".join(lines) + "\n")
        for user in users:
            self.write_kubeconfig(user.kubeconfig, user)
        return users

    def _server(self, program: Path, *flags: str) -> ServerProcess:
        return ServerProcess(program.name, [program, *flags], self.folder / f"{program.name}.log")
