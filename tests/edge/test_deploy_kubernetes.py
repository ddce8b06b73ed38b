"""The Kubernetes manifests: valid by Kubernetes' own schemas, restricted, and true to the gateway.

No cluster is asked: the schemas come with a package.
"""

import textwrap
from collections.abc import Iterator
from typing import Any

import kubernetes_validate
import pytest
import yaml

from edge.docs_offline import offline_documents
from engine.settings import Settings, load_settings
from tests.support.compose_file import ROOT, longest_stop_s, make_environment

FOLDER = ROOT / "edge" / "deploy" / "kubernetes"
FILES = ("gateway.yaml", "nats.yaml", "single.yaml")
OLDEST = "1.31"
SCALED = ("Deployment", "StatefulSet")


def documents(*files: str) -> list[dict[str, Any]]:
    """Every object of these files."""
    return [one for file in files for one in yaml.safe_load_all((FOLDER / file).read_text())]


def pods(*files: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Every Deployment and StatefulSet with its pod's specification."""
    for one in documents(*files):
        if one["kind"] in SCALED:
            yield one, one["spec"]["template"]["spec"]


def variables(files: tuple[str, ...]) -> dict[str, str]:
    """What the gateway's container has in its environment, secrets as `make-env.sh` makes them."""
    secret = make_environment()
    maps = {one["metadata"]["name"]: one["data"] for one in documents(*files) if one["kind"] == "ConfigMap"}
    found: dict[str, str] = {}
    for _, spec in pods(*files):
        (container,) = spec["containers"]
        if container["name"] != "gateway":
            continue
        for source in container["envFrom"]:
            found |= maps[source["configMapRef"]["name"]] if "configMapRef" in source else secret
        for one in container["env"]:
            found[one["name"]] = one["value"].replace("$(NATS_PASSWORD)", secret["NATS_PASSWORD"])
    return found


@pytest.mark.parametrize("file", FILES)
def test_every_object_is_valid_by_the_schemas(file: str) -> None:
    """Strictly, by an old release's and by the newest one that is known; and a word that is unknown is found."""
    for version in (OLDEST, kubernetes_validate.latest_version()):
        for one in documents(file):
            kubernetes_validate.validate(one, version, strict=True)
    ((wrong, spec), *_) = pods(file)
    spec["terminationGracePeriodSecond"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, OLDEST, strict=True)


@pytest.mark.parametrize("file", FILES)
def test_every_pod_is_restricted(file: str) -> None:
    """By the Pod Security Standard that its namespace enforces, and with a root file system that cannot be written."""
    for owner, spec in pods(file):
        security = spec["securityContext"]
        if "volumeClaimTemplates" in owner["spec"]:
            assert security["fsGroupChangePolicy"] == "OnRootMismatch", "secrets that a group may read are refused"
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] >= 10_000
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False, "a Service's variables would be taken for settings"
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]
    namespaces = {one["metadata"]["name"] for one in documents("gateway.yaml") if one["kind"] == "Namespace"}
    assert {one["metadata"].get("namespace", "headgate") for one in documents(file)} == namespaces == {"headgate"}


@pytest.mark.parametrize("file", ["gateway.yaml", "single.yaml"])
def test_the_probes_are_routes_for_everybody(file: str) -> None:
    """`/healthz` says whether to start it again, `/readyz` whether to send requests."""
    openapi, _ = offline_documents()
    for _, spec in pods(file):
        (container,) = spec["containers"]
        wanted = {"startupProbe": "/healthz", "livenessProbe": "/healthz", "readinessProbe": "/readyz"}
        assert {name: container[name]["httpGet"]["path"] for name in wanted} == wanted
        for name, path in wanted.items():
            assert not openapi["paths"][path]["get"].get("security")
            assert container[name]["httpGet"]["port"] in {port["name"] for port in container["ports"]}


