"""deploy/compose.yaml: by the Compose specification's schema, and that it fits together and with the images."""

import re
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.app import create_app
from tests.deploy import VERSION
from tests.deploy.image import read
from tests.stack import ROOT

FOLDER = ROOT / "deploy"
FILE = FOLDER / "compose.yaml"
COMPOSE: dict[str, Any] = yaml.safe_load(FILE.read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
BUILT = {name: each["build"]["target"] for name, each in SERVICES.items() if "build" in each}


EMBEDDED = FOLDER / "compose-embedded.yaml"


@pytest.mark.parametrize("file", [FILE, EMBEDDED], ids=lambda file: file.name)
def test_it_is_what_compose_takes(file: Path) -> None:
    checker = Path(sysconfig.get_path("scripts")) / "check-jsonschema"
    command = [str(checker), "--builtin-schema", "vendor.compose-spec", str(file)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def on(network: str) -> set[str]:
    return {name for name, each in SERVICES.items() if network in each.get("networks", [])}


def test_only_nginx_reaches_the_nodes_and_only_the_gateway_reaches_nginx() -> None:
    assert on("nodes") == {"node1", "node2", "nginx"}
    assert on("proxy") == {"nginx", "gateway"}
    assert [name for name in ("nodes", "proxy") if not COMPOSE["networks"][name]["internal"]] == []
    assert all(each["networks"] for each in SERVICES.values())


def test_only_the_gateway_is_opened() -> None:
    published = [port for each in SERVICES.values() for port in each.get("ports", [])]
    assert [port for port in published if not port.startswith("127.0.0.1:")] == ["5001:5001"]
    assert len(published) == 2


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_is_hardened_and_bounded(name: str) -> None:
    service = SERVICES[name]
    assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert {"cpus", "memory", "pids"} == service["deploy"]["resources"]["limits"].keys()
    built = {SERVICES[each]["image"] for each in BUILT}  # which have a check of their own
    assert service["image"] in built or service["healthcheck"]["test"]
    assert service["image"].split(":")[1].removeprefix("v")[0].isdigit()


@pytest.mark.parametrize("name", BUILT)
def test_what_is_built_is_there_and_may_write_where_it_does(name: str) -> None:
    image = read(BUILT[name])
    assert image.healthcheck
    assert SERVICES[name]["image"] == f"classifier-{BUILT[name]}:{VERSION}"
    assert (FOLDER / SERVICES[name]["build"]["context"] / SERVICES[name]["build"]["dockerfile"]).is_file()
    user, _ = image.user.split(":")
    assert SERVICES[name]["tmpfs"][0].startswith(f"{image.environment['TMPDIR']}:uid={user},gid={user},")


def test_what_is_mounted_is_there() -> None:
    sources = [volume.split(":")[0] for each in SERVICES.values() for volume in each.get("volumes", [])]
    assert [source for source in sources if source.startswith(".") and not (FOLDER / source).exists()] == []
    assert {source for source in sources if not source.startswith(".")} == COMPOSE["volumes"].keys()
    assert {secret for each in SERVICES.values() for secret in each.get("secrets", [])} == COMPOSE["secrets"].keys()


def test_the_gateway_is_told_what_it_knows() -> None:
    settings = {name.removeprefix("GATEWAY_"): value for name, value in SERVICES["gateway"]["environment"].items()}
    assert settings.keys() <= create_app({"TORCHSERVE": "http://nginx:8000"}).config.keys()
    assert settings == {"TORCHSERVE": "http://nginx:8000", "TOKEN_FILE": "/run/secrets/token"}
    assert "/run/secrets/token" in SERVICES["nginx"]["entrypoint"][-1]


def test_nginx_asks_the_nodes_where_they_listen() -> None:
    (port,) = read("torchserve").ports
    servers = re.findall(r"server (\S+)", SERVICES["nginx"]["environment"]["SERVERS"])
    assert servers == [f"node1:{port}", f"node2:{port}"]
    for name in ("node1", "node2"):
        told = {value for setting, value in SERVICES[name]["environment"].items() if setting.startswith("TS_")}
        assert told == {f"http://0.0.0.0:{port}"}


def test_prometheus_and_grafana_find_what_they_are_given(tmp_path: Path) -> None:
    for volume in SERVICES["prometheus"]["volumes"]:
        source, target, *_ = volume.split(":")
        if source.startswith("."):
            shutil.copy(FOLDER / source, tmp_path / Path(target).name)
    (targets,) = yaml.safe_load((tmp_path / "targets.yml").read_text())
    assert targets["targets"] == [f"gateway:{read('gateway').ports[0]}"]
    checked = subprocess.run(
        ["promtool", "check", "config", "prometheus.yml"], cwd=tmp_path, capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    alone, composed = (
        yaml.safe_load((FOLDER / name).read_text())["datasources"]
        for name in ("monitoring/grafana/datasources/prometheus.yml", "compose-datasources.yml")
    )
    assert composed == [alone[0] | {"url": "http://prometheus:9090"}]
    assert {"prometheus", "grafana"} <= on("outside")
    assert "./compose-datasources.yml" in SERVICES["grafana"]["volumes"][1]
    (provider,) = yaml.safe_load((FOLDER / "monitoring/grafana/dashboards/dashboards.yml").read_text())["providers"]
    place = SERVICES["grafana"]["volumes"][0].split(":")[1]
    assert provider["options"]["path"] == f"{place}/dashboards"


def test_the_small_choice_is_the_gateway_alone() -> None:
    ((name, small),) = yaml.safe_load(EMBEDDED.read_text())["services"].items()
    image, other = read("embedded"), SERVICES[name]
    assert small["image"] == f"classifier-embedded:{VERSION}"
    assert small["build"] == other["build"] | {"target": "embedded"}
    same = (
        "read_only",
        "cap_drop",
        "security_opt",
        "init",
        "restart",
        "logging",
        "ports",
        "tmpfs",
        "stop_grace_period",
    )
    assert {key: small[key] for key in same} == {key: other[key] for key in same}
    assert small["deploy"]["resources"]["limits"].keys() == {"cpus", "memory", "pids"}
    assert small.keys() - same == {"image", "build", "deploy"}
    assert small["ports"] == [f"{port}:{port}" for port in image.ports]
