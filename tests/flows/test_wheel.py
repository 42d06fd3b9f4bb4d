"""The wheel where there is no checkout: what is in it, and that everything runs from an empty folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

from effnet_core import __version__
from tests.flows.service import ROOT, TestedService
from tests.support.images import class_folders

SOURCES = ("effnet_core", "tasks", "flows", "deployments")
DEPLOYMENTS = yaml.safe_load((ROOT / "deployments" / "prefect.yaml").read_text())["deployments"]
LOOK = """
import json
from prefect.flows import load_flow_from_entrypoint
from effnet_core.config.recipes import recipe_names
from flows.service import automations, environments
file = environments.DEPLOYMENTS
items = environments.yaml.safe_load(file.read_text())["deployments"]
flows = [load_flow_from_entrypoint(item["entrypoint"], use_placeholder_flow=False) for item in items]
print(json.dumps({
    "file": str(file),
    "deployments": [item["name"] for item in items],
    "flows": sorted({flow.name for flow in flows}),
    "environments": [environments.read_environment(name).pool for name in environments.names()],
    "automations": sorted(path.stem for path in automations.FOLDER.glob("*.yaml")),
    "recipes": list(map(str, recipe_names())),
}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: setuptools packs whatever an earlier build left in the source folder's build/."""
    source = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, source / name)
    out = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)]
    subprocess.run([*build, str(source)], check=True, capture_output=True)
    (found,) = out.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def bin_dir(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Commands of a fresh environment with the wheel in it; its other packages are those of this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    pip += ["--disable-pip-version-check", "--no-index", "--no-deps", str(wheel)]
    subprocess.run(pip, check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    launcher = Path(sysconfig.get_path("scripts"), "msrun").read_text().splitlines()[1:]
    (python.parent / "msrun").write_text("\n".join([f"#!{python}", *launcher]))
    (python.parent / "msrun").chmod(0o755)
    return python.parent


def clean() -> dict[str, str]:
    """This environment without what points at the checkout or at a server."""
    names = ("PYTHONPATH", "PREFECT_API_URL", "PREFECT_HOME", "EFFNET_STATE_DIR")
    return {name: value for name, value in os.environ.items() if name not in names}


class Installed(TestedService):
    """The installed ``effnet`` in a folder where nothing else is."""

    __test__ = False

    def __init__(self, bin_dir: Path, folder: Path) -> None:
        super().__init__(folder)
        self.bin_dir, self.environment = bin_dir, clean()

    def _run(
        self, arguments: list[str], variables: dict[str, str]
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.bin_dir / "python", *arguments],
            env={**self.environment, **variables},
            cwd=self.folder,
            check=False,
            capture_output=True,
            text=True,
            timeout=1500,
        )

    def effnet(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """The command that pip wrote, not a module."""
        return self._run([str(self.bin_dir / "effnet"), *arguments], variables)

    def succeed(self, *arguments: str) -> str:
        done = self.effnet(*arguments)
        assert done.returncode == 0, f"effnet {' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
        return done.stdout


def test_what_is_in_the_wheel(wheel: Path) -> None:
    assert f"-{__version__}-" in wheel.name
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    ours = {name for name in names if ".dist-info/" not in name}
    assert {name.split("/")[0] for name in ours} == set(SOURCES)
    assert not [name for name in names if "test" in name.lower() and "self_test" not in name]
    for name in SOURCES[:3]:  # every module, template, recipe and source of a kernel
        for path in (ROOT / name).rglob("*"):
            if path.is_file() and path.suffix != ".pyc":
                assert str(path.relative_to(ROOT)) in ours
    kept = {"prefect.yaml", "automations", "environments", "kubernetes"}
    assert {name.split("/")[1] for name in ours if name.startswith("deployments/")} == kept


def test_what_is_installed_is_whole(bin_dir: Path, tmp_path: Path) -> None:
    installed = Installed(bin_dir, tmp_path)
    assert installed.succeed("--version").strip() == f"effnet-flows {__version__}"
    done = installed._run(["-c", LOOK], {"EFFNET_STATE_DIR": str(tmp_path / "state")})
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert Path(found["file"]).is_relative_to(bin_dir.parent)  # not the checkout's
    assert found["deployments"] == [item["name"] for item in DEPLOYMENTS]
    flows = {"stage", "train", "evaluate", "publish", "batch-infer", "pipeline", "demo"}
    assert set(found["flows"]) == flows
    assert found["environments"] == ["compose", "local", "production"]
    assert found["automations"] == ["drift", "email", "heartbeat", "slack", "webhook"]
    assert "digits" in found["recipes"]


@pytest.mark.slow
@pytest.mark.prefect
@pytest.mark.mindspore
@pytest.mark.timeout(1900)
def test_the_demo_runs_in_an_empty_folder(bin_dir: Path, tmp_path: Path) -> None:
    assert "report" in Installed(bin_dir, tmp_path).succeed("demo")
    summary = json.loads((tmp_path / "runs" / "demo" / "latest" / "summary.json").read_text())
    assert summary["top1"] >= 0.97


@pytest.mark.slow
@pytest.mark.prefect
@pytest.mark.mindspore
@pytest.mark.timeout(1900)
def test_training_service_and_labelling_from_an_empty_folder(bin_dir: Path, tmp_path: Path) -> None:
    installed = Installed(bin_dir, tmp_path)
    class_folders(tmp_path / "photos", {"cat": 10, "dog": 10}, width=64, height=48)
    shown = installed.succeed("train", "photos", "--quality", "fast", "--run-dir", "runs/first")
    assert "effnet predict FOLDER --weights runs/first" in shown

    for name in ("flows", "tasks", "deployments"):  # not to be taken for our packages
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.py").write_text("raise ImportError('not ours')\n")
    try:
        said = installed.up()
        for item in DEPLOYMENTS:
            assert item["name"] in said
        assert installed.succeed("deploy", "--automations", "heartbeat").count("deployed to") == 1
        assert len(installed.api.post("/deployments/filter")) == len(DEPLOYMENTS)
        given = "folder=photos", "weights=runs/first", "output=labels"
        options = [part for text in given for part in ("-p", text)]
        installed.succeed("run", "batch-infer", *options, "--watch")
    finally:
        installed.effnet("down")
    assert json.loads((tmp_path / "labels" / "summary.json").read_text())["labelled"] == 20
