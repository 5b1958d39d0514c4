"""`make run`: sample pods, the daemon and a real HAProxy, until Ctrl-C ends all of them.

The daemon is an ordinary `vulcanized run`; this program only makes its folder, plays the pods, says
what to try, and ends everything. Should it die, the daemon is told to end by the kernel.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from sample_pods import SamplePods

from vulcanized.errors import SettingsError
from vulcanized.model import Endpoint
from vulcanized.settings import HaproxySettings, Settings

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent

READY_SECONDS = 20.0
END_SECONDS = 8.0

# prctl(PR_SET_PDEATHSIG, SIGTERM): the daemon ends when we do, however that happens.
LAUNCHER = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


class CannotRun(Exception):
    """Why the quick start cannot go on, and what to do about it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description="The quick start of Vulcanized.")
    parser.add_argument("--source", type=Path, default=HERE, help="default: %(default)s")
    parser.add_argument("--work", type=Path, default=ROOT / "build/quickstart", metavar="FOLDER")
    options = parser.parse_args(arguments)
    stop = threading.Event()

    def ask_to_stop(number: int, frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, ask_to_stop)
    try:
        return run(options.source.absolute(), options.work.absolute(), stop)
    except CannotRun as error:
        print(f"quick start: {error}", file=sys.stderr)
        return 1


def run(source: Path, work: Path, stop: threading.Event) -> int:
    """Serve until `stop` is set or the daemon ends. Raises CannotRun."""
    work.mkdir(parents=True, exist_ok=True)
    with only_one(work):
        copy(source, work)
        settings = load(work)
        refuse_taken_ports(settings)
        pods = SamplePods(work / "manifests")
        try:
            try:
                pods.look()
            except OSError as error:
                raise CannotRun(
                    f"a sample pod cannot start ({error.strerror}); is something else listening on"
                    " 127.0.8.x? Change podIP or containerPort in the manifests"
                ) from None
            pods.start()
            return serve(settings, source, work, stop)
        finally:
            pods.close()
            if not answers(edge(settings).master_socket):
                shutil.rmtree(short_folder(work), ignore_errors=True)


@contextlib.contextmanager
def only_one(work: Path) -> Iterator[None]:
    """Raises CannotRun when this folder is being served already."""
    with (work / ".lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise CannotRun(
                f"it is running already (process {lock.read().strip()}); end that one with Ctrl-C"
            ) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield


def copy(source: Path, work: Path) -> None:
    """Begin afresh. HAProxy's own folder stays: what a killed run left is adopted through it."""
    for name in ("manifests", "more", "store"):
        shutil.rmtree(work / name, ignore_errors=True)
        shutil.copytree(source / name, work / name)
    shutil.rmtree(work / "edge/state", ignore_errors=True)
    shutil.copy(source / "vulcanized.toml", work)


def load(work: Path) -> Settings:
    """The settings. Where the folder's path is too long for a Unix socket, the socket moves."""
    config = work / "vulcanized.toml"
    try:
        return Settings.load(config, os.environ)
    except SettingsError as error:
        if "Unix socket path" not in str(error):
            raise CannotRun(str(error)) from None
    folder = short_folder(work)
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise CannotRun(f"{folder} belongs to somebody else; remove it")
    moved = f'master_socket = "{folder}/master.sock"\nstart = true'
    config.write_text(config.read_text().replace("start = true", moved, 1))
    try:
        return Settings.load(config, os.environ)
    except SettingsError as error:
        raise CannotRun(str(error)) from None


def short_folder(work: Path) -> Path:
    """Always the same for one `work`: a proxy that a crash left is found again."""
    name = hashlib.sha256(os.fsencode(work)).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"vulcanized-{os.getuid()}-{name}"


def edge(settings: Settings) -> HaproxySettings:
    """The HAProxy of the quick start."""
    return next(each for each in settings.targets if isinstance(each, HaproxySettings))


def refuse_taken_ports(settings: Settings) -> None:
    """Raises CannotRun when a port is taken, unless it is by HAProxy that a killed run left."""
    target = edge(settings)
    wanted = [(settings.admin.listen, "VULCANIZED_ADMIN__LISTEN")]
    if not answers(target.master_socket):
        wanted += [(address, "VULCANIZED_TARGETS__0__LISTEN") for address in target.listen]
    for address, variable in wanted:
        if is_taken(address):
            other = Endpoint(address.address, address.port + 1)
            raise CannotRun(
                f"{address} is taken by another program; end it, or choose another port:"
                f" {variable}={other} make run"
            )


