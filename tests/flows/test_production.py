"""What a team deploys: image, compose file, Kubernetes work pool, a server that keeps strangers out."""

from __future__ import annotations

import asyncio
import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from check_jsonschema.builtin_schemas import get_builtin_schema
from kubernetes_asyncio.client import ApiClient

from effnet_core.system.files import read_json
from flows.service import guarded
from flows.service.environments import read_environment
from tests.flows.service import ROOT, TestedService, processes_naming

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

DEPLOYMENTS = ROOT / "deployments"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOYMENTS / "compose.yaml").read_text())
SECRET = re.compile(r"PASSWORD|SECRET|ACCESS_KEY|AUTH|TOKEN", re.IGNORECASE)
USER = 10001


def instructions(path: Path) -> list[tuple[str, str]]:
    """A Dockerfile's instructions, with continued lines joined and comments left out."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\s*\n", " ", "\n".join(lines))
    pairs = (line.split(None, 1) for line in joined.splitlines() if line.strip())
    return [(name, " ".join(rest.split())) for name, rest in pairs]


DOCKERFILE = instructions(DEPLOYMENTS / "Dockerfile")


def test_the_image_is_pinned_hashed_and_runs_as_nobody() -> None:
    bases = [rest.split()[0] for name, rest in DOCKERFILE if name == "FROM"]
    assert set(bases) == {"${PYTHON_IMAGE}"}
    (base,) = [rest for name, rest in DOCKERFILE if name == "ARG"]
    assert re.fullmatch(r"PYTHON_IMAGE=python:3\.1[012]\.\d+-slim-[a-z]+", base)
    build = COMPOSE["services"]["server"]["build"]["args"]
    assert f"PYTHON_IMAGE={plain(build['PYTHON_IMAGE'])}" == base
    users = [index for index, (name, _) in enumerate(DOCKERFILE) if name == "USER"]
    assert DOCKERFILE[users[-1]] == ("USER", f"{USER}:{USER}")
    assert not [name for name, _ in DOCKERFILE[users[-1] :] if name in ("RUN", "COPY", "ADD")]
    assert any(f"useradd --uid {USER}" in rest for _, rest in DOCKERFILE)
    installs = [
        part
        for name, rest in DOCKERFILE
        for part in rest.split("&&")
        if name == "RUN" and "-m pip" in part
    ]
    assert len(installs) == 3
    for part in installs:
        assert "--require-hashes -r requirements.lock" in part or "--no-index" in part
    assert not [name for name, _ in DOCKERFILE if name == "ADD"]
    for name, rest in DOCKERFILE:
        assert name not in ("ARG", "ENV") or not SECRET.search(rest)


def test_what_the_image_copies_is_there_and_not_ignored() -> None:
    rules = [
        line
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert rules[0] == "*"
    kept = {rule[1:] for rule in rules if rule.startswith("!")}
    for name, rest in DOCKERFILE:
        if name == "COPY" and not rest.startswith("--from"):
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists()
                assert source in kept
    assert any(fnmatch("deployments/compose.env", rule) for rule in rules)


def test_the_image_takes_extras_that_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (text,) = [match for _, rest in DOCKERFILE for match in re.findall(r"/app\[(.+?)\]", rest)]
    assert set(text.split(",")) <= set(project["optional-dependencies"])
    tags = {service.get("image") for service in COMPOSE["services"].values()}
    assert f"effnet-flows:{project['version']}" in tags


def plain(value: str) -> str:
    """The default of a value that a variable may replace."""
    found = re.fullmatch(r"\$\{[A-Z0-9_]+:-(.+)\}", value)
    return found[1] if found else value


def test_the_compose_file_follows_the_specification() -> None:
    schema = get_builtin_schema("vendor.compose-spec")
    validator = jsonschema.validators.validator_for(schema)(schema)
    assert [error.message for error in validator.iter_errors(COMPOSE)] == []
    wrong = {**COMPOSE, "services": {"x": {"image": "a", "prots": ["1:1"]}}}
    assert list(validator.iter_errors(wrong))


def test_the_compose_file_is_whole() -> None:
    services = COMPOSE["services"]
    assert {"postgres", "server", "worker", "s3"} <= set(services)
    for service in services.values():
        assert re.search(r":\d+\.\d+", service["image"]), "an image without a version"
        if service["image"].startswith("$"):  # from elsewhere, so a digest may be put in
            assert plain(service["image"]) in (DEPLOYMENTS / "compose.env.example").read_text()
        else:
            assert service["image"].startswith("effnet-flows:")
        assert set(service.get("depends_on", {})) <= set(services)
        assert set(service["networks"]) <= set(COMPOSE["networks"])
        for volume in service.get("volumes", []):
            assert volume.split(":")[0] in COMPOSE["volumes"]
        if "build" in service:
            folder = DEPLOYMENTS / service["build"]["context"]
            assert (folder / service["build"]["dockerfile"]).exists()
        for argument in service.get("command", []):
            if argument.startswith("deployments/"):
                assert (ROOT / argument).exists()
    place = read_environment("compose")
    worker = services["worker"]["command"]
    assert worker[worker.index("--pool") + 1] == place.pool
    assert worker[worker.index("--type") + 1] == place.pool_type
    assert place.settings["storage"]["endpoint_url"] == "http://s3:8333"
    assert {"-s3.port=8333", "-bucket=effnet"} <= set(services["s3"]["command"])
    assert place.settings["storage"]["root"].startswith("s3://effnet/")


def test_the_compose_file_holds_no_secrets_and_opens_one_port() -> None:
    services = COMPOSE["services"]
    text = (DEPLOYMENTS / "compose.yaml").read_text()
    known = re.findall(
        r"^#? ?([A-Z0-9_]+)=", (DEPLOYMENTS / "compose.env.example").read_text(), re.MULTILINE
    )
    assert set(re.findall(r"\$\{([A-Z0-9_]+)", text)) == set(known)
    for service in services.values():
        for name, value in service.get("environment", {}).items():
            if SECRET.search(name) and "LEASE" not in name:
                assert re.fullmatch(r"\$\{[A-Z0-9_]+(:\?[^}]+)?\}", value), name
    assert [service["ports"] for service in services.values() if "ports" in service] == [
        ["${EFFNET_BIND:-127.0.0.1}:4200:4200"]
    ]
    server = services["server"]["environment"]
    assert server["PREFECT_SERVER_API_AUTH_STRING"] == "${PREFECT_AUTH}"
    assert server["PREFECT_SERVER_CSRF_PROTECTION_ENABLED"] == "true"
    assert server["EFFNET_ALLOWED_HOSTS"].split(",")[0] == "server"
    assert services["server"]["command"][:3] == ["python", "-m", guarded.__name__]


def test_no_container_of_the_compose_file_has_more_than_it_needs() -> None:
    """Also where a service overrides what all have in common."""
    for name, service in COMPOSE["services"].items():
        assert service["cap_drop"] == ["ALL"]
        assert service.get("cap_add", []) == (["DAC_OVERRIDE"] if name == "s3" else [])
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["read_only"] is True
        assert "/tmp" in service["tmpfs"]
        assert service["mem_limit"]
        assert 0 < service["pids_limit"] <= 4096
        assert not {"privileged", "network_mode", "pid", "ipc", "devices"} & set(service)


def as_kubernetes_has_it(document: dict[str, Any], kind: str) -> Any:
    """A manifest through Kubernetes' own types, which leave out every key that they do not know."""

    async def convert() -> Any:
        async with ApiClient() as client:
            read = client._ApiClient__deserialize(document, kind)  # type: ignore[attr-defined]
            return client.sanitize_for_serialization(read)

    return asyncio.run(convert())


