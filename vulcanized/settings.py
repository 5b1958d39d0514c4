"""The settings: one TOML file, the environment over it, and every mistake told at once.

`VULCANIZED_ETCD__PREFIX` stands for `prefix` in `[etcd]`, `VULCANIZED_TARGETS__0__DIRECTORY` for
`directory` in the first `[[targets]]`. Where a list is wanted, the environment takes JSON or a
comma-separated text. Relative paths are relative to the folder of the settings file.

`Settings.load` is the one way in; what it returns is frozen, checked and has absolute paths.
"""

from __future__ import annotations

import json
import os
import re
import socket
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource

from vulcanized.errors import SettingsError
from vulcanized.model import Endpoint
from vulcanized.settings_problems import describe
from vulcanized.settings_types import (
    Address,
    EtcdPrefix,
    EtcdUrl,
    LabelName,
    Listed,
    Location,
    MaybeLocation,
    MaybeText,
    Namespace,
    PlainName,
    Seconds,
    Selector,
    VulcandPrefix,
    listed,
)

DEFAULT_PATH: Final = Path("/etc/vulcanized/vulcanized.toml")
ENVIRONMENT_PREFIX: Final = "VULCANIZED_"
_DELIMITER: Final = "__"

_STATE: Final = Path("/var/lib/vulcanized")
"""What is remembered stands here if no target has a directory: systemd's for our unit."""

_WRITABLE: Final = re.compile(r"/[A-Za-z0-9/_.+@=~-]{0,250}")

# sun_path holds 108 bytes with its closing zero (unix(7)). HAProxy binds `<path>.<pid>.tmp` first
# and renames it, and a pid has up to 7 digits (2.6 itself counts with five: "too long (max 97)").
_LONGEST_SOCKET: Final = 107
_LONGEST_HAPROXY_SOCKET: Final = _LONGEST_SOCKET - len(".4194304.tmp")


# --- the sections -----------------------------------------------------------------------------


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class KubernetesSettings(_Section):
    """A live cluster. No `kubeconfig`: in-cluster first, then the user's own kubeconfig."""

    kubeconfig: MaybeLocation = None
    context: str = ""
    namespaces: Listed[Namespace] = ()
    selector: Selector = ""
    app_label: LabelName = "app"
    version_label: LabelName = "version"


class EtcdSettings(_Section):
    """A live etcd. `endpoints` are `scheme://host:port`, all of one scheme; no trailing slash."""

    endpoints: Annotated[Listed[EtcdUrl], Field(min_length=1)] = ("http://127.0.0.1:2379",)
    prefix: EtcdPrefix = "/vulcanized"
    ca: MaybeLocation = None
    cert: MaybeLocation = None
    key: MaybeLocation = None
    username: MaybeText = None
    password_file: MaybeLocation = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        schemes = {endpoint.partition(":")[0] for endpoint in self.endpoints}
        if len(schemes) > 1:
            raise ValueError("endpoints mix http and https; use one of them for all")
        if (self.cert is None) != (self.key is None):
            raise ValueError("cert and key go together; give both or neither")
        if (self.username is None) != (self.password_file is None):
            raise ValueError("username and password_file go together; give both or neither")
        if schemes == {"http"} and (self.ca or self.cert):
            raise ValueError("ca, cert and key need endpoints that start with https://")
        return self


class DirectorySettings(_Section):
    """The embedded default. A side that a live section serves is None here."""

    manifests: MaybeLocation = None
    store: MaybeLocation = None


class SyncSettings(_Section):
    """`state` keeps the last good configs over a restart; read it as `Settings.state`."""

    hold_off: Seconds = 0.05
    ceiling: Seconds = 0.5
    resync: Annotated[float, Field(ge=1, le=86400, allow_inf_nan=False)] = 300.0
    state: MaybeLocation = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.ceiling < self.hold_off:
            raise ValueError(
                f"ceiling ({self.ceiling:g} s) is below hold_off ({self.hold_off:g} s); raise it"
            )
        return self


