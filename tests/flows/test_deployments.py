"""``deployments/``: entrypoints exist, take the parameters they are given, and refuse wrong ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args
from uuid import uuid4

import pytest
import yaml
from prefect.blocks.notifications import SendgridEmail, SlackWebhook
from prefect.blocks.webhook import Webhook
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.objects import ConcurrencyLimitConfig
from prefect.client.schemas.schedules import CronSchedule
from prefect.events.schemas.automations import AutomationCore
from prefect.flows import Flow, load_flow_from_entrypoint
from prefect.utilities.schema_tools.validation import is_valid

from effnet_core.config.load import load_config
from effnet_core.config.schema import InferConfig
from effnet_core.errors import ConfigError
from effnet_core.family.variants import VARIANTS
from flows import parameters
from flows.command import run_as_command
from flows.names import training_values
from flows.service import environments
from flows.service.automations import BLOCK, DEPLOYMENT
from flows.service.environments import VARIABLE, flow_config, read_environment

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "deployments" / "prefect.yaml"
CONTENT: dict[str, Any] = yaml.safe_load(FILE.read_text())
DEPLOYMENTS: list[dict[str, Any]] = CONTENT["deployments"]
EXAMPLES: dict[str, Any] = {
    "data": "data",
    "source": "images",
    "folder": "photos",
    "out": "out",
    "output": "labels",
    "weights": "model.ckpt",
    "run_dir": "runs/first",
}


def load(deployment: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Flow[..., Any]:
    monkeypatch.chdir(ROOT)
    return load_flow_from_entrypoint(deployment["entrypoint"], use_placeholder_flow=False)


def test_every_deployment_that_is_promised() -> None:
    assert {item["name"] for item in DEPLOYMENTS} == {
        "stage",
        *(f"train-b{number}" for number in range(8)),
        "evaluate",
        "publish",
        "batch-infer",
        "batch-infer-inbox",
        "nightly-pipeline",
        "demo",
    }


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda item: str(item["name"]))
def test_entrypoint_parameters_and_schedule(
    deployment: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = load(deployment, monkeypatch)
    schema = flow.parameters.model_dump()
    given = deployment.get("parameters", {})
    assert set(given) <= set(schema["properties"])
    values = {**{name: EXAMPLES[name] for name in schema.get("required", [])}, **given}
    assert is_valid(values, schema)
    flow.validate_parameters(values)
    assert deployment["description"]
    assert deployment["tags"]
    for schedule in deployment.get("schedules", []):
        assert schedule["active"] is False
        CronSchedule(cron=schedule["cron"], timezone=schedule["timezone"])
        DeploymentScheduleCreate.model_validate(
            {
                "schedule": {"cron": schedule["cron"], "timezone": schedule["timezone"]},
                "slug": schedule["slug"],
            }
        )
    if limit := deployment.get("concurrency_limit"):
        ConcurrencyLimitConfig.model_validate(limit)
    for name, about in schema["properties"].items():
        assert about.get("description"), f"{name} has no description on the form"


def test_trainings_differ_by_variant_only() -> None:
    for number in range(8):
        item = next(item for item in DEPLOYMENTS if item["name"] == f"train-b{number}")
        assert set(item["parameters"]) == {"recipe", "variant"}
        assert item["parameters"]["variant"] == item["tags"][1]  # whatever recipe is chosen
        assert item["tags"][1] == f"efficientnet_b{number}"
        assert load_config(item["parameters"]["recipe"]).auto.enabled
        assert item["concurrency_limit"] == {"limit": 1, "collision_strategy": "ENQUEUE"}


def test_what_starts_by_itself_never_runs_twice_at_once() -> None:
    scheduled = [item for item in DEPLOYMENTS if item.get("schedules")]
    assert [item["name"] for item in scheduled] == ["batch-infer-inbox", "nightly-pipeline"]
    for item in scheduled:
        assert item["concurrency_limit"]["collision_strategy"] == "CANCEL_NEW"


@pytest.mark.parametrize("name", ["stage", "batch-infer"])
def test_runs_that_may_have_one_folder_queue(name: str) -> None:
    item = next(item for item in DEPLOYMENTS if item["name"] == name)
    assert item["concurrency_limit"] == {"limit": 1, "collision_strategy": "ENQUEUE"}


TRAIN, INFER, PIPELINE = "train-b0", "batch-infer", "nightly-pipeline"
DEVICES = ["as in recipe", "CPU", "GPU", "Ascend"]
ENGINES = ["as in recipe", "auto", "onnxruntime", "openvino", "mindspore"]


def form(name: str, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Any], dict[str, Any]]:
    """A deployment's schema, and values that it takes."""
    deployment = next(item for item in DEPLOYMENTS if item["name"] == name)
    schema = load(deployment, monkeypatch).parameters.model_dump()
    return schema, {key: EXAMPLES[key] for key in schema.get("required", [])}


