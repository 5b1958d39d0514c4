"""Descriptors of Amdatu's deployer, in our form. Pure."""

from __future__ import annotations

import re
from typing import Any

from vulcanized.appfaults import shown
from vulcanized.errors import DescriptorInvalid

Json = dict[str, Any]


def translated(old: Json, where: str) -> Json:
    """The same wishes in our form. Keys come in lower case; what it does not know, it ignores."""
    kind = old.get("deploymenttype") or "blue-green"
    if kind != "blue-green":
        raise DescriptorInvalid(where, f"deploymentType: {shown(kind)} is not known: blue-green is")
    name = old.get("appname")
    if not isinstance(name, str):
        raise DescriptorInvalid(where, "appName: must be a text in quotes")
    new: Json = {
        "app": re.sub(r"[._]", "-", name.lower()),
        "namespace": old.get("namespace") or "default",
        "version": old.get("newversion") or "#",
        "replicas": 1 if old.get("replicas") is None else old["replicas"],
        "podspec": _podspec(old.get("podspec"), where),
        "config": _config(old, where),
    }
    if old.get("usehealthcheck") and not old.get("ignorehealthcheck"):
        simple = old.get("healthchecktype") == "simple"
        new["health"] = {
            "type": "http" if simple else "probe",
            "path": "/" + str(old.get("healthcheckpath") or "").lstrip("/"),
            "port": old.get("healthcheckport") or None,
        }
    if isinstance(old.get("environment"), dict):
        new["environment"] = old["environment"]
    return new


def _podspec(podspec: Any, where: str) -> Json:
    containers = podspec.get("containers") if isinstance(podspec, dict) else None
    if not isinstance(containers, list):
        raise DescriptorInvalid(where, "podspec: must be an object with containers")
    pulled = [
        {"imagePullPolicy": "Always", **each} if isinstance(each, dict) else each
        for each in containers
    ]
    usual = {"restartPolicy": "Always", "dnsPolicy": "ClusterFirst"}
    return {**usual, **podspec, "containers": pulled}


def _config(old: Json, where: str) -> Json | None:
    frontend = old.get("frontend")
    if not frontend:
        return None
    config: Json = {"hosts": [frontend]}
    if old.get("redirectwww"):
        config["redirect_www"] = True
    if old.get("usecompression"):
        config["compression"] = True
    if old.get("usestickysessions"):
        config["sticky"] = True
    if old.get("tlssecretname"):
        config["tls"] = {"certificate": old["tlssecretname"]}
    if headers := old.get("additionhttpheaders"):
        config["response_headers"] = {"set": _headers(headers, where)}
    return config


def _headers(listed: Any, where: str) -> dict[str, Any]:
    """What each answer is given; of two of a name the last one counts, whatever its case."""
    found: dict[str, tuple[str, Any]] = {}
    for each in listed if isinstance(listed, list) else [listed]:
        pairs = each.items() if isinstance(each, dict) else ()
        lowered = {str(key).lower(): value for key, value in pairs}
        name, value = lowered.get("header"), lowered.get("value")
        if not isinstance(name, str) or value is None:
            raise DescriptorInvalid(
                where, 'additionHttpHeaders: must be a list of {"Header": "...", "Value": "..."}'
            )
        # As it stored them while its proxy was HAProxy.
        found[name.lower()] = name, str(value).replace("\\ ", " ")
    return dict(found.values())
