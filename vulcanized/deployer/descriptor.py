"""The descriptor of a release: ours or Amdatu's -> what is to be created and how. Pure.

A descriptor is hostile text. `read` takes it apart, `Draft.identity` says which app and version it
is about, and `Draft.release` fills in its `${names}` and checks every field. Only then is there a
`Release`, from which objects and keys are made.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Final, Literal, NamedTuple, Self

import msgspec
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from vulcanized.appconfig import AppConfig, parse_app_config
from vulcanized.appfaults import explain, in_one_line, shown, worded
from vulcanized.appstrings import Duration, ExactPath, PortNumber, Version
from vulcanized.appstrings import Status as StatusRange
from vulcanized.deployer.amdatu import translated
from vulcanized.deployer.words import Health, Stage, Times, as_json
from vulcanized.errors import DescriptorInvalid, Invalid
from vulcanized.manifests import load_documents
from vulcanized.model import AppId
from vulcanized.objects import REPLICA_SET, REPLICATION_CONTROLLER, Labels

Json = dict[str, Any]

MAX_BYTES: Final = 1 << 20
NEXT_VERSION: Final = "#"
DEPLOYMENT_ANNOTATION: Final = "vulcanized.io/deployment"
HEALTH_ANNOTATION: Final = "vulcanized.io/health"
HOSTNAME: Final = "kubernetes.io/hostname"
HIDDEN: Final = "***"
REMEDY: Final = "give --set NAME=VALUE, --values FILE or an environment variable"

_COMMAND = "vulcanized-deployer schema"
_MOST_NODES = 20_000
_MOST_REPLICAS = 10_000
_NO_PORT = 9999
_HEALTH_PORT = "healthcheck"

_PLACE = re.compile(r"\$(\$)?\{([^{}]*)\}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,127}\Z")
_SECRET = re.compile(
    r"pass|secret|token|key|cred|auth|private|cert|cookie|session|salt|dsn|pwd", re.IGNORECASE
)
_ENV_NAME = r"^[A-Za-z_][A-Za-z0-9_.-]{0,127}$"
BUILT_IN: Final = ("version", "app", "namespace", "deployment")

DnsLabel = Annotated[
    str,
    worded(
        r"^[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?$",
        "at most 63 small letters, digits and -, the first and last a letter or digit",
    ),
]
EnvironmentName = Annotated[
    str, worded(_ENV_NAME, "the name of an environment variable: letters, digits and _.-")
]


# --- the schema --------------------------------------------------------------------------------


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


def _text(value: object) -> object:
    """Versions and values that YAML takes for numbers."""
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value) if plain else value


def _status(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


class HealthSettings(_Model):
    """How each new pod is asked, beside Kubernetes' own readiness, before it may take traffic."""

    type: Literal["http", "probe", "tcp"] = Field(
        default="http",
        description="http: a GET; probe: JSON that says healthy: true; tcp: the port accepts.",
    )
    path: ExactPath = "/health"
    port: PortNumber | None = Field(
        default=None,
        description="Default: the only container port, or the one named healthcheck, or the first.",
    )
    method: Literal["GET", "POST"] = "GET"
    headers: dict[
        Annotated[str, worded(r"^[A-Za-z0-9-]{1,64}$", "the name of a header")],
        Annotated[str, worded(r"^[ -~]{0,512}$", "one line of plain text")],
    ] = Field(default={}, max_length=16)
    status: Annotated[StatusRange, BeforeValidator(_status, json_schema_input_type=str | int)] = (
        "200-299"
    )
    body: Annotated[str, Field(max_length=1024)] = Field(
        default="", description="A text that the answer must hold."
    )
    interval: Duration = 1.0
    timeout: Duration = 5.0
    successes: Annotated[int, Field(ge=1, le=100)] = 2
    via: Literal["direct", "apiserver"] = Field(
        default="direct", description="apiserver: through its pod proxy."
    )

    @model_validator(mode="after")
    def _no_secrets(self) -> Self:
        if hidden := [name for name in self.headers if _SECRET.search(name)]:
            raise ValueError(
                f"header {shown(hidden[0])} looks like a secret, and a health check is written "
                "down where many may read it: let the check do without"
            )
        return self


class CanaryStep(_Model):
    """So many percent of the traffic for the new version, for so long."""

    weight: Annotated[int, Field(ge=1, le=99)]
    pause: Duration = 60.0