@pytest.mark.parametrize(
    ("deployment", "name", "value"),
    [
        (TRAIN, "epochs", 0),
        (TRAIN, "epochs", "many"),
        (TRAIN, "base_lr", 0),
        (TRAIN, "processes", 0),
        (TRAIN, "device", "TPU"),
        (TRAIN, "variant", "efficientnet_b9"),
        (TRAIN, "recipe", "digit"),
        (TRAIN, "overrides", ["epochs=3"]),
        (TRAIN, "overrides", "train.epochs=3"),
        (TRAIN, "data", ""),
        ("evaluate", "device", "cpu"),
        ("evaluate", "split", "../val"),
        ("stage", "val_share", 0.95),
        ("stage", "seed", -1),
        ("publish", "version", "a version"),
        (INFER, "engine", "tensorrt"),
        (INFER, "engine", ""),
        (INFER, "device", "TPU"),
        (INFER, "runner", "ray"),
        (INFER, "workers", 0),
        (INFER, "workers", 1.5),
        (INFER, "dask_address", "localhost"),
        (INFER, "folder", ""),
        (INFER, "recipe", "digit"),
        (INFER, "overrides", ["engine=openvino"]),
        ("batch-infer-inbox", "engine", "tensorrt"),
        (PIPELINE, "engine", "tensorrt"),
        (PIPELINE, "device", "TPU"),
        (PIPELINE, "variant", "efficientnet_b9"),
        (PIPELINE, "epochs", 0),
        ("demo", "engine", "tensorrt"),
        ("demo", "device", "TPU"),
        ("demo", "epochs", 0),
    ],
)
def test_the_form_refuses(
    deployment: str, name: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema, values = form(deployment, monkeypatch)
    assert is_valid(values, schema)
    assert not is_valid({**values, name: value}, schema)


def test_the_form_takes_what_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    schema, values = form(INFER, monkeypatch)
    right = {"runner": "dask", "dask_address": "tcp://10.0.0.7:8786", "workers": 16}
    assert is_valid({**values, **right, "engine": "openvino", "device": "CPU"}, schema)


def test_the_form_offers_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    known = [name for name in VARIANTS if not name.startswith("efficientnet_tiny")]
    lists = {
        "variant": [parameters.AS_IN_RECIPE, *known],
        "device": DEVICES,
        "engine": ENGINES,
        "runner": ["threads", "dask"],
    }
    wanted = {
        TRAIN: ("variant", "device"),
        "evaluate": ("device",),
        INFER: ("engine", "device", "runner"),
        "batch-infer-inbox": ("engine", "device", "runner"),
        PIPELINE: ("variant", "device", "engine"),
        "demo": ("device", "engine"),
    }
    for name, fields in wanted.items():
        properties = form(name, monkeypatch)[0]["properties"]
        assert {field for field in lists if field in properties} == set(fields)
        for field in fields:
            assert properties[field]["enum"] == lists[field], (name, field)
    engines = get_args(InferConfig.model_fields["engine"].annotation)
    assert set(engines) == set(ENGINES[1:])


def test_what_a_form_leaves_open_stays_as_in_the_recipe() -> None:
    fields = {"train.epochs": 3, "model.variant": "as in recipe", "optim.base_lr": None}
    form = parameters.form_values({**fields, "model.weights": ""})
    assert form == {"train": {"epochs": 3}}
    assert environments.flow_config("digits", form=form).train.epochs == 3
    assert environments.flow_config("digits", ["train.epochs=7"], form=form).train.epochs == 7


def test_a_number_of_a_form_is_the_number_of_the_settings() -> None:
    """Not by way of text, in which 1e-05 is a word and 2024 or null no name of a folder."""
    rate = 1 / 3 * 1e-5
    config = environments.flow_config(None, form=training_values({"base_lr": rate}))
    assert config.optim.base_lr == rate
    for weights in ("2024", "null", "1e-3", "a: b", "[x]", "#1", "yes"):
        config = environments.flow_config(None, form=training_values({"weights": weights}))
        assert config.model.weights == weights


def test_a_deployments_name_holds_whatever_the_recipe() -> None:
    given = {"variant": "efficientnet_b0", "weights": parameters.NO_WEIGHTS}
    model = environments.flow_config("digits", form=training_values(given)).model
    assert (model.variant, model.weights) == ("efficientnet_b0", None)
    kept = environments.flow_config(
        "digits", form=training_values({"variant": parameters.AS_IN_RECIPE})
    ).model
    assert (kept.variant, kept.weights) == ("efficientnet_lite0", "efficientnet_lite0")


@pytest.mark.parametrize("name", environments.names())
def test_environments_hold_places_and_devices_only(name: str) -> None:
    found = read_environment(name)
    assert set(found.settings) <= {"storage", "runtime"}
    assert found.slots >= 1


def test_an_environment_lies_between_recipe_and_overrides(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(environments, "FOLDER", tmp_path)
    (tmp_path / "here.yaml").write_text(
        "pool: p\nsettings: {runtime: {world_size: 4, device: GPU}, storage: {root: /models}}\n"
    )
    assert flow_config("digits").runtime.world_size == 2
    monkeypatch.setenv(VARIABLE, "here")
    config = flow_config("digits", ["runtime.device=Ascend"])
    assert (config.runtime.world_size, config.runtime.device) == (4, "Ascend")
    assert (config.storage.root, config.storage.name) == ("/models", "digits")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("pool: p\nsettings: {optim: {base_lr: 1}}", "belongs into a recipe"),
        ("pool: p\nsettings: {runtime: {devices: 1}}", "unknown setting 'runtime.devices'"),
        ("pool: p\npolo: q", "polo"),
        ("settings: {}", "pool"),
        ("pool: p\ndevices: 0", "devices"),
    ],
)
def test_a_wrong_environment_is_refused(
    text: str, reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(environments, "FOLDER", tmp_path)
    (tmp_path / f"wrong-{abs(hash(text))}.yaml").write_text(text)
    with pytest.raises(ConfigError, match=reason):
        read_environment(f"wrong-{abs(hash(text))}")


def test_an_unknown_environment_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="did you mean 'production'"):
        read_environment("productoin")


