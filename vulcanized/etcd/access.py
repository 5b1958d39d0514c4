"""Who we are to etcd: TLS files and a password, read from disk whenever they are needed."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final

import grpc

from vulcanized.errors import Refused, SettingsError
from vulcanized.settings import EtcdSettings

_Stamp = tuple[tuple[int, int, int], ...]


class Tls:
    """The TLS files. Certificates are renewed while we run: `changed` says when to read again."""

    def __init__(self, settings: EtcdSettings) -> None:
        self._files: Final = (settings.ca, settings.key, settings.cert)
        self._stamp: _Stamp = ()

    def read(self) -> grpc.ChannelCredentials:
        """Credentials for a channel; without a `ca` the system's.

        Raises `SettingsError` with what is wrong with which file: gRPC itself would only fail to
        connect.
        """
        try:
            stamp = self._look()
            # Read first: what OpenSSL fails to open it does not name.
            ca, key, cert = (path.read_bytes() if path else None for path in self._files)
            self._check()
        except OSError as error:
            problem = f"{error.filename} cannot be read: {error.strerror}; give a readable PEM file"
            raise SettingsError("etcd", (problem,)) from error
        credentials = grpc.ssl_channel_credentials(ca, key, cert)
        self._stamp = stamp
        return credentials

    def changed(self) -> bool:
        """Whether the files are others than those read last; False while one is missing."""
        try:
            return self._look() != self._stamp
        except OSError:
            return False

    def _check(self) -> None:
        ca, key, cert = self._files
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        what = f"ca {ca}"
        try:
            if ca:
                context.load_verify_locations(ca)
            what = f"cert {cert} with key {key}"
            if cert:
                # Without an answer, OpenSSL would ask at the terminal for a key's passphrase.
                context.load_cert_chain(cert, key, password=str)
        except ssl.SSLError as error:
            reason = error.reason or str(error).partition(" (_ssl.c:")[0]
            problem = f"{what} cannot be used: {reason}; give PEM files that belong"
            raise SettingsError("etcd", (f"{problem} together, without a passphrase",)) from error

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