class StrategySettings(_Model):
    """How traffic goes over to the new version."""

    type: Literal["blue-green", "canary", "rolling"] = "blue-green"
    steps: tuple[CanaryStep, ...] = Field(
        default=(), max_length=20, description="canary: rising weights, then 100."
    )
    batches: Annotated[int, Field(ge=1, le=20)] | None = Field(
        default=None, description="rolling: in how many batches of pods; default: one a time."
    )

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        weights = [step.weight for step in self.steps]
        if self.type == "canary" and not weights:
            raise ValueError("canary needs steps, such as [{weight: 10, pause: 5m}]")
        if self.type != "canary" and weights:
            raise ValueError("steps are for canary only")
        if self.type != "rolling" and self.batches:
            raise ValueError("batches are for rolling only")
        if weights != sorted(set(weights)):
            raise ValueError("the weights of the steps must rise")
        return self


def _strategy(value: object) -> object:
    return {"type": value} if isinstance(value, str) else value


class SpreadSettings(_Model):
    """How pods are spread: none of these where the podspec says it itself."""

    mode: Literal["preferred", "required", "none"] = "preferred"
    topology_key: Annotated[
        str, worded(r"^[A-Za-z0-9./_-]{1,253}$", "the name of a node's label")
    ] = HOSTNAME


def _spread(value: object) -> object:
    return {"mode": value} if isinstance(value, str) else value


class Descriptor(_Model):
    """One release of one app."""

    app: DnsLabel
    namespace: DnsLabel = "default"
    version: Annotated[
        Literal["#"] | Version,
        BeforeValidator(_text, json_schema_input_type=Literal["#"] | Version | int),
    ] = Field(default="#", description="#: the next number.")
    replicas: Annotated[int, Field(ge=1, le=_MOST_REPLICAS)] = 1
    controller: Literal["ReplicationController", "ReplicaSet"] = "ReplicationController"
    strategy: Annotated[
        StrategySettings,
        BeforeValidator(_strategy, json_schema_input_type=StrategySettings | str),
    ] = StrategySettings()
    config: AppConfig | None = Field(
        default=None, description="The app config; without: the one in etcd stays as it is."
    )
    health: HealthSettings | None = Field(
        default=None, description="Without: Kubernetes' readiness alone counts."
    )
    environment: dict[
        EnvironmentName,
        Annotated[str, Field(max_length=65536), BeforeValidator(_text)],
    ] = Field(default={}, max_length=1000)
    labels: dict[
        Annotated[str, worded(r"^[A-Za-z0-9./_-]{1,316}$", "the name of a label")],
        Annotated[str, worded(r"^[A-Za-z0-9._-]{0,63}$", "the value of a label")],
    ] = Field(default={}, max_length=64, description="Further labels of controller and pods.")
    spread: Annotated[
        SpreadSettings, BeforeValidator(_spread, json_schema_input_type=SpreadSettings | str)
    ] = SpreadSettings()
    ready_timeout: Duration | None = None
    health_timeout: Duration | None = None
    switch_timeout: Duration | None = None
    drain_timeout: Duration | None = None
    keep_previous: Annotated[float, Field(ge=0, le=604800, allow_inf_nan=False)] | None = None
    podspec: dict[str, Any] = Field(description="A Kubernetes PodSpec.")

    @model_validator(mode="after")
    def _containers(self) -> Self:
        containers = self.podspec.get("containers")
        if not isinstance(containers, list) or not containers:
            raise ValueError("podspec.containers must be a list with a container at least")
        inits = self.podspec.get("initContainers") or []
        for each in [*containers, *(inits if isinstance(inits, list) else [inits])]:
            if fault := _container_fault(each):
                raise ValueError(f"podspec: {fault}")
        return self


def _container_fault(container: object) -> str:
    """What we could not work with; all the rest is for the API server to check."""
    if not isinstance(container, dict) or not isinstance(container.get("name"), str):
        return "each container must be an object with a name"
    listed = next((k for k in ("env", "ports") if not isinstance(container.get(k) or [], list)), "")
    return f"{listed} of a container must be a list" if listed else ""


def descriptor_schema() -> Json:
    """The JSON Schema of our form."""
    schema = Descriptor.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


# --- reading -----------------------------------------------------------------------------------

Lookup = Callable[[str], object | None]
"""The value of a `${name}`, None where there is none. A number stays one."""


class Identity(NamedTuple):
    """What a descriptor is about; `version` may be NEXT_VERSION."""

    app: AppId
    version: str