@pytest.mark.parametrize(
    "path",
    sorted((ROOT / "deployments" / "automations").glob("*.yaml")),
    ids=lambda item: item.stem,
)
def test_the_sample_automations_are_prefects(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (automation,) = yaml.safe_load(path.read_text())["automations"]
    (action,) = automation["actions"]
    if BLOCK in action:
        kind, _, name = action.pop(BLOCK).partition("/")
        assert (kind, name) in {
            (block.get_block_type_slug(), "failures")  # type: ignore[no-untyped-call]
            for block in (SlackWebhook, SendgridEmail, Webhook)
        }
        action["block_document_id"] = str(uuid4())
    if DEPLOYMENT in action:
        assert action.pop(DEPLOYMENT) in {
            f"{load(item, monkeypatch).name}/{item['name']}" for item in DEPLOYMENTS
        }
        action |= {"source": "selected", "deployment_id": str(uuid4())}
    assert AutomationCore.model_validate(automation).name


def test_a_command_refuses_what_the_form_refuses(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["flows.train", "--data", "x", "--epochs", "0", "--base-lr", "-1"]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as stop:
        run_as_command("flows.train:train_flow")
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("effnet: a parameter is not allowed: epochs: ")
    assert "base_lr: " in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    "entrypoint", ["flows.stage:stage_flow", "flows.batch_infer:batch_infer_flow"]
)
def test_out_and_output_are_one_option_of_every_command(
    entrypoint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["flow", "--help"])
    with pytest.raises(SystemExit):
        run_as_command(entrypoint)
    shown = capsys.readouterr().out
    assert "--out, --output" in shown or "--output, --out" in shown