class GuardSettings(_Section):
    """`max_removed`: share (0 to 1) of servers that one relist may remove unconfirmed."""

    max_removed: Annotated[float, Field(ge=0, le=1)] = 0.5


class HaproxySettings(_Section):
    """An HAProxy that follows. `listen` addresses are IP literals, `*` for all of IPv4.

    `master_socket` is `<directory>/master.sock` unless it is set.
    """

    kind: Literal["haproxy"] = "haproxy"
    name: PlainName = "haproxy"
    directory: Location
    listen: Listed[Address] = ()
    listen_tls: Listed[Address] = ()
    master_socket: Location
    start: bool = False
    templates: MaybeLocation = None
    strict: bool = False

    @model_validator(mode="before")
    @classmethod
    def _socket(cls, target: object) -> object:
        if not isinstance(target, dict) or target.get("master_socket"):
            return target
        return {**target, "master_socket": f"{target.get('directory', '')}/master.sock"}

    @model_validator(mode="after")
    def _usable(self) -> Self:
        listens = self.listen + self.listen_tls
        if not listens:
            raise ValueError('needs an address to listen on; write listen = ["0.0.0.0:80"]')
        if twice := sorted({str(one) for one in listens if listens.count(one) > 1}):
            raise ValueError(f"listens twice on {', '.join(twice)}; name each address once")
        for name, path in (("directory", self.directory), ("master_socket", self.master_socket)):
            if not _WRITABLE.fullmatch(str(path)):
                raise ValueError(
                    f"{name} {str(path)!r:.100} cannot stand in a HAProxy config; write at most 250"
                    " letters, digits and /_.+@=~-"
                )
        length = len(os.fsencode(self.master_socket))
        if length > _LONGEST_HAPROXY_SOCKET:
            raise ValueError(
                f"master_socket {self.master_socket} has {length} bytes, and HAProxy can bind a"
                f" Unix socket path of {_LONGEST_HAPROXY_SOCKET} at most; set a shorter"
                " master_socket or directory"
            )
        return self


class NginxSettings(_Section):
    """An nginx that follows. `listen` addresses are IP literals, `*` for all of IPv4.

    `pid` and `error_log` are those of an nginx that others run, which includes
    `<directory>/http.conf`; `reload_command` is run in place of a signal to it. `keep_alive`:
    seconds that idle connections of clients stay open.
    """

    kind: Literal["nginx"] = "nginx"
    name: PlainName = "nginx"
    directory: Location
    listen: Listed[Address] = ()
    listen_tls: Listed[Address] = ()
    pid: Location = Path("/run/nginx.pid")
    error_log: Location = Path("/var/log/nginx/error.log")
    reload_command: Listed[str] = ()
    keep_alive: Annotated[int, Field(ge=0, le=3600)] = 0
    start: bool = False
    templates: MaybeLocation = None
    strict: bool = False

    @model_validator(mode="after")
    def _usable(self) -> Self:
        listens = self.listen + self.listen_tls
        if not self.listen:
            raise ValueError('needs an address to listen on; write listen = ["0.0.0.0:80"]')
        if twice := sorted({str(one) for one in listens if listens.count(one) > 1}):
            raise ValueError(f"listens twice on {', '.join(twice)}; name each address once")
        if not _WRITABLE.fullmatch(str(self.directory)):
            raise ValueError(
                f"directory {str(self.directory)!r:.100} cannot stand in an nginx config; write at"
                " most 250 letters, digits and /_.+@=~-"
            )
        if self.start and self.reload_command:
            raise ValueError("start and reload_command exclude each other; give one of them")
        return self


class VulcandSettings(_Section):
    """A tree of vulcand, in the etcd of `[etcd]`, that all its balancers read.

    `prefix` is vulcand's `-etcdKey`. Of all daemons with the same `leader` one writes, under a
    lease of `lease` seconds; its name also begins all ids. `probe`: where vulcands answer requests,
    to prove what they have applied.
    """

    kind: Literal["vulcand"] = "vulcand"
    name: PlainName = "vulcand"
    prefix: VulcandPrefix = "vulcand"
    leader: Annotated[PlainName, Field(max_length=32)] = "vulcanized"
    lease: Annotated[int, Field(ge=5, le=60)] = 10
    probe: Listed[Address] = ()
    strict: bool = False


