"""The status document as tables on a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vulcanized.printable import printable_document
from vulcanized.status import activation_in_words, notice_of, standing_in_words

Json = dict[str, Any]

_COLOURS = {"synced": "green", "starting": "yellow", "stale": "red"}


def print_status(document: Json, console: Console | None = None) -> None:
    """Print the whole document. Every value goes in as text, never as rich's markup."""
    document = printable_document(document)
    out = console or Console()
    state = "in step" if document["ready"] else "starting"
    out.print(
        Text.assemble(
            (document["instance"], "bold"),
            f"  Vulcanized {document['version']}, generation {document['generation']}, {state}",
        )
    )
    out.print(_followed(document))
    for source in document["sources"]:
        if source["held"]:
            out.print(Text(f"{source['name']}: held: {source['holding']}", style="yellow"))
    for target in document["targets"]:
        if notice := notice_of(target):
            out.print(Text(f"{target['name']}: {notice}", style="yellow"))
    out.print(_apps(document))
    for app in document["apps"]:
        for problem in app["problems"]:
            where = f" ({problem['where']})" if problem["where"] else ""
            line = f"{app['app']}: {problem['code']}: {problem['message']}{where}"
            out.print(Text(line, style="yellow"))


def _followed(document: Json) -> Table:
    table = Table("", "name", "state", "age / generation", "notes", box=None, padding=(0, 2, 0, 0))
    for source in document["sources"]:
        notes = f"{source['records']} objects"
        if source["skipped"]:
            notes += f", {source['skipped']} skipped"
        if source["held"]:
            notes += f", {source['held']} held"
        table.add_row(
            "source",
            Text(source["name"]),
            Text(source["state"], style=_COLOURS.get(source["state"], "")),
            f"{source['age']:.1f} s",
            Text(f"{notes}; {source['error']}" if source["error"] else notes),
        )
    for target in document["targets"]:
        state = "failing" if target["error"] else "in step"
        if not target["error"] and target["generation"] < target["wanted"]:
            state = "following"
        notes = f"{sum(target['reloads'].values())} reloads"
        if target["quarantined"]:
            notes += f", {len(target['quarantined'])} apps quarantined"
        if standing := standing_in_words(target):
            notes += f", {standing}"
        table.add_row(
            "target",
            Text(f"{target['name']} ({target['kind']})"),
            Text(state, style="red" if target["error"] else "green"),
            f"{target['generation']} of {target['wanted']}",
            Text(f"{notes}; {target['error']}" if target["error"] else notes),
        )
    return table


def _apps(document: Json) -> Table:
    table = Table("app", "routes", "activation", "versions (ready)", "problems", box=None)
    for app in document["apps"]:
        routes = [f"{route['host']}{route['path']}" for route in app["routes"]]
        activation = activation_in_words(app)
        if app["activation"]["held"]:
            activation += f" (held: {app['activation']['wanted']})"
        if app["maintenance"]:
            activation += " (maintenance)"
        versions = [
            f"{'>' if version['active'] else ' '} {version['version']} ({version['ready']}"
            + (f" of {version['desired']})" if version["desired"] else ")")
            for version in app["versions"]
        ]
        problems = len(app["problems"])
        table.add_row(
            Text(app["app"]),
            Text("\n".join(routes[:4] + ([f"+ {len(routes) - 4}"] if len(routes) > 4 else []))),
            Text(activation, style="yellow" if app["activation"]["held"] else ""),
            Text("\n".join(versions)),
            Text(str(problems or ""), style="red"),
        )
    return table
