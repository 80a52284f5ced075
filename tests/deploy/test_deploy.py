"""What is written for Docker, Compose and Kubernetes fits the schemas, the settings and one another."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from opentelemetry import environment_variables
from opentelemetry.sdk import environment_variables as sdk_variables

from app.server import DRAIN_SECONDS_IN_A_CLUSTER
from app.settings import Settings

ROOT = Path(__file__).parents[2]
DOCKERFILES = ("Dockerfile", "custom.Dockerfile")
KUBERNETES = ROOT / "deploy" / "kubernetes"
SETTINGS = {name.upper() for name in Settings.model_fields}
# What the old image's Dockerfile takes.
OLD_BUILD_ARGUMENTS = {
    "TEXT_MODEL_NAME",
    "CLIP_MODEL_NAME",
    "CLIP_MODEL_TYPE",
    "OPEN_CLIP_MODEL_NAME",
    "OPEN_CLIP_PRETRAINED",
    "SIGLIP_MODEL_NAME",
    "COLPALI_ENGINE_MODEL_NAME",
    "TRUST_REMOTE_CODE",
}


def load(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(path.read_text())
    return document


def arguments_of(dockerfile: str) -> set[str]:
    return set(re.findall(r"^ARG ([A-Z_]+)", (ROOT / dockerfile).read_text(), re.M))


@pytest.fixture(scope="module")
def manifests() -> dict[str, dict[str, Any]]:
    """By kind: what the kustomization names, which is every manifest there is."""
    names = load(KUBERNETES / "kustomization.yaml")["resources"]
    assert sorted(names) == sorted(
        path.name for path in KUBERNETES.glob("*.yaml") if path.name != "kustomization.yaml"
    )
    return {manifest["kind"]: manifest for manifest in (load(KUBERNETES / name) for name in names)}


@pytest.mark.parametrize("version", ["1.30", "1.37"])
def test_the_manifests_fit_the_schemas(manifests: dict[str, dict[str, Any]], version: str) -> None:
    assert set(manifests) == {"Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget"}
    for manifest in manifests.values():
        kubernetes_validate.validate(manifest, version, strict=True)


def test_the_manifests_fit_one_another(manifests: dict[str, dict[str, Any]]) -> None:
    deployment = manifests["Deployment"]
    pod = deployment["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    labels = pod["metadata"]["labels"].items()
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels
    assert manifests["Service"]["spec"]["selector"].items() <= labels
    assert manifests["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"].items() <= labels
    assert manifests["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert manifests["Service"]["spec"]["ports"][0]["targetPort"] in {port["name"] for port in container["ports"]}
    assert container["image"] == load(KUBERNETES / "kustomization.yaml")["images"][0]["name"]
    assert pod["metadata"]["annotations"]["prometheus.io/port"] == str(container["ports"][0]["containerPort"])


def test_the_pod_is_given_the_time_it_needs_to_stop(manifests: dict[str, dict[str, Any]]) -> None:
    pod = manifests["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    grace_period = Settings.model_fields["grace_period"].default
    assert grace_period < pod.get("terminationGracePeriodSeconds", 30)
    readiness = container["readinessProbe"]
    assert readiness["periodSeconds"] * readiness["failureThreshold"] <= DRAIN_SECONDS_IN_A_CLUSTER


def test_every_variable_in_the_manifests_is_a_setting_that_loads(manifests: dict[str, dict[str, Any]]) -> None:
    (container,) = manifests["Deployment"]["spec"]["template"]["spec"]["containers"]
    environment = {entry["name"]: entry["value"] for entry in container.get("env", [])}
    assert set(environment) <= SETTINGS
    assert_loads(environment)


@pytest.mark.parametrize(
    "names", [["docker-compose.yml"], ["docker-compose.yml", "deploy/docker/docker-compose.gpu.yml"]]
)
def test_the_compose_files(names: list[str]) -> None:
    base, *above = (load(ROOT / name)["services"] for name in names)
    ours, weaviate = base["multi2vec-clip"], base["weaviate"]
    build, environment = dict(ours["build"]["args"]), dict(ours["environment"])
    for services in above:
        assert set(services) == {"multi2vec-clip"}
        build |= services["multi2vec-clip"]["build"]["args"]
        environment |= services["multi2vec-clip"]["environment"]
    assert set(build) <= arguments_of("Dockerfile")
    assert set(environment) <= SETTINGS
    assert_loads(environment)
    assert (build.get("DEVICE", "cpu") == "cuda") == (environment["ENABLE_CUDA"] == "1")
    assert weaviate["environment"]["CLIP_INFERENCE_API"] == "http://multi2vec-clip:8080"
    assert weaviate["environment"]["ENABLE_MODULES"] == "multi2vec-clip"
    assert weaviate["environment"]["DEFAULT_VECTORIZER_MODULE"] == "multi2vec-clip"
    assert weaviate["depends_on"] == {"multi2vec-clip": {"condition": "service_healthy"}}
    # podman drops the image's own.
    command = re.findall(r"^ +CMD (\[.*healthcheck.*\])$", (ROOT / "Dockerfile").read_text(), re.M)
    assert ours["healthcheck"]["test"] == ["CMD", *json.loads(command[0])]
    assert ours["ports"] == ["9090:8080"]
    grace = Settings.model_fields["grace_period"].default
    assert int(ours["stop_grace_period"].removesuffix("s")) > grace


def assert_loads(environment: dict[str, str]) -> None:
    """The settings take these variables, as a server would that starts with them."""
    code = "from app.settings import load_settings; load_settings()"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, **environment}, check=True)


@pytest.mark.parametrize("name", DOCKERFILES)
def test_hadolint_finds_nothing(name: str) -> None:
    command = [str(Path(sys.executable).parent / "hadolint"), str(ROOT / name)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("name", DOCKERFILES)
def test_a_dockerfile(name: str) -> None:
    text = (ROOT / name).read_text()
    assert re.search(r'^CMD \["python", "-m", "app"\]$', text, re.M), "exec form, or SIGTERM does not arrive"
    assert re.findall(r"^USER (.+)$", text, re.M)[-1] == "10001:0"
    assert "EXPOSE 8080" in text and "WORKDIR /app" in text
    assert {"DEVICE", "TORCH_INDEX", "FAMILIES", "TRACING"} <= arguments_of(name)


def test_the_dockerfile_takes_the_build_arguments_of_the_old_image() -> None:
    assert arguments_of("Dockerfile") >= OLD_BUILD_ARGUMENTS


def test_every_file_that_a_dockerfile_copies_is_sent_to_the_daemon() -> None:
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for name in DOCKERFILES:
        for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / name).read_text(), re.M):
            for source in sources.split():
                assert source in sent or any(
                    Path(source).match(pattern) or source.startswith(f"{pattern}/") for pattern in sent
                ), source


def test_the_operations_page_names_settings_and_build_arguments_that_exist() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    compose = set(re.findall(r"\$\{([A-Z_]+)", (ROOT / "docker-compose.yml").read_text()))
    known = SETTINGS | arguments_of("Dockerfile") | arguments_of("custom.Dockerfile") | compose
    others = {
        "CLIP_INFERENCE_API",
        "CLIP_WAIT_FOR_STARTUP",
        "MODULES_CLIENT_TIMEOUT",
        "ENABLE_MODULES",
        "DEFAULT_VECTORIZER_MODULE",
        "HF_TOKEN",
        "RAY_USAGE_STATS_ENABLED",
        "LD_LIBRARY_PATH",
        "REGISTRY_USERNAME",
        "REGISTRY_PASSWORD",
    }
    named = set(re.findall(r"`([A-Z][A-Z0-9]*_[A-Z0-9_]+)(?:=[^`]*)?`", text))
    named = {name for name in named if not name.startswith("RAY_")}
    others |= {name for name in vars(environment_variables) | vars(sdk_variables) if name.startswith("OTEL_")}
    assert named <= known | others, named - known - others