def _kind(target: object) -> object:
    return target.get("kind") if isinstance(target, dict) else getattr(target, "kind", None)


# One more target is one more line here.
AnyTarget = HaproxySettings | NginxSettings | VulcandSettings
TargetSettings = Annotated[
    Annotated[HaproxySettings, Tag("haproxy")]
    | Annotated[NginxSettings, Tag("nginx")]
    | Annotated[VulcandSettings, Tag("vulcand")],
    Discriminator(_kind),
]


def _shared(target: AnyTarget, addresses: Iterable[Endpoint]) -> str:
    """The first of these addresses that a target listens on too, "" if there is none."""
    if isinstance(target, VulcandSettings):
        return ""
    taken = target.listen + target.listen_tls
    return next((str(one) for one in addresses if any(_same(one, each) for each in taken)), "")


def _same(one: Endpoint, other: Endpoint) -> bool:
    """Whether two sockets cannot both be bound there."""
    anywhere = {"*", "0.0.0.0", "::"}  # noqa: S104 - not a bind
    addresses = {one.address, other.address}
    one_family = (":" in one.address) == (":" in other.address)
    return (
        one.port == other.port
        and one_family
        and (len(addresses) == 1 or bool(addresses & anywhere))
    )


def _apart(targets: tuple[AnyTarget, ...]) -> tuple[AnyTarget, ...]:
    for index, target in enumerate(targets):
        for other in targets[:index]:
            if target.name == other.name:
                raise ValueError(f"two are named {target.name!r}; give each a name of its own")
            if not isinstance(target, VulcandSettings) and not isinstance(other, VulcandSettings):
                _files_apart(other, target)
            if isinstance(target, VulcandSettings) and isinstance(other, VulcandSettings):
                _trees_apart(other, target)
    return targets


FileTarget = HaproxySettings | NginxSettings


def _files_apart(one: FileTarget, other: FileTarget) -> None:
    both = f"{one.name!r} and {other.name!r}"
    if one.directory == other.directory:
        raise ValueError(f"{both} share the directory {other.directory}; give each its own")
    if _master_of(one) == _master_of(other):
        raise ValueError(f"{both} share the {_master_of(one)}; give each its own")
    if address := _shared(one, other.listen + other.listen_tls):
        raise ValueError(f"{both} both listen on {address}; give each its own")


def _master_of(target: FileTarget) -> str:
    """The process that a target drives, by what leads to it."""
    if isinstance(target, HaproxySettings):
        return f"master_socket {target.master_socket}"
    return f"pid {target.directory / 'nginx.pid' if target.start else target.pid}"


def _trees_apart(one: VulcandSettings, other: VulcandSettings) -> None:
    both = f"{one.name!r} and {other.name!r}"
    if one.leader == other.leader:
        raise ValueError(f"{both} have the leader {other.leader!r}; give each its own")
    if one.prefix == other.prefix:
        return
    short, long = sorted((one.prefix, other.prefix), key=len)
    if long.startswith(short):
        raise ValueError(
            f"{both}: the prefix {long!r} begins with {short!r}, so vulcand would take the keys of"
            " one for the other's; choose another"
        )


class AdminSettings(_Section):
    """Where `/metrics`, `/healthz`, `/readyz` and `/status` are served."""

    listen: Address = Endpoint("127.0.0.1", 9642)


class LogSettings(_Section):
    """`auto`: console on a terminal, else one JSON object a line."""

    format: Literal["auto", "json", "console"] = "auto"
    level: Literal["debug", "info", "warning", "error"] = "info"