class Draft(NamedTuple):
    """A descriptor that was read: our form, its names not filled in yet."""

    raw: Json
    where: str
    remedy: str

    def identity(self, values: Lookup) -> Identity:
        """App and version. Raises `DescriptorInvalid`."""
        part = {key: self.raw[key] for key in ("app", "namespace", "version") if key in self.raw}
        unresolved: set[str] = set()
        part = _filled(part, values, unresolved)
        self._all_resolved(unresolved)
        stub = {"containers": [{"name": "app"}]}
        found = _checked({**part, "podspec": stub}, self.where)
        return Identity(AppId(found.namespace, found.app), found.version)

    def release(
        self,
        version: str,
        deployment: str,
        values: Lookup,
        injected: Iterable[tuple[str, str]],
        labels: Labels,
        times: Times,
    ) -> Release:
        """Everything, for one version. `injected`: environment of every pod, by name.

        Raises `DescriptorInvalid` with all names that have no value, and with all faults.
        """
        app = self.identity(values).app
        own = {"version": version, "deployment": deployment}
        own |= {"app": app.name, "namespace": app.namespace}
        unresolved: set[str] = set()

        def look_up(name: str) -> object | None:
            return own.get(name) or values(name)

        raw = _filled({**self.raw, "version": version}, look_up, unresolved)
        self._all_resolved(unresolved)
        descriptor = _checked(raw, self.where)
        if descriptor.version == NEXT_VERSION:
            raise DescriptorInvalid(self.where, "version: has no number yet")
        if taken := descriptor.labels.keys() & {labels.app, labels.version}:
            raise DescriptorInvalid(
                self.where, f"labels: {min(taken)} is written by the deployer: leave it out"
            )
        config = ""
        if raw.get("config") is not None:
            config = json.dumps(raw["config"], separators=(",", ":"))
            try:
                parse_app_config(config, "config")
            except Invalid as error:
                raise DescriptorInvalid(self.where, f"config: {error.reason}") from None
        return Release(
            app=app,
            version=version,
            deployment=deployment,
            descriptor=descriptor,
            config=config,
            injected=tuple(injected),
            labels=labels,
            times=_times(descriptor, times),
        )

    def _all_resolved(self, unresolved: set[str]) -> None:
        if unresolved:
            names = in_one_line(f"${{{name}}}" for name in sorted(unresolved))
            raise DescriptorInvalid(self.where, f"{names}: no value: {self.remedy}")

    def redacted(self) -> str:
        """The descriptor as it may be kept and shown: JSON, names not filled in, no secrets."""
        return json.dumps(redacted(self.raw))


def read(content: bytes, where: str, remedy: str = REMEDY) -> Draft:
    """Read a descriptor of either form: JSON or YAML, one document.

    Amdatu's is told by its `appName`. `remedy`: what to do about a `${name}` without a value.
    Raises `DescriptorInvalid`.
    """
    if len(content) > MAX_BYTES:
        raise DescriptorInvalid(where, f"larger than {MAX_BYTES >> 20} MiB: shorten it")
    # JSON is YAML, but for what a tab may do, and says better what is wrong with it.
    form = "it.json" if content.lstrip()[:1] == b"{" else where
    try:
        documents = [each for each in load_documents(content, form) if each is not None]
    except Invalid as error:
        raise DescriptorInvalid(where, error.reason) from None
    if len(documents) != 1 or not isinstance(documents[0], dict):
        raise DescriptorInvalid(where, "must be one object: app, version, replicas, podspec ...")
    raw = documents[0]
    _bounded(raw, where)
    lowered = {str(key).lower(): value for key, value in raw.items()}
    if "appname" in lowered and "app" not in raw:
        raw = translated(lowered, where)
    return Draft({str(key): value for key, value in raw.items()}, where, remedy)


def _bounded(raw: object, where: str) -> None:
    """Refuse what is no JSON, and what is too much."""
    left, nodes = [raw], 0
    while left:
        value = left.pop()
        nodes += 1
        if nodes > _MOST_NODES:
            raise DescriptorInvalid(where, f"holds more than {_MOST_NODES} values: shorten it")
        if isinstance(value, dict):
            if strange := [key for key in value if not isinstance(key, str)]:
                raise DescriptorInvalid(
                    where, f"the key {shown(str(strange[0]))} is not a text: put it in quotes"
                )
            left.extend(value.values())
        elif isinstance(value, list):
            left.extend(value)
        elif value is not None and not isinstance(value, str | int | float | bool):
            raise DescriptorInvalid(
                where, f"{shown(str(value))} is a {type(value).__name__}: put it in quotes"
            )


