"""deploy/kubernetes: objects by the schemas of Kubernetes and KServe, and that they fit together. No cluster runs."""

import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from gateway.app import create_app
from tests.deploy import VERSION
from tests.deploy.image import read
from tests.deploy.kserve import KINDS, Schemas, models
from tests.stack import ROOT

FOLDER = ROOT / "deploy" / "kubernetes"
OVERLAYS = ("kserve", "deployment")
KNOWN = {"apiVersion", "kind", "resources", "namespace", "images", "configMapGenerator", "generatorOptions"}
NAME = "app.kubernetes.io/name"
# The target of each.
IMAGES = {"classifier-gateway": "gateway", "classifier-torchserve": "torchserve", "classifier-embedded": "embedded"}
HOW_TO = (ROOT / "docs/howto/containers.md").read_text()
Object = dict[str, Any]


def objects(folder: Path) -> Iterator[Object]:
    """Yield what `kubectl kustomize` prints of a folder, but for its namespace and where its images come from."""
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert kustomization.keys() <= KNOWN  # or else this function has to learn it
    for resource in kustomization.get("resources", []):
        path = folder / resource
        yield from objects(path.resolve()) if path.is_dir() else yaml.safe_load_all(path.read_text())
    for generated in kustomization.get("configMapGenerator", []):
        data = {file: (folder / file).read_text() for file in generated["files"]}
        yield {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": generated["name"]}, "data": data}


EMBEDDED, KSERVE_EMBEDDED = "embedded", "kserve-embedded"  # the overlays without TorchServe
APPLIED = {overlay: list(objects(FOLDER / overlay)) for overlay in (*OVERLAYS, EMBEDDED, KSERVE_EMBEDDED)}


def of_kind(overlay: str, kind: str) -> dict[str, Object]:
    return {each["metadata"]["name"]: each for each in APPLIED[overlay] if each["kind"] == kind}


def pods(overlay: str) -> dict[str, tuple[dict[str, str], Object]]:
    """Return the labels and the spec of each kind of pod by name, KServe's put together as KServe does."""
    found = {
        name: (each["spec"]["template"]["metadata"]["labels"], each["spec"]["template"]["spec"])
        for name, each in of_kind(overlay, "Deployment").items()
    }
    for service in of_kind(overlay, "InferenceService").values():
        predictor = service["spec"]["predictor"]
        runtime = of_kind(overlay, "ServingRuntime")[predictor["model"]["runtime"]]["spec"]
        found[runtime["labels"][NAME]] = (
            runtime["labels"],
            predictor | {key: runtime[key] for key in ("containers", "volumes")},
        )
    return found


def containers(overlay: str) -> list[Object]:
    return [container for _, spec in pods(overlay).values() for container in spec["containers"]]


@pytest.fixture(scope="module")
def kserve(tmp_path_factory: pytest.TempPathFactory) -> Schemas:
    return Schemas(models(tmp_path_factory.mktemp("kserve")))


@pytest.mark.parametrize("overlay", APPLIED)
def test_kubernetes_takes_every_object(overlay: str) -> None:
    for each in APPLIED[overlay]:
        if each["kind"] not in KINDS:
            kubernetes_validate.validate(each, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize("overlay", ["kserve", KSERVE_EMBEDDED])
def test_kserve_takes_its_objects(kserve: Schemas, overlay: str) -> None:
    given = [each for each in APPLIED[overlay] if each["kind"] in KINDS]
    assert {each["kind"] for each in given} == KINDS.keys()
    assert [error for each in given for error in kserve.errors(each)] == []


def test_what_kserve_or_kubernetes_does_not_know_is_found(kserve: Schemas) -> None:
    (service,) = of_kind("kserve", "InferenceService").values()
    predictor = service["spec"]["predictor"]
    for wrong in ({"minReplica": 2}, {"minReplicas": "2"}, {"securityContext": {"runAsRoot": False}}):
        assert kserve.errors(service | {"spec": {"predictor": predictor | wrong}})


@pytest.mark.parametrize("overlay", APPLIED)
def test_names_are_those_of_one_namespace(overlay: str) -> None:
    names = [(each["kind"], each["metadata"]["name"]) for each in APPLIED[overlay]]
    assert len(set(names)) == len(names)
    kustomization = yaml.safe_load((FOLDER / overlay / "kustomization.yaml").read_text())
    assert {kustomization["namespace"]} == of_kind(overlay, "Namespace").keys()
    assert of_kind(overlay, "Secret") == {}  # one that is committed is none


def selects(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return selector.items() <= labels.items()


@pytest.mark.parametrize("overlay", APPLIED)
def test_selectors_find_their_pods(overlay: str) -> None:
    labels = {name: each for name, (each, _) in pods(overlay).items()}
    selectors = {name: each["spec"]["selector"] for name, each in of_kind(overlay, "Service").items()}
    for kind in ("Deployment", "PodDisruptionBudget"):
        for name, each in of_kind(overlay, kind).items():
            assert selects(each["spec"]["selector"]["matchLabels"], labels[name]), (kind, name)
    for name, selector in selectors.items():
        assert [pod for pod in labels if selects(selector, labels[pod])] == [name]
    for name, (_, spec) in pods(overlay).items():
        (spread,) = spec["topologySpreadConstraints"]
        assert selects(spread["labelSelector"]["matchLabels"], labels[name])
    for each in of_kind(overlay, "HorizontalPodAutoscaler").values():
        assert each["spec"]["scaleTargetRef"]["name"] in of_kind(overlay, "Deployment")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_node_has_the_memory_for_the_large_calls_of_all_gateways(overlay: str) -> None:
    (heap,) = re.findall(r"-Xmx(\d+)g", (ROOT / "deploy" / "torchserve.properties").read_text())
    assert of_kind(overlay, "Deployment")["gateway"]["spec"]["replicas"] * 512 <= int(heap) * 1024


def fits(peer: Object, labels: dict[str, str], namespace: str) -> bool:
    """Say whether one entry of a policy's `from` or `to` is such a pod, in a namespace or else in the policy's own."""
    if "namespaceSelector" in peer:
        return selects(peer["namespaceSelector"]["matchLabels"], {"kubernetes.io/metadata.name": namespace})
    return namespace == "classifier" and selects(peer["podSelector"]["matchLabels"], labels)


def lets(
    overlay: str, direction: str, labels: dict[str, str], other: dict[str, str], namespace: str, port: int
) -> bool:
    """Say whether the policies for a pod let traffic pass from another (ingress) or to it (egress)."""
    peers = "from" if direction == "ingress" else "to"
    return any(
        any(fits(peer, other, namespace) for peer in rule[peers]) and port in [each["port"] for each in rule["ports"]]
        for policy in of_kind(overlay, "NetworkPolicy").values()
        if selects(policy["spec"]["podSelector"].get("matchLabels", {}), labels)
        for rule in policy["spec"].get(direction, [])
    )


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_only_the_gateway_reaches_torchserve_and_only_who_has_to_reaches_the_gateway(overlay: str) -> None:
    labels = {name: each for name, (each, _) in pods(overlay).items()}
    assert all(
        set(each["spec"]["policyTypes"]) == {"Ingress", "Egress"} for each in of_kind(overlay, "NetworkPolicy").values()
    )
    assert {} in [each["spec"]["podSelector"] for each in of_kind(overlay, "NetworkPolicy").values()]

    def reaches(source: str, target: str, port: int) -> bool:
        return lets(overlay, "egress", labels[source], labels[target], "classifier", port) and lets(
            overlay, "ingress", labels[target], labels[source], "classifier", port
        )

    assert reaches("gateway", "torchserve", 8000)
    assert not any(reaches("gateway", "torchserve", port) for port in (8080, 8082))
    assert not any(reaches("torchserve", target, port) for target in labels for port in (5001, 8000, 8080))
    entering = {
        (name, namespace, port)
        for name in labels
        for namespace in ("classifier", "default", "ingress-nginx", "monitoring")
        for port in (5001, 8000, 8080, 8082)
        if lets(overlay, "ingress", labels[name], {NAME: "stranger"}, namespace, port)
    }
    assert entering == {("gateway", "ingress-nginx", 5001), ("gateway", "monitoring", 5001)}
    assert lets(overlay, "egress", labels["gateway"], {}, "kube-system", 53)


@pytest.mark.parametrize("overlay", APPLIED)
def test_pods_are_restricted_and_bounded(overlay: str) -> None:
    for name, (_, spec) in pods(overlay).items():
        rights = spec["securityContext"]
        assert rights["runAsNonRoot"] is True
        assert rights["seccompProfile"] == {"type": "RuntimeDefault"}
        assert f"{rights['runAsUser']}:{rights['runAsGroup']}" == read(name if overlay in OVERLAYS else EMBEDDED).user
        assert spec["enableServiceLinks"] is spec["automountServiceAccountToken"] is False
        mounted = {mount["name"] for container in spec["containers"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in spec["volumes"]}
    for container in containers(overlay):
        own = container["securityContext"]
        assert own["readOnlyRootFilesystem"] is True
        assert own["capabilities"] == {"drop": ["ALL"]}
        assert own["allowPrivilegeEscalation"] is False
        assert {"cpu", "memory"} == container["resources"]["requests"].keys() == container["resources"]["limits"].keys()


def test_both_ways_run_the_same_nodes() -> None:
    (_, one), (_, other) = pods("kserve")["torchserve"], pods("deployment")["torchserve"]
    torchserve, proxy = one.pop("containers")
    store, *environment = torchserve["env"]
    assert [torchserve | {"name": "torchserve", "env": environment}, proxy] == other["containers"]
    assert store["name"] in read("torchserve").environment
    assert [key for key in other if key != "containers" and one[key] != other[key]] == []


@pytest.mark.parametrize("overlay", APPLIED)
def test_images_are_ours_or_of_a_fixed_version(overlay: str) -> None:
    named = yaml.safe_load((FOLDER / overlay / "kustomization.yaml").read_text())["images"]
    assert all(each["newTag"] == VERSION for each in named)
    used = {container["image"] for container in containers(overlay)}
    assert {each["name"] for each in named} == used & IMAGES.keys()
    for container in containers(overlay):
        if container["image"] in IMAGES:
            assert read(IMAGES[container["image"]]).packages == f"{IMAGES[container['image']]}-packages"
        else:
            assert container["image"].split(":")[1][0].isdigit()


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_containers_name_is_there(overlay: str) -> None:
    app = create_app({"TORCHSERVE": "http://torchserve:8000"})
    routes = {rule.rule for rule in app.url_map.iter_rules()}
    (gateway,) = (each for each in containers(overlay) if each["name"] == "gateway")
    settings = {each["name"].removeprefix("GATEWAY_"): each["value"] for each in gateway["env"]}
    assert settings.keys() <= app.config.keys()
    assert [port["containerPort"] for port in gateway["ports"]] == read("gateway").ports
    assert {gateway[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness", "readiness")} <= routes
    token = Path(settings["TOKEN_FILE"])
    assert str(token.parent) in [mount["mountPath"] for mount in gateway["volumeMounts"]]
    name, port = settings["TORCHSERVE"].removeprefix("http://").split(":")
    assert int(port) in [each["port"] for each in of_kind(overlay, "Service")[name]["spec"]["ports"]]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_node_is_asked_what_it_answers_and_may_write_where_it_does(overlay: str) -> None:
    image = read("torchserve")
    node = next(each for each in containers(overlay) if each["image"] == "classifier-torchserve")
    for probe in ("startup", "liveness", "readiness"):
        assert node[f"{probe}Probe"]["exec"]["command"] == image.healthcheck
    (nginx,) = (each for each in containers(overlay) if each["name"] == "nginx")
    template = of_kind(overlay, "ConfigMap")["nginx"]["data"]["torchserve.conf.template"]
    assert {each["name"] for each in nginx["env"]} == set(re.findall(r"\$\{(\w+)\}", template))
    (server,) = (each["value"] for each in nginx["env"] if each["name"] == "SERVERS")
    assert server == f"server 127.0.0.1:{image.ports[0]};"
    (port,) = of_kind(overlay, "Service")["torchserve"]["spec"]["ports"]
    assert f"listen {port['targetPort']};" in template
    for each in containers(overlay):
        if each["image"] in IMAGES:
            written = read(IMAGES[each["image"]]).environment["TMPDIR"]
            assert written in [mount["mountPath"] for mount in each["volumeMounts"]]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_secret_is_the_one_that_the_documentation_makes(overlay: str) -> None:
    spec = str(APPLIED[overlay])
    assert "'secretName': 'classifier-token'" in spec
    assert "'secretKeyRef': {'name': 'classifier-token', 'key': 'token'}" in spec
    assert "kubectl create secret generic classifier-token --namespace classifier --from-literal=token=" in HOW_TO


def test_there_is_time_to_finish(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "anywhere")
    gunicorn = runpy.run_path(str(ROOT / "gateway" / "gunicorn.conf.py"))
    _, spec = pods("deployment")["gateway"]
    waiting = spec["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert spec["terminationGracePeriodSeconds"] > gunicorn["graceful_timeout"] + waiting


def test_the_small_choice_is_the_gateway_alone() -> None:
    """It is asked as the gateway before TorchServe is, but knows no token, and reaches nothing."""
    (gateway,), (other,) = containers(EMBEDDED), pods("deployment")["gateway"][1]["containers"]
    different = {"env", "image", "resources", "volumeMounts"}
    assert gateway.keys() | {"env"} == other.keys()
    assert {key: gateway[key] for key in other.keys() - different} == {
        key: other[key] for key in other.keys() - different
    }
    assert [port["containerPort"] for port in gateway["ports"]] == read(EMBEDDED).ports
    assert read(EMBEDDED).environment["TMPDIR"] in [mount["mountPath"] for mount in gateway["volumeMounts"]]
    ((_, (labels, _)),) = pods(EMBEDDED).items()
    for namespace in ("classifier", "default", "ingress-nginx", "monitoring"):
        entered = lets(EMBEDDED, "ingress", labels, {NAME: "stranger"}, namespace, 5001)
        assert entered is (namespace in ("ingress-nginx", "monitoring"))
        assert not lets(EMBEDDED, "egress", labels, {NAME: "stranger"}, namespace, 443)
    assert of_kind(EMBEDDED, "NetworkPolicy")["nothing-else"]["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert "secret" not in str(APPLIED[EMBEDDED]).lower()


def test_kserves_small_choice_is_the_same_pod_and_speaks_its_protocol(kserve: Schemas) -> None:
    (container,), (other,) = containers(KSERVE_EMBEDDED), containers(EMBEDDED)
    assert container.keys() - {"env"} == other.keys()
    assert [key for key in other if key != "name" and container[key] != other[key]] == []
    (service,) = of_kind(KSERVE_EMBEDDED, "InferenceService").values()
    (runtime,) = of_kind(KSERVE_EMBEDDED, "ServingRuntime").values()
    assert service["spec"]["predictor"]["model"]["protocolVersion"] in runtime["spec"]["protocolVersions"]
    assert container["env"] == [{"name": "GATEWAY_MODEL_NAME", "value": service["metadata"]["name"]}]
    assert "MODEL_NAME" in create_app({"TORCHSERVE": "http://torchserve:8000"}).config
    assert of_kind(KSERVE_EMBEDDED, "NetworkPolicy") == of_kind(EMBEDDED, "NetworkPolicy")


def test_kserve_takes_the_canary(kserve: Schemas) -> None:
    (service,) = of_kind(KSERVE_EMBEDDED, "InferenceService").values()
    patch = yaml.safe_load((FOLDER / KSERVE_EMBEDDED / "canary.yaml").read_text())
    assert kserve.errors({**service, "spec": service["spec"] | patch["spec"]}) == []
    patch["spec"]["canary"][0]["percent"] = 10
    assert kserve.errors({**service, "spec": service["spec"] | patch["spec"]}) != []