class DeployerSettings(_Section):
    """The section of `vulcanized-deployer`; times in seconds, `keep_previous` 0: not at all.

    `instances`: how many daemons must report at least; `lease`: how long a lock outlives its
    deployer; `app_settings`: where etcd has the settings of each app.
    """

    listen: Address = Endpoint("127.0.0.1", 9643)
    tokens: MaybeLocation = None
    ready_timeout: Seconds = 300.0
    health_timeout: Seconds = 60.0
    switch_timeout: Seconds = 30.0
    drain_timeout: Seconds = 60.0
    keep_previous: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 600.0
    instances: Annotated[int, Field(ge=0, le=10_000)] = 1
    lease: Annotated[int, Field(ge=5, le=60)] = 15
    app_settings: EtcdPrefix = "/apps/config"


class Settings(_Section):
    """All settings. Each side has one source: `kubernetes` or `directory.manifests` for the
    cluster, `etcd` or `directory.store` for the store. `targets` holds one at least.
    """

    instance: PlainName = Field(default_factory=socket.gethostname)
    kubernetes: KubernetesSettings | None = None
    etcd: EtcdSettings | None = None
    directory: DirectorySettings | None = None
    sync: SyncSettings = SyncSettings()
    guard: GuardSettings = GuardSettings()
    targets: Annotated[
        tuple[TargetSettings, ...],
        BeforeValidator(listed),
        Field(min_length=1),
        AfterValidator(_apart),
    ]
    admin: AdminSettings = AdminSettings()
    log: LogSettings = LogSettings()
    deployer: DeployerSettings | None = None

    @model_validator(mode="after")
    def _admin_apart(self) -> Self:
        for target in self.targets:
            if both := _shared(target, [self.admin.listen]):
                raise ValueError(
                    f"admin.listen {both} is also where {target.name!r} listens; give it another"
                    " port"
                )
        return self

    @model_validator(mode="after")
    def _tree_has_an_etcd(self) -> Self:
        for target in self.targets:
            if not isinstance(target, VulcandSettings):
                continue
            if self.etcd is None:
                raise ValueError(
                    f"{target.name!r} writes to the etcd of [etcd], and there is none; add [etcd]"
                )
            if self.etcd.prefix.startswith(target.prefix):
                raise ValueError(
                    f"etcd.prefix {self.etcd.prefix!r} begins with {target.prefix!r}, the prefix of"
                    f" {target.name!r}, so vulcand would take its keys for its own; choose another"
                )
        return self

    @property
    def state(self) -> Path:
        """The directory that remembers the last good configs over a restart."""
        if self.sync.state is not None:
            return self.sync.state
        folders = (each.directory for each in self.targets if not isinstance(each, VulcandSettings))
        return next((folder / "state" for folder in folders), _STATE)

    @classmethod
    def load(cls, path: Path | None, environ: Mapping[str, str]) -> Self:
        """Read the settings file and the environment.

        `path` None: `$VULCANIZED_CONFIG`, else /etc/vulcanized/vulcanized.toml, which may be absent
        when the environment alone says enough. Raises SettingsError with every problem found.
        """
        named = path or (Path(configured) if (configured := environ.get(_CONFIG)) else None)
        origin = named or DEFAULT_PATH
        overrides = _from_environment(environ)
        written, base, shown = _read(origin), origin.absolute().parent, str(origin)
        if written is None and (named or not overrides):
            missing = "there is no such file; write it, or name another with --config FILE"
            raise SettingsError(shown, (missing,))
        if written is None:
            written, base, shown = {}, Path.cwd(), "environment"
        raw = _merged(written, overrides)
        problems = [*_unknown_variables(environ), *_choose_sides(raw)]
        if state := environ.get("STATE_DIRECTORY", "").partition(":")[0]:
            # systemd.exec(5): a colon-separated list of what StateDirectory= made.
            sync = raw.setdefault("sync", {})
            if isinstance(sync, dict) and not sync.get("state"):
                sync["state"] = state
        try:
            settings = cls.model_validate(raw, context={"base": base})
        except ValidationError as error:
            problems += describe(error, cls, _variables(environ))
        if problems:
            raise SettingsError(shown, tuple(problems))
        return settings