@pytest.mark.parametrize("file", ["gateway.yaml", "single.yaml"])
def test_the_grace_period_is_longer_than_the_longest_stop(file: str) -> None:
    """The pause before, then requests drain, what waits is flushed, connections close, the engines stop."""
    for _, spec in pods(file):
        (container,) = spec["containers"]
        word, pause = container["lifecycle"]["preStop"]["exec"]["command"]
        assert word == "sleep"
        longest_s = longest_stop_s(float(variables((file,))["HEADGATE_DRAIN_S"]))
        assert spec["terminationGracePeriodSeconds"] > float(pause) + longest_s


@pytest.mark.parametrize(("file", "is_embedded"), [("gateway.yaml", False), ("single.yaml", True)])
def test_every_variable_is_one_that_the_gateway_takes(file: str, is_embedded: bool) -> None:
    """Each is known, and its value is one that the gateway starts with."""
    found = variables((file,))
    fields = {field.alias: name for name, field in Settings.model_fields.items()}
    engines = {"NATS_PASSWORD", "POSTGRES_PASSWORD", "REDIS_PASSWORD"}
    assert found.keys() - engines <= fields.keys()
    settings = load_settings({fields[env]: value for env, value in found.items() if env in fields})
    assert bool(settings.nats_url) is not is_embedded
    assert settings.api_keys.get_secret_value()


@pytest.mark.parametrize("files", [("gateway.yaml", "nats.yaml"), ("single.yaml",)], ids=["cluster", "single"])
def test_what_is_named_is_there(files: tuple[str, ...]) -> None:
    """Selectors find pods, services are those that are asked for, ports have names, mounts have volumes."""
    every = documents(*files)
    labels = [owner["spec"]["template"]["metadata"]["labels"] for owner, _ in pods(*files)]
    services = {one["metadata"]["name"] for one in every if one["kind"] == "Service"}
    ports = {port["name"] for _, spec in pods(*files) for c in spec["containers"] for port in c["ports"]}
    for owner, spec in pods(*files):
        mine = owner["spec"]["template"]["metadata"]["labels"]
        assert owner["spec"]["selector"]["matchLabels"] == mine
        claims = {claim["metadata"]["name"] for claim in owner["spec"].get("volumeClaimTemplates", [])}
        for container in spec["containers"]:
            volumes = {volume["name"] for volume in spec.get("volumes", [])} | claims
            assert {mount["name"] for mount in container["volumeMounts"]} == volumes
        assert owner["spec"].get("serviceName", "headgate") in services
        for constraint in spec.get("topologySpreadConstraints", []):
            assert constraint["labelSelector"]["matchLabels"] == mine
    for one in every:
        spec = one.get("spec", {})
        if one["kind"] == "Service":
            assert any(spec["selector"].items() <= each.items() for each in labels)
            assert {port["targetPort"] for port in spec["ports"]} <= ports
        elif one["kind"] in ("PodDisruptionBudget", "NetworkPolicy"):
            selector = spec.get("selector", spec.get("podSelector"))
            assert any(selector["matchLabels"].items() <= each.items() for each in labels)
        elif one["kind"] == "HorizontalPodAutoscaler":
            target = (spec["scaleTargetRef"]["kind"], spec["scaleTargetRef"]["name"])
            assert target in {(owner["kind"], owner["metadata"]["name"]) for owner, _ in pods(*files)}
            (scaled,) = (owner for owner, _ in pods(*files) if owner["kind"] == target[0])
            assert "replicas" not in scaled["spec"], "each apply would undo what the autoscaler did"
    if "nats.yaml" in files:
        found = variables(files)
        assert "@nats:4222" in found["NATS_URL"]
        assert found["NATS_MONITOR_URL"] == "http://nats-0.nats:8222"


def test_the_log_is_configured_as_compose_has_it() -> None:
    """One text: what is tried with a real server is what Kubernetes starts."""
    (config,) = (one for one in documents("nats.yaml") if one["kind"] == "ConfigMap")
    assert config["data"]["nats.conf"] == textwrap.dedent((FOLDER.parent / "nats.conf").read_text())
