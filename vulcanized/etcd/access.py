"""Who we are to etcd: TLS files and a password, read from disk whenever they are needed."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import grpc

from vulcanized.errors import Refused
from vulcanized.settings import EtcdSettings

_Stamp = tuple[tuple[int, int, int], ...]


class Tls:
    """The TLS files. Certificates are renewed while we run: `changed` says when to read again."""

    def __init__(self, settings: EtcdSettings) -> None:
        self._files: Final = (settings.ca, settings.key, settings.cert)
        self._stamp: _Stamp = ()

    def read(self) -> grpc.ChannelCredentials:
        """Credentials for a channel; without a `ca` the system's. Raises OSError."""
        stamp = self._look()
        ca, key, cert = (path.read_bytes() if path else None for path in self._files)
        credentials = grpc.ssl_channel_credentials(ca, key, cert)
        self._stamp = stamp
        return credentials

    def changed(self) -> bool:
        """Whether the files are others than those read last; False while one is missing."""
        try:
            return self._look() != self._stamp
        except OSError:
            return False

    def _look(self) -> _Stamp:
        found = (path.stat() for path in self._files if path)
        return tuple((stat.st_mtime_ns, stat.st_ino, stat.st_size) for stat in found)


class Login:
    """A user and the file with its password."""

    def __init__(self, username: str, password_file: Path) -> None:
        self.username: Final = username
        self._file: Final = password_file

    def password(self) -> str:
        """The password, without the end of its line. Raises `Refused` if it cannot be read."""
        try:
            return self._file.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise Refused(
                f"the password of etcd user {self.username!r} cannot be read: {error}; "
                "check password_file in [etcd]"
            ) from error


def tls_of(settings: EtcdSettings) -> Tls | None:
    """The TLS files, None for plain http."""
    return Tls(settings) if settings.endpoints[0].startswith("https:") else None


def login_of(settings: EtcdSettings) -> Login | None:
    """The user to log in, None without one."""
    if settings.username is None or settings.password_file is None:
        return None
    return Login(settings.username, settings.password_file)