class SettingsOfDeployer(Settings):
    """The same file as `vulcanized-deployer` reads it: a build server has no proxies."""

    targets: Annotated[
        tuple[TargetSettings, ...], BeforeValidator(listed), AfterValidator(_apart)
    ] = ()
    deployer: DeployerSettings = DeployerSettings()


_CONFIG: Final = "VULCANIZED_CONFIG"


# --- reading ----------------------------------------------------------------------------------


def _read(path: Path) -> dict[str, Any] | None:
    """The tables of the file, None when there is no such file."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return None
    except RecursionError:
        reason = "is nested too deeply; make it flatter"
    except UnicodeDecodeError as error:
        reason = f"is not UTF-8 text (byte {error.start}); save it as UTF-8"
    except OSError as error:
        reason = f"cannot be read ({error.strerror}); mend its path or its permissions"
    except tomllib.TOMLDecodeError as error:
        what, _, place = str(error).partition(" (at ")
        reason = f"{place.rstrip(')') or 'end of document'}: is not TOML: {what}"
    raise SettingsError(str(path), (reason,))


class _Environment(EnvSettingsSource):
    """pydantic-settings' reading of nested variables, from an environment that is handed in."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        # Only the fields of the class are looked at; reading os.environ on its own, as a
        # BaseSettings does, is what must not happen here.
        super().__init__(
            cast("type[BaseSettings]", Settings),
            env_prefix=ENVIRONMENT_PREFIX,
            env_nested_delimiter=_DELIMITER,
        )

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return {name.lower(): value for name, value in self._environ.items()}

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        """JSON objects are decoded; lists are left to the field, which says what is wrong."""
        try:
            return json.loads(value) if value.lstrip().startswith("{") else value
        except ValueError:
            return value


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    return dict(_Environment(environ)())


def _variables(environ: Mapping[str, str]) -> dict[tuple[str, ...], str]:
    """Our variables by the path of what they set: ("etcd", "prefix") -> its name."""
    return {
        tuple(name[len(ENVIRONMENT_PREFIX) :].lower().split(_DELIMITER)): name
        for name in environ
        if name.upper().startswith(ENVIRONMENT_PREFIX)
    }


def _unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """Variables that set a key of a section that does not exist.

    Others are let through: Kubernetes gives every pod beside a Service called `vulcanized`
    VULCANIZED_PORT, VULCANIZED_SERVICE_HOST and more.
    """
    return [
        f"environment {name}: there is no section [{path[0]}]; "
        f"sections are {', '.join(f for f in Settings.model_fields if f != 'instance')}"
        for path, name in _variables(environ).items()
        if len(path) > 1 and path[0] and path[0] not in Settings.model_fields
    ]


def _merged(below: Any, above: Any) -> Any:
    """`above` laid over `below`: tables key by key, lists entry by entry."""
    if isinstance(below, list) and isinstance(above, dict):
        below = {str(index): item for index, item in enumerate(below)}
    if isinstance(below, dict) and isinstance(above, dict):
        merged = dict(below)
        for key, value in above.items():
            merged[key] = _merged(below[key], value) if key in below else value
        return merged
    return above


def _choose_sides(raw: dict[str, Any]) -> list[str]:
    """Check that each side has one source, and fill in the defaults of `[directory]`."""
    directory = raw.get("directory")
    if directory is not None and not isinstance(directory, dict):
        return []
    problems = []
    sides = (("cluster", "kubernetes", "manifests"), ("store", "etcd", "store"))
    for side, live, key in sides:
        if live in raw and directory and directory.get(key):
            problems.append(
                f"directory.{key}: [{live}] already serves the {side} side; take out one of the two"
            )
        elif live not in raw and directory is None:
            problems.append(
                f"there is no {side} side: add [{live}] for a live one,"
                f' or [directory] with {key} = "{key}" for files'
            )
        elif live not in raw and directory is not None:
            raw["directory"] = directory = {**directory, key: directory.get(key) or key}
    if directory == {} and not problems:
        problems.append("directory: [kubernetes] and [etcd] serve both sides; take it out")
    return problems