def _checked(raw: Json, where: str) -> Descriptor:
    try:
        return Descriptor.model_validate(raw)
    except ValidationError as error:
        raise DescriptorInvalid(where, explain(error, Descriptor, "", _COMMAND)) from None


def _filled(value: Any, values: Lookup, unresolved: set[str]) -> Any:
    """The document with every `${name}` replaced; `$${name}` stays as `${name}`."""
    if isinstance(value, dict):
        return {key: _filled(inner, values, unresolved) for key, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, values, unresolved) for inner in value]
    if not isinstance(value, str) or "${" not in value:
        return value
    whole = _PLACE.fullmatch(value)
    if whole and not whole[1]:
        found = _value(whole[2], values)
        if found is None:
            unresolved.add(whole[2])
            return value
        return found

    def replace(match: re.Match[str]) -> str:
        if match[1]:
            return match[0][1:]
        found = _value(match[2], values)
        if found is None:
            unresolved.add(match[2])
            return match[0]
        return str(found)

    return _PLACE.sub(replace, value)


def _value(name: str, values: Lookup) -> object | None:
    return values(name) if _VARIABLE.match(name) else None


def _times(descriptor: Descriptor, usual: Times) -> Times:
    own = {
        "ready": descriptor.ready_timeout,
        "health": descriptor.health_timeout,
        "switch": descriptor.switch_timeout,
        "drain": descriptor.drain_timeout,
        "keep": descriptor.keep_previous,
    }
    return msgspec.structs.replace(usual, **{k: v for k, v in own.items() if v is not None})


# --- what is made of it ------------------------------------------------------------------------


class Release(NamedTuple):
    """A descriptor whose every field is known and checked. `config`: JSON, "" to leave it."""

    app: AppId
    version: str
    deployment: str
    descriptor: Descriptor
    config: str
    injected: tuple[tuple[str, str], ...]
    labels: Labels
    times: Times

    @property
    def kind(self) -> str:
        """The kind of the controller."""
        return self.descriptor.controller

    @property
    def name(self) -> str:
        """The name of the controller."""
        return controller_name(self.app.name, self.version)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The way to the new version."""
        strategy, replicas = self.descriptor.strategy, self.descriptor.replicas
        if strategy.type == "canary":
            steps = [Stage(replicas, step.weight, step.pause) for step in strategy.steps]
            return (*steps, Stage(replicas))
        if strategy.type == "rolling":
            count = min(strategy.batches or replicas, replicas, 20)
            sizes = sorted({-(-replicas * turn // count) for turn in range(1, count + 1)})
            return tuple(
                Stage(size, max(1, 100 * size // replicas), 0.0, replicas - size) for size in sizes
            )
        return (Stage(replicas),)

    @property
    def health(self) -> Health | None:
        """How its pods are asked, None: not at all."""
        check = self.descriptor.health
        if check is None:
            return None
        low, _, high = check.status.partition("-")
        return Health(
            kind=check.type,
            port=check.port or health_port(self.descriptor.podspec),
            path=check.path,
            method=check.method,
            headers=tuple(sorted(check.headers.items())),
            low=int(low),
            high=int(high or low),
            body=check.body,
            interval=check.interval,
            timeout=check.timeout,
            successes=check.successes,
            via=check.via,
        )

    def manifest(self, replicas: int) -> Json:
        """The controller as it is created."""
        labels = {
            **self.descriptor.labels,
            self.labels.app: self.app.name,
            self.labels.version: self.version,
        }
        chosen = {self.labels.app: self.app.name, self.labels.version: self.version}
        annotations = {DEPLOYMENT_ANNOTATION: self.deployment}
        if (health := self.health) is not None:
            annotations[HEALTH_ANNOTATION] = as_json(health)
        old_kind = self.kind == REPLICATION_CONTROLLER
        return {
            "apiVersion": "v1" if old_kind else "apps/v1",
            "kind": self.kind,
            "metadata": {
                "name": self.name,
                "namespace": self.app.namespace,
                "labels": labels,
                "annotations": annotations,
            },
            "spec": {
                "replicas": replicas,
                "selector": chosen if old_kind else {"matchLabels": chosen},
                "template": {"metadata": {"labels": labels}, "spec": self._podspec(chosen)},
            },
        }

    def _podspec(self, chosen: Mapping[str, str]) -> Json:
        spec = dict(self.descriptor.podspec)
        for part in ("containers", "initContainers"):
            if spec.get(part):
                spec[part] = [self._container(each) for each in spec[part]]
        spread = self.descriptor.spread
        if spread.mode != "none" and not spec.get("topologySpreadConstraints"):
            strict = spread.mode == "required"
            spec["topologySpreadConstraints"] = [
                {
                    "maxSkew": 1,
                    "topologyKey": spread.topology_key,
                    "whenUnsatisfiable": "DoNotSchedule" if strict else "ScheduleAnyway",
                    "labelSelector": {"matchLabels": dict(chosen)},
                }
            ]
        return spec

    def _container(self, container: Json) -> Json:
        """With the environment behind its own: of two of a name the last one counts, and stays."""
        entries: dict[str, Any] = {}
        own = list(container.get("env") or [])
        built_in = [
            {"name": "APP_NAME", "value": self.app.name},
            {"name": "POD_NAMESPACE", "value": self.app.namespace},
            {"name": "APP_VERSION", "value": self.version},
            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        ]
        given = (*self.injected, *self.descriptor.environment.items())
        more = [{"name": name, "value": value} for name, value in given]
        for each in [*own, *built_in, *more]:
            name = each.get("name") if isinstance(each, dict) else None
            entries.pop(str(name), None)
            entries[str(name)] = each
        return {**container, "env": list(entries.values())}


def controller_name(app: str, version: str) -> str:
    """`<app>-<version>`, or where a name cannot be that, one that no other version can have."""
    plain = f"{app}-{version}"
    name = re.sub(r"[^a-z0-9.-]", "-", plain.lower())
    name = re.sub(r"\.(?=[.-])|(?<=-)\.", "-", name)
    if name == plain and len(name) <= 200:
        return name
    mark = hashlib.blake2b(plain.encode(), digest_size=4).hexdigest()
    return f"{name[:190].rstrip('-.')}-{mark}"


def health_port(podspec: Mapping[str, Any]) -> int:
    """Where health is asked when nobody says: as Amdatu's deployer chose it."""
    ports = [
        port
        for container in podspec.get("containers") or ()
        for port in container.get("ports") or ()
        if isinstance(port, dict) and type(port.get("containerPort")) is int
    ]
    if not ports:
        return _NO_PORT
    named = [port for port in ports if port.get("name") == _HEALTH_PORT]
    return int((named or ports)[0]["containerPort"])


