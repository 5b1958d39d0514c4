"""Every metric in one place, by the naming rules of Prometheus (base units, `_total` counters).

No label is without a bound: targets, sources, causes, outcomes, error names and problem codes are
all few and fixed by the settings or the code. Nothing is labelled by app, pod or version.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client import Counter as CounterMetric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from vulcanized import __version__
from vulcanized.model import Applied, Outcome, ServerState, SourcePhase, SourceState
from vulcanized.reconciler import Snapshot
from vulcanized.targets.runner import RunnerState

# From a run-time command (1 ms) over a reload (50-500 ms) to a target that was away.
_EFFECT_BUCKETS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
)  # fmt: skip


class View(Protocol):
    """What a scrape reads."""

    def snapshot(self) -> Snapshot: ...
    def sources(self) -> Sequence[SourceState]: ...
    def targets(self) -> Sequence[RunnerState]: ...


class Metrics:
    """Counts what happens (it is the runners' Observer) and reads the rest at each scrape."""

    def __init__(self, view: Callable[[], View]) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)
        self._effect = Histogram(
            "vulcanized_event_to_effect_seconds",
            "From an event's bytes coming in to its effect on the target.",
            ["target"],
            buckets=_EFFECT_BUCKETS,
            registry=self._registry,
        )
        self._seconds = Histogram(
            "vulcanized_apply_duration_seconds",
            "How long an apply took, by target; those that changed something.",
            ["target"],
            buckets=_EFFECT_BUCKETS,
            registry=self._registry,
        )
        self._applies = CounterMetric(
            "vulcanized_applies",
            "Applies by target and outcome.",
            ["target", "outcome"],
            registry=self._registry,
        )
        self._reloads = CounterMetric(
            "vulcanized_reloads",
            "Reloads of the proxy by target and cause.",
            ["target", "cause"],
            registry=self._registry,
        )
        self._failures = CounterMetric(
            "vulcanized_apply_failures",
            "Failed applies by target and error.",
            ["target", "error"],
            registry=self._registry,
        )
        self._registry.register(_State(view))

    def applied(self, target: str, applied: Applied, seconds: float) -> None:
        """An apply returned."""
        self._applies.labels(target, applied.outcome.value).inc()
        if applied.outcome is not Outcome.UNCHANGED:
            self._seconds.labels(target).observe(seconds)
        if applied.outcome is Outcome.RELOADED:
            self._reloads.labels(target, applied.cause).inc()

    def took_effect(self, target: str, seconds: float) -> None:
        """A change is wholly in effect, `seconds` after its earliest event."""
        self._effect.labels(target).observe(seconds)

    def failed(self, target: str, error: str) -> None:
        """An apply raised."""
        self._failures.labels(target, error).inc()

    def exposition(self) -> bytes:
        """The text format 0.0.4 of all metrics."""
        return generate_latest(self._registry)


