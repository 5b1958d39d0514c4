"""What goes wrong around the daemon: the API server, etcd, HAProxy, templates, itself."""

from __future__ import annotations

import contextlib
import os
import signal
from contextlib import ExitStack
from pathlib import Path

from tests.chaos.proxy import Known, files_say_the_same, known
from tests.chaos.schedule import Step
from tests.chaos.unfair import Later, Unfair
from tests.fakes import faults
from tests.fakes.faults import Fault
from tests.faults.stage import Stage
from tests.servers.etcd import EtcdError
from vulcanized.resources import templates_directory
from vulcanized.targets.haproxy.master import Master


class Trouble:
    """Does harm, and ends it `later`."""

    def __init__(self, stage: Stage, templates: Path, later: Later) -> None:
        self._stage = stage
        self._templates = templates
        self._later = later
        self._etcd_away = 0
        self._daemon_away = False

    @property
    def master(self) -> Master:
        """HAProxy's master."""
        return Master(self._stage.daemon.master_socket, self._stage.daemon.directory)

    def known(self) -> Known:
        """What the proxy knows. Raises ProxyUnreachable."""
        return known(self.master)

    @property
    def daemon_should_run(self) -> bool:
        return not self._daemon_away

    # --- Kubernetes -----------------------------------------------------------------------------

    def kubernetes_cut(self, step: Step) -> None:
        self._stage.cluster.cut()

    def kubernetes_frozen(self, step: Step) -> None:
        self._stage.cluster.freeze()
        self._later(step.lasting, step.kind, self._stage.cluster.thaw)

    def kubernetes_expired(self, step: Step) -> None:
        self._stage.cluster.store.compact()
        self._suffer(step, faults.expired_event(), "watch", seconds=0.5)

    def kubernetes_busy(self, step: Step) -> None:
        self._suffer(step, faults.Refuse(429, "TooManyRequests", "slow down", retry_after="1"))

    def kubernetes_failing(self, step: Step) -> None:
        self._suffer(step, faults.Refuse(500))

    def kubernetes_mute(self, step: Step) -> None:
        self._suffer(step, faults.Mute())

    def kubernetes_empty(self, step: Step) -> None:
        self._lists(step, faults.EmptyList())

    def kubernetes_half(self, step: Step) -> None:
        self._lists(step, faults.HalfList())

    def kubernetes_garbage(self, step: Step) -> None:
        def spoiled(item: bytes) -> bytes:
            return item.replace(b'"podIP":"', b'"podIP":7,"was":"')

        self._suffer(step, faults.Garbage(step.name, spoiled))

    def kubernetes_away(self, step: Step) -> None:
        self._stage.cluster.stop()
        self._later(step.lasting, step.kind, self._start_cluster)

    def _start_cluster(self) -> None:
        self._stage.cluster.start()

    def _lists(self, step: Step, fault: Fault) -> None:
        """Lists with this fault; one is asked for at once, since the watch is lost."""
        stack = ExitStack()
        cluster = self._stage.cluster
        stack.enter_context(cluster.suffering(fault, verb="list", plural="pods"))
        expired = faults.expired_event()
        stack.enter_context(cluster.suffering(expired, verb="watch", plural="pods", times=1))
        cluster.cut()
        self._later(step.lasting, step.kind, stack.close)

    def _suffer(self, step: Step, fault: Fault, verb: str = "", seconds: float = 0.0) -> None:
        stack = ExitStack()
        stack.enter_context(self._stage.cluster.suffering(fault, verb=verb))
        self._stage.cluster.cut()
        self._later(seconds or step.lasting, step.kind, stack.close)

    # --- etcd -----------------------------------------------------------------------------------

    def needs_etcd(self) -> None:
        """Raises Unfair while nobody can write to it."""
        if self._etcd_away:
            raise Unfair("etcd is away")

    def etcd_is_back(self) -> None:
        """Wait until it can be written to."""
        self._stage.etcd.wait_ready()

    def etcd_frozen(self, step: Step) -> None:
        self.needs_etcd()
        self._etcd_away += 1
        self._stage.etcd.pause()
        self._later(step.lasting, step.kind, self._etcd_resumes)

    def _etcd_resumes(self) -> None:
        self._stage.etcd.resume()
        self._etcd_comes_back()

    def etcd_killed(self, step: Step) -> None:
        self.needs_etcd()
        self._etcd_away += 1
        self._stage.etcd.kill()
        self._later(step.lasting, step.kind, self._etcd_starts)

    def _etcd_starts(self) -> None:
        for member in self._stage.etcd.members:
            member.process.start()
        self._later(0.2, "start of etcd", self._etcd_comes_back)

    def _etcd_comes_back(self) -> None:
        self._stage.etcd.wait_ready()
        self._etcd_away -= 1

    def etcd_compacted(self, step: Step) -> None:
        self.needs_etcd()
        with contextlib.suppress(EtcdError):  # nothing was written since the last time
            self._stage.etcd.compact()
        self._stage.relay.cut()

    def etcd_cut(self, step: Step) -> None:
        self._stage.relay.cut()

    def etcd_refused(self, step: Step) -> None:
        self._stage.relay.refuse()
        self._later(step.lasting, step.kind, self._stage.relay.restore)

    def etcd_mute(self, step: Step) -> None:
        self._stage.relay.mute()
        self._later(step.lasting, step.kind, self._stage.relay.restore)

    # --- HAProxy --------------------------------------------------------------------------------

    def haproxy_reload(self, step: Step) -> None:
        """By somebody else, who loads what the files say: that has to be what runs."""
        if not files_say_the_same(self.known(), self._stage.daemon.directory):
            raise Unfair("the files are not behind what runs yet")
        os.kill(self.master.processes().master, signal.SIGUSR2)

    def haproxy_edited(self, step: Step) -> None:
        self._append(f"# by hand: {step.value}\n")

    def haproxy_spoiled(self, step: Step) -> None:
        self._append(f"no such directive {step.value}\n")

    def _append(self, text: str) -> None:
        with (self._stage.daemon.directory / "haproxy.cfg").open("a") as file:
            file.write(text)

    def haproxy_weight(self, step: Step) -> None:
        """An operator gives a server another weight."""
        live = self.master.read_back()
        names = sorted(f"{id_}/{name}" for id_, servers in live.servers.items() for name in servers)
        if not names:
            raise Unfair("there is no server")
        name = names[int(step.value) % len(names)]
        self.master.ask(f"@!{live.processes.worker} set server {name} weight 7\n")

    # --- templates ------------------------------------------------------------------------------

    def template_changed(self, step: Step) -> None:
        shipped = (templates_directory() / "haproxy" / "backend.j2").read_text()
        self._template(f"{shipped}    fullconn {1000 + int(step.value)}\n")
        self._later(step.lasting, step.kind, self._no_template)

    def template_broken(self, step: Step) -> None:
        self._template("backend {{ backend.id }\n{% if %}\n")
        self._later(step.lasting, step.kind, self._no_template)

    def _template(self, text: str) -> None:
        new = self._templates / "new"
        new.write_text(text)
        new.rename(self._templates / "backend.j2")

    def _no_template(self) -> None:
        (self._templates / "backend.j2").unlink(missing_ok=True)

    # --- the daemon -----------------------------------------------------------------------------

    def daemon_killed(self, step: Step) -> None:
        self._needs_daemon()
        self._daemon_away = True
        self._stage.daemon.process.kill()
        self._later(step.lasting, step.kind, self._daemon_starts)

    def _daemon_starts(self) -> None:
        self._stage.daemon.process.start()
        self._daemon_away = False

    def daemon_frozen(self, step: Step) -> None:
        self._needs_daemon()
        self._daemon_away = True
        pid = self._stage.daemon.process.pid
        os.kill(pid, signal.SIGSTOP)
        self._later(step.lasting, step.kind, self._daemon_goes_on)

    def _daemon_goes_on(self) -> None:
        os.kill(self._stage.daemon.process.pid, signal.SIGCONT)
        self._daemon_away = False

    def daemon_hup(self, step: Step) -> None:
        self._needs_daemon()
        # One that has not come to its handlers yet would end by it.
        with contextlib.suppress(OSError, ValueError):
            if self._stage.daemon.page("/healthz")[0] == 200:
                os.kill(self._stage.daemon.process.pid, signal.SIGHUP)
                return
        raise Unfair("the daemon is starting")

    def _needs_daemon(self) -> None:
        if self._daemon_away:
            raise Unfair("the daemon is away")
