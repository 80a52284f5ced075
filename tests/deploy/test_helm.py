"""Weaviate's Helm chart, which starts the old container in many clusters, can start this one."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from app.settings import Settings
from tests.support.server import ROOT, free_port, wait_for_ready

# What the chart's template reads of its values for this module (chart main, July 2026).
CHART_READS = {
    "enabled",
    "registry",
    "repo",
    "tag",
    "replicas",
    "strategy",
    "imagePullPolicy",
    "imagePullSecrets",
    "priorityClassName",
    "fullnameOverride",
    "livenessProbe",
    "readinessProbe",
    "envconfig",
    "resources",
    "securityContext",
    "serviceAccountName",
    "nodeSelector",
    "affinity",
    "tolerations",
}
# Seconds, where a pod says nothing, as those of the chart.
KUBERNETES_STOPS_AFTER = 30
# What a pod of the chart finds in its environment: one variable of the chart's, and Kubernetes' own of the services.
POD = {
    "ENABLE_CUDA": "0",
    "KUBERNETES_SERVICE_HOST": "10.96.0.1",
    "KUBERNETES_PORT": "tcp://10.96.0.1:443",
    "CLIP_INFERENCE_SERVICE_HOST": "10.96.7.7",
    "CLIP_INFERENCE_SERVICE_PORT": "8080",
    "CLIP_INFERENCE_PORT": "tcp://10.96.7.7:8080",
    "CLIP_INFERENCE_PORT_8080_TCP": "tcp://10.96.7.7:8080",
    "WEAVIATE_PORT": "tcp://10.96.7.8:80",
}


@pytest.fixture(scope="module")
def values() -> dict[str, Any]:
    """The values that docs/operations.md shows."""
    blocks = re.findall(r"```yaml\n(modules:.*?)```", (ROOT / "docs" / "operations.md").read_text(), re.S)
    shown: dict[str, Any] = yaml.safe_load(blocks[0])
    budget = shown["podDisruptionBudgets"]["multi2vec-clip"]  # the chart has one value for each module that it starts
    module: dict[str, Any] = shown["modules"]["multi2vec-clip"]
    assert budget["enabled"] and budget["spec"]["minAvailable"] < module["replicas"], "or no node can be drained"
    return module


def test_the_chart_reads_the_values_that_the_page_shows(values: dict[str, Any]) -> None:
    assert set(values) <= CHART_READS
    assert set(values["readinessProbe"]) == {"initialDelaySeconds", "periodSeconds"}
    assert set(values["livenessProbe"]) == {"initialDelaySeconds", "periodSeconds", "timeoutSeconds"}
    security = values["securityContext"]
    assert security["runAsNonRoot"] and re.search(
        rf"^USER {security['runAsUser']}:0$", (ROOT / "Dockerfile").read_text(), re.M
    )


def test_the_two_line_image_sets_what_there_is() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    (line,) = re.findall(r"^ENV (.*)$", text, re.M)
    environment = dict(setting.split("=") for setting in line.split())
    assert {name.lower() for name in environment} <= Settings.model_fields.keys()
    code = "from app.settings import load_settings; load_settings()"
    subprocess.run([sys.executable, "-c", code], env=os.environ | environment, cwd=ROOT, check=True)


def test_a_server_stops_in_the_time_that_the_chart_leaves() -> None:
    assert Settings.model_fields["grace_period"].default < KUBERNETES_STOPS_AFTER


def test_a_server_in_the_environment_of_the_chart(tmp_path: Path) -> None:
    """Nothing else is set: no HOME, no locale, and PORT only because this machine is shared."""
    port = free_port()
    environment = POD | {"PATH": os.defpath, "PORT": str(port), "MODELS_DIR": str(ROOT / "demo" / "models")}
    process = subprocess.Popen(
        [sys.executable, "-m", "app"], env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for_ready(url, process)
        assert httpx.get(f"{url}/.well-known/live").status_code == 204
        answer = httpx.post(f"{url}/vectorize", json={"texts": ["a red circle"]}).json()
        assert len(answer["textVectors"][0]) == 64
    finally:
        process.terminate()
        assert process.wait(60) == 0