def answers(path: Path) -> bool:
    """Whether something serves this Unix socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


def is_taken(address: Endpoint) -> bool:
    """Whether something listens there already."""
    host = "" if address.address == "*" else address.address
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, address.port))
        except OSError:
            return True
        return False


def serve(settings: Settings, source: Path, work: Path, stop: threading.Event) -> int:
    """Run the daemon until `stop` is set or it ends by itself."""
    daemon = [sys.executable, "-m", "vulcanized", "run", "--config", f"{work}/vulcanized.toml"]
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", LAUNCHER, str(os.getpid()), *daemon],
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for us; the daemon is told in good time
    )
    try:
        wait_until_ready(process, settings, stop)
        if not stop.is_set():
            print(instructions(settings, source, work), flush=True)
        while process.poll() is None and not stop.wait(0.2):
            pass
        if process.poll() is not None:
            raise CannotRun(f"the daemon ended with code {process.returncode}; its words are above")
        return 0
    finally:
        if process.poll() is None:
            print("\nquick start: ending the daemon, HAProxy and the sample pods", flush=True)
            process.terminate()
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_until_ready(
    process: subprocess.Popen[bytes], settings: Settings, stop: threading.Event
) -> None:
    """Raises CannotRun when the daemon is not ready in time."""
    url = f"http://{settings.admin.listen}/readyz"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    said = ""
    end = time.monotonic() + READY_SECONDS
    while time.monotonic() < end and process.poll() is None and not stop.is_set():
        try:
            with opener.open(url, timeout=2):
                return
        except urllib.error.HTTPError as error:
            said = error.read().decode(errors="replace")
        except OSError as error:
            said = str(error)
        stop.wait(0.05)
    if process.poll() is None and not stop.is_set():
        raise CannotRun(f"not ready within {READY_SECONDS:g} s: {said}")


def instructions(settings: Settings, source: Path, work: Path) -> str:
    """What to try."""
    port = edge(settings).listen[0].port
    admin = settings.admin.listen
    folder = shown(work)
    vulcanized = shown(Path(sys.executable).parent / "vulcanized")
    store = f"{folder}/store"
    lines = [
        ("open it", f"http://todo.localhost:{port}"),
        ("", f"http://shop.localhost:{port}   another app"),
        ("ask it", f"curl http://todo.localhost:{port}"),
        ("switch the version", f"echo green > {store}/active/default/todo"),
        ("only 10 % of it", """echo '{"weights": {"blue": 90, "green": 10}}' \\"""),
        ("", f"  > {store}/active/default/todo"),
        ("add a pod", f"cp {folder}/more/todo-blue-3.yaml {folder}/manifests/"),
        ("take it away", f"rm {folder}/manifests/todo-blue-3.yaml"),
        ("break a config", f"echo nonsense > {store}/apps/default/todo.json"),
        ("", "todo goes on with its last good one, shop never notices"),
        ("mend it", f"cp {shown(source)}/store/apps/default/todo.json {store}/apps/default/"),
        ("a version without pods", f"echo purple > {store}/active/default/todo"),
        ("", "is held: what served before goes on serving"),
        ("see what it thinks", f"{vulcanized} status --config {folder}/vulcanized.toml"),
        ("", f"http://{admin}/   http://{admin}/metrics"),
        ("look at the files", f"{folder}/edge/haproxy.cfg and the maps beside it"),
    ]
    width = max(len(what) for what, _ in lines) + 2
    body = "\n".join(f"  {bold(what.ljust(width))}{how}" for what, how in lines)
    return f"\n{bold('Vulcanized runs.')} Try:\n\n{body}\n\nCtrl-C ends all of it.\n"


def shown(path: Path) -> str:
    """As short as it can be typed from here."""
    with contextlib.suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)


def bold(text: str) -> str:
    """Bold on a terminal."""
    return f"\033[1m{text}\033[0m" if sys.stdout.isatty() else text


if __name__ == "__main__":
    sys.exit(main())
