"""The Kubernetes manifests, as kustomize makes them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from vicreg_platform.needs import Bundle
from vicreg_platform.settings import Settings

MANIFESTS = Path(__file__).parents[2] / "deploy/kubernetes"
SECRET = {"POSTGRES_PASSWORD", "MLFLOW_POSTGRES_PASSWORD", "RAY_AUTH_TOKEN", "VICREG_API_KEY"}
"""The secrets that ``make compose-env`` writes, and so those that the pods may refer to."""


@pytest.fixture(scope="module", params=["base", "postgres", "example"])
def objects(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed: it makes the manifests")
    folder = MANIFESTS / request.param
    built = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return list(yaml.safe_load_all(built.stdout))


def of_kind(objects: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [each for each in objects if each["kind"] == kind]


def pod_templates(objects: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for each in objects:
        if each["kind"] == "RayCluster":
            groups = [each["spec"]["headGroupSpec"], *each["spec"]["workerGroupSpecs"]]
            yield from (group["template"] for group in groups)
        elif "template" in each.get("spec", {}):
            yield each["spec"]["template"]


def settings_of(objects: list[dict[str, Any]]) -> dict[str, str]:
    """The config map made of ``base/settings.env``."""
    (settings,) = (
        each["data"] for each in of_kind(objects, "ConfigMap") if "VICREG_RAY_URL" in each["data"]
    )
    return dict(settings)


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def test_every_object_and_every_ray_pod_is_as_the_schema_says(
    objects: list[dict[str, Any]],
) -> None:
    pods = [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "ray"}, "spec": template["spec"]}
        for template in pod_templates(of_kind(objects, "RayCluster"))
    ]
    assert len(pods) == 3
    for each in [*objects, *pods]:
        if each["kind"] != "RayCluster":
            kubernetes_validate.validate(each, "1.34", strict=True)


def test_pods_are_admitted_as_restricted(objects: list[dict[str, Any]]) -> None:
    """The rules of Kubernetes' Pod Security Standards, level restricted."""
    (namespace,) = of_kind(objects, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for pod in pod_templates(objects):
        spec = pod["spec"]
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for volume in spec["volumes"]:
            kinds = volume.keys() - {"name"}
            assert kinds <= {"configMap", "emptyDir", "persistentVolumeClaim", "secret"}
        for container in containers(pod):
            confined = container["securityContext"]
            assert confined["allowPrivilegeEscalation"] is False
            assert confined["capabilities"] == {"drop": ["ALL"]}
            assert confined["readOnlyRootFilesystem"]
            assert all("hostPort" not in port for port in container.get("ports", []))
    (cluster,) = of_kind(objects, "RayCluster")
    autoscaler = cluster["spec"]["autoscalerOptions"]["securityContext"]
    assert autoscaler["allowPrivilegeEscalation"] is False
    assert autoscaler["capabilities"] == {"drop": ["ALL"]}
    assert autoscaler["readOnlyRootFilesystem"]
    # KubeRay puts it into the head's pod, and its mounts refer to that pod's volumes.
    (mount,) = cluster["spec"]["autoscalerOptions"]["volumeMounts"]
    head = cluster["spec"]["headGroupSpec"]["template"]["spec"]
    (volume,) = (each for each in head["volumes"] if each["name"] == mount["name"])
    assert (mount["mountPath"], volume["emptyDir"]) == ("/tmp", {})


def test_what_hangs_is_restarted(objects: list[dict[str, Any]]) -> None:
    """Every service has a liveness probe, more patient than its readiness probe."""
    for pod in pod_templates(objects):
        for container in pod["spec"]["containers"]:
            alive = container["livenessProbe"]
            assert {"httpGet", "exec"} & alive.keys(), container["name"]
            seconds = alive["periodSeconds"] * alive["failureThreshold"]
            assert seconds >= 60, container["name"]
            assert alive["timeoutSeconds"] >= 5, container["name"]


def test_a_pod_that_stops_is_sent_no_more_requests(objects: list[dict[str, Any]]) -> None:
    """A service goes on sending requests for a moment to a pod that has been told to end."""
    deployments = {each["metadata"]["name"]: each for each in of_kind(objects, "Deployment")}
    for name in {"api", "mlflow"} & deployments.keys():
        spec = deployments[name]["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        seconds = container["lifecycle"]["preStop"]["sleep"]["seconds"]
        # The rest is for what the process itself does at its end.
        assert 5 <= seconds <= spec.get("terminationGracePeriodSeconds", 30) / 2


def admitted(policy: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether a policy lets pods of this namespace with some labels in."""
    for rule in policy["spec"].get("ingress", []):
        if "from" not in rule:
            return True
        for peer in rule["from"]:
            selector = peer["podSelector"]
            if all(
                labels.get(name) == value for name, value in selector.get("matchLabels", {}).items()
            ) and all(
                labels.get(each["key"]) in each["values"]
                for each in selector.get("matchExpressions", [])
            ):
                return True
    return False


def test_mlflow_and_ray_answer_the_platform_alone(objects: list[dict[str, Any]]) -> None:
    policies = {each["metadata"]["name"]: each for each in of_kind(objects, "NetworkPolicy")}
    assert policies["nobody"]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress"]}
    platform = [{"app": "api"}, {"app": "dispatcher"}]
    ray = {"ray.io/cluster": "vicreg"}
    for name in ("mlflow", "ray"):
        assert all(admitted(policies[name], labels) for labels in [*platform, ray])
        assert not admitted(policies[name], {"app": "somebody"})
    assert admitted(policies["api"], {"app": "somebody"})
    if "postgres" in policies:
        assert all(admitted(policies["postgres"], labels) for labels in platform)
        assert not admitted(policies["postgres"], ray)


def test_a_drained_node_leaves_one_of_two(objects: list[dict[str, Any]]) -> None:
    replicas = {
        each["metadata"]["name"]: each["spec"]["replicas"]
        for each in of_kind(objects, "Deployment")
    }
    for budget in of_kind(objects, "PodDisruptionBudget"):
        name = budget["metadata"]["name"]
        if "minAvailable" in budget["spec"]:
            assert budget["spec"]["minAvailable"] == replicas[name] - 1 == 1


def test_what_a_pod_refers_to_is_there(objects: list[dict[str, Any]]) -> None:
    maps = {each["metadata"]["name"] for each in of_kind(objects, "ConfigMap")}
    claims = {each["metadata"]["name"] for each in of_kind(objects, "PersistentVolumeClaim")}
    for pod in pod_templates(objects):
        volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes", [])}
        for volume in volumes.values():
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in claims
            if "configMap" in volume:
                assert volume["configMap"]["name"] in maps
        for container in containers(pod):
            for source in container.get("envFrom", []):
                assert source["configMapRef"]["name"] in maps
            for variable in container.get("env", []):
                key = variable.get("valueFrom", {}).get("secretKeyRef")
                assert key is None or key.get("optional") or key["key"] in SECRET
    assert {each["metadata"]["namespace"] for each in objects if each["kind"] != "Namespace"} == {
        "vicreg"
    }


def test_the_dispatcher_knows_the_largest_cluster(
    objects: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    (cluster,) = of_kind(objects, "RayCluster")
    largest: list[Bundle] = []
    for group in cluster["spec"]["workerGroupSpecs"]:
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        node = Bundle(float(limits["cpu"]), float(limits.get("nvidia.com/gpu", 0)))
        largest += [node] * group["maxReplicas"]
    for name, value in settings_of(objects).items():
        monkeypatch.setenv(name, value)
    assert Settings.from_environment().ray_nodes == tuple(largest)


def test_ray_is_of_the_version_that_the_image_holds(objects: list[dict[str, Any]]) -> None:
    (cluster,) = of_kind(objects, "RayCluster")
    assert cluster["spec"]["rayVersion"] == version("ray")


def test_addresses_are_those_of_services(objects: list[dict[str, Any]]) -> None:
    services = {each["metadata"]["name"] for each in of_kind(objects, "Service")}
    # KubeRay creates one for the head.
    services |= {f"{each['metadata']['name']}-head-svc" for each in of_kind(objects, "RayCluster")}
    settings = settings_of(objects)
    for name in ("VICREG_RAY_URL", "VICREG_MLFLOW_URL"):
        host = settings[name].removeprefix("http://").partition(":")[0]
        assert host in services
    if of_kind(objects, "StatefulSet"):
        assert settings["POSTGRES_HOST"] in services