def test_the_work_pool_template_makes_a_locked_down_job() -> None:
    from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration

    template = read_json(DEPLOYMENTS / "kubernetes" / "work-pool.json")
    variables = {"gpus": "2", "env": {"EFFNET_ENVIRONMENT": "production"}}
    made = asyncio.run(
        KubernetesWorkerJobConfiguration.from_template_and_values(
            base_job_template=template, values=variables
        )
    )
    job = made.job_manifest
    assert made.namespace == "effnet"
    spec = job["spec"]["template"]["spec"]
    assert job["spec"]["backoffLimit"] == 0
    assert spec["restartPolicy"] == "Never"
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == USER
    (container,) = spec["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert {mount["name"] for mount in container["volumeMounts"]} == {
        volume["name"] for volume in spec["volumes"]
    }
    container["env"] = [{"name": key, "value": value} for key, value in made.env.items()]
    container["args"] = ["prefect", "flow-run", "execute"]
    job["metadata"]["generateName"] = "run-"
    assert as_kubernetes_has_it(job, "V1Job") == job


def test_the_workers_manifests_are_kubernetes_own() -> None:
    place = read_environment("production")
    documents = list(yaml.safe_load_all((DEPLOYMENTS / "kubernetes" / "worker.yaml").read_text()))
    for document in documents:
        kind = "Rbac" if document["kind"] == "Subject" else ""
        assert as_kubernetes_has_it(document, f"V1{kind}{document['kind']}") == document
        assert document["metadata"]["namespace"] == "effnet"
    (deployment,) = [item for item in documents if item["kind"] == "Deployment"]
    pod = deployment["spec"]["template"]["spec"]
    worker, watch = pod["containers"]
    assert worker["args"][worker["args"].index("--pool") + 1] == place.pool
    assert watch["args"] == ["effnet", "watch", "--environment", "production"]
    accounts = {item["metadata"]["name"] for item in documents if item["kind"] == "ServiceAccount"}
    template = read_json(DEPLOYMENTS / "kubernetes" / "work-pool.json")
    names = template["variables"]["properties"]
    assert accounts == {pod["serviceAccountName"], names["service_account_name"]["default"]}
    (policy,) = [item for item in documents if item["kind"] == "NetworkPolicy"]
    assert policy["spec"]["podSelector"] == {}
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in policy["spec"]  # none at all
    (block,) = [
        to["ipBlock"] for rule in policy["spec"]["egress"] for to in rule["to"] if "ipBlock" in to
    ]
    assert "169.254.0.0/16" in block["except"]
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]
    claims = [item for item in documents if item["kind"] == "PersistentVolumeClaim"]
    assert [item["metadata"]["name"] for item in claims] == [names["runs_claim"]["default"]]
    assert names["image"]["default"] == worker["image"] == watch["image"]


@pytest.mark.slow
@pytest.mark.prefect
def test_a_login_of_ones_own_and_none(tmp_path_factory: pytest.TempPathFactory) -> None:
    service = TestedService(tmp_path_factory.mktemp("login"))
    service.environment["PREFECT_SERVER_API_AUTH_STRING"] = "admin:test-password"
    foreign = {"origin": "http://evil.example"}
    try:
        service.up()
        assert service.api.auth == "admin:test-password"
        assert service.ask("GET", "/admin/settings") == 401
        assert service.ask("GET", "/admin/settings", login=True) == 200
        done = service.effnet("up", "--no-login")
        assert done.returncode == 2
        assert "and a login; effnet down stops it" in done.stderr
        assert service.effnet("down").returncode == 0
        assert "effnet/login#" not in service.up("--no-login")
        assert service.ask("GET", "/admin/settings") == 200
        assert service.ask("POST", "/flow_runs/filter") == 403  # no other page's request is proven
        assert service.ask("GET", "/admin/settings", **foreign) == 403
        assert "auth_string" not in (service.folder / "prefect.toml").read_text()
    finally:
        done = service.effnet("down")
    assert done.returncode == 0, done.stderr
    assert processes_naming(service.folder) == []