def environment_of(items: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Names from etcd as a container can have them: upper case, `_` for `-`; no others."""
    named = ((name.upper().replace("-", "_"), value) for name, value in items)
    return tuple(sorted({n: v for n, v in named if re.match(_ENV_NAME, n)}.items()))


def app_settings(text: str, where: str) -> tuple[tuple[str, str], ...]:
    """The app's own settings: a JSON list of `{"name", "value"}`. Raises `Invalid`."""
    try:
        found = msgspec.json.decode(text, type=list[_Setting])
    except (msgspec.MsgspecError, RecursionError):
        raise Invalid(where, 'is not a JSON list of {"name": "...", "value": "..."}') from None
    if strange := [each.name for each in found if not re.match(_ENV_NAME, each.name)]:
        raise Invalid(where, f"{shown(strange[0])} cannot be the name of an environment variable")
    return tuple((each.name, each.value) for each in found)


class _Setting(msgspec.Struct):
    name: str
    value: str


def redacted(value: Any, name: str = "") -> Any:
    """A document without what may be secret: values of environments, and of telling names."""
    if isinstance(value, dict):
        if isinstance(value.get("name"), str) and "value" in value:
            return {**{k: redacted(v, k) for k, v in value.items()}, "value": HIDDEN}
        if name in ("environment", "users"):
            return dict.fromkeys(value, HIDDEN)
        return {key: redacted(inner, key) for key, inner in value.items()}
    if isinstance(value, list):
        return [redacted(inner, name) for inner in value]
    telling = isinstance(value, str) and _SECRET.search(name) and name not in _PLAIN
    return HIDDEN if telling else value


_PLAIN = frozenset({"key", "topologyKey", "topology_key", "secretName", "certificate"})
"""Names with a telling word in them that Kubernetes and we use for what is none."""

KINDS: Final = (REPLICATION_CONTROLLER, REPLICA_SET)
"""What the deployer makes and deletes."""