class _State(Collector):
    """What is read at the moment of a scrape, so that it cannot be out of date."""

    def __init__(self, view: Callable[[], View]) -> None:
        self._view = view

    def describe(self) -> Iterable[Metric]:
        """Nothing in advance: the registry would otherwise scrape once to learn the names."""
        return []

    def collect(self) -> Iterable[Metric]:
        """All metrics of state."""
        yield _gauge("vulcanized_build_info", "The version.", ["version"], {(__version__,): 1})
        yield from self._collect_sources()
        yield from self._collect_apps()
        yield from self._collect_targets()

    def _collect_sources(self) -> Iterable[Metric]:
        states = self._view().sources()
        age = GaugeMetricFamily(
            "vulcanized_source_age_seconds",
            "Since the source last said anything.",
            labels=["source"],
        )
        phase = GaugeMetricFamily(
            "vulcanized_source_state",
            "1 for the state the source is in, 0 for the others.",
            labels=["source", "state"],
        )
        records = GaugeMetricFamily(
            "vulcanized_source_records", "Objects known from the source.", labels=["source"]
        )
        relists = CounterMetricFamily(
            "vulcanized_source_relists", "Full lists by cause.", labels=["source", "cause"]
        )
        skipped = CounterMetricFamily(
            "vulcanized_source_skipped_objects",
            "Objects that could not be read and were left out.",
            labels=["source"],
        )
        held = GaugeMetricFamily(
            "vulcanized_source_held_objects",
            "Objects that a list would have removed, and that stay until it is confirmed.",
            labels=["source"],
        )
        for state in states:
            held.add_metric([state.name], state.held)
            age.add_metric([state.name], state.age)
            records.add_metric([state.name], state.records)
            skipped.add_metric([state.name], state.skipped)
            for each in SourcePhase:
                phase.add_metric([state.name, each.value], float(each is state.phase))
            for cause, count in state.relists.items():
                relists.add_metric([state.name, cause], count)
        return (age, phase, records, relists, skipped, held)

    def _collect_apps(self) -> Iterable[Metric]:
        snapshot = self._view().snapshot()
        servers: Counter[ServerState] = Counter()
        problems: Counter[str] = Counter()
        for built in snapshot.apps.values():
            problems.update(problem.code for problem in built.problems)
            if built.desired is not None:
                for backend in built.desired.backends:
                    servers.update(server.state for server in backend.servers)
        for state in self._view().targets():
            problems.update(problem.code for problem in state.problems)
        built_apps = snapshot.apps.values()
        yield _plain("vulcanized_generation", "Changes of desired so far.", snapshot.generation)
        yield _plain("vulcanized_apps", "Apps known.", len(snapshot.apps))
        yield _plain(
            "vulcanized_apps_routed",
            "Apps that have a route.",
            sum(bool(built.desired and built.desired.routes) for built in built_apps),
        )
        yield _plain(
            "vulcanized_apps_held",
            "Apps whose wanted activation is not in effect.",
            sum(built.held for built in built_apps),
        )
        yield _plain(
            "vulcanized_apps_quarantined",
            "Apps whose written config was refused.",
            sum(built.quarantined for built in built_apps),
        )
        yield _gauge(
            "vulcanized_servers",
            "Servers desired by state.",
            ["state"],
            {(state.value,): servers[state] for state in ServerState},
        )
        yield _gauge(
            "vulcanized_problems",
            "Problems of apps by code.",
            ["code"],
            {(code,): count for code, count in sorted(problems.items())},
        )

    def _collect_targets(self) -> Iterable[Metric]:
        states = self._view().targets()
        yield _gauge(
            "vulcanized_target_generation",
            "The newest generation wholly in effect on the target.",
            ["target"],
            {(state.name,): state.in_effect for state in states},
        )
        yield _gauge(
            "vulcanized_target_up",
            "0 while the last apply on the target failed.",
            ["target"],
            {(state.name,): float(not state.error) for state in states},
        )
        yield _gauge(
            "vulcanized_target_quarantined_apps",
            "Apps that stay on their last good config on the target, since it refuses theirs.",
            ["target"],
            {(state.name,): len(state.quarantined) for state in states},
        )
        yield _gauge(
            "vulcanized_target_leading",
            "1 for a daemon that writes what several share on the target, 0 for one that waits.",
            ["target"],
            {
                (state.name,): float(state.standing.leading)
                for state in states
                if state.standing.leading is not None
            },
        )
        yield _gauge(
            "vulcanized_target_proven_generation",
            "The newest generation that the proxy itself has shown to be applied.",
            ["target"],
            {
                (state.name,): state.standing.proven
                for state in states
                if state.standing.proven is not None
            },
        )
        old = {
            (state.name,): state.standing.old_workers
            for state in states
            if state.standing.old_workers is not None
        }
        yield _gauge(
            "vulcanized_target_old_workers",
            "Workers of the proxy that a reload replaced, and that stay for the clients they have.",
            ["target"],
            {key: each.count for key, each in old.items()},
        )
        yield _gauge(
            "vulcanized_target_oldest_worker_seconds",
            "Since the oldest of these was told to end, 0 when there is none.",
            ["target"],
            {key: each.age for key, each in old.items()},
        )


def _plain(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _gauge(name: str, text: str, labels: list[str], values: dict[tuple[str, ...], float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels)
    for key, value in values.items():
        family.add_metric(list(key), value)
    return family
