"""The service as people run it: up, runs, cancelling, and everything that may be killed."""

from __future__ import annotations

import signal
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from effnet_core.system.files import read_json
from effnet_core.weights.checkpoint import newest
from flows.service import deploy as deploying
from tests.flows.service import ROOT, TestedService, kill, processes_naming, wait_for
from tests.support.images import draw, encode
from tests.support.tiny import TINY
from tests.support.weights import make_checkpoint

pytestmark = [pytest.mark.prefect, pytest.mark.mindspore]


def test_a_training_by_its_bare_name(
    service: TestedService, data_dir: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    parameters = {
        "data": str(data_dir),
        "run_dir": str(run_dir),
        "recipe": "digits",
        "epochs": "2",
        "processes": "1",
        "overrides": "[model.variant=efficientnet_tiny, model.weights=null, train.probe=none, "
        "data.image_size=32, data.global_batch_size=8]",
    }
    options = [part for item in parameters.items() for part in ("-p", "=".join(item))]
    done = service.effnet("run", "train-b0", *options, "--watch")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (run_dir / "model.ckpt").exists()
    assert "Completed train-tiny-source" in done.stdout
    assert "epoch 2/2" in done.stdout
    lines = [line for line in done.stdout.splitlines() if "epoch " in line]
    assert len(lines) == len(set(lines))  # each once
    newest_run = service.api.runs("COMPLETED")[0]
    assert {"train", "efficientnet_tiny"} <= set(newest_run["tags"])
    assert "efficientnet_b0" not in newest_run["tags"]


def test_wrong_values_are_refused_before_a_run_exists(
    service: TestedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = len(service.api.runs())
    for parameter, reason in (
        ("epochs=0", "epochs"),
        ("device=TPU", "'TPU' is not one of"),
        ("variant=efficientnet_b9", "is not one of"),
        ("recipe=digit", "does not match"),
        ("overrides=epochs", "does not match"),
        ("epoch=3", "did you mean 'epochs'?"),
        ("epochs", "KEY=VALUE"),
    ):
        done = service.here(monkeypatch, "run", "train-b0", "-p", "data=x", "-p", parameter)
        assert done.exit_code == 2, (parameter, done.stdout, done.stderr)
        assert reason in done.stderr, (parameter, done.stderr)
        assert "Traceback" not in done.stderr
    ended = service.effnet("run", "train-b9")
    assert ended.returncode == 2
    assert "did you mean 'train-b" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert len(service.api.runs()) == before


def test_a_mistyped_setting_is_one_sentence_in_a_runs_log(
    service: TestedService, data_dir: Path, tmp_path: Path
) -> None:
    options = ["-p", f"data={data_dir}", "-p", f"run_dir={tmp_path / 'run'}"]
    options += ["-p", "overrides=[data.batch_size=4]"]
    done = service.effnet("run", "train-b0", *options, "--watch")
    assert done.returncode == 1
    assert (
        "unknown setting 'data.batch_size'; did you mean 'data.global_batch_size'?" in done.stdout
    )
    assert "Traceback" not in done.stdout + done.stderr


def test_up_again_keeps_what_people_changed(service: TestedService) -> None:
    name = "/deployments/name/pipeline/nightly-pipeline"
    found = service.api.get(name)
    schedule = found["schedules"][0]
    assert schedule["active"] is False
    path = f"/deployments/{found['id']}"
    person = {"cron": "30 5 * * 1", "timezone": "Europe/Berlin", "day_or": True}
    change = {"active": True, "schedule": person, "parameters": {"epochs": 3}}
    service.api.patch(f"{path}/schedules/{schedule['id']}", change)
    hourly = {"schedule": {"interval": 3600, "timezone": "UTC"}, "active": False}
    service.api.post(f"{path}/schedules", [hourly])
    parameters = {**found["parameters"], "folder": "{{ $HOME }} {{ inbox }}"}
    changes = {
        "parameters": parameters,
        "tags": [*found["tags"], "mine"],
        "concurrency_limit": 4,
        "concurrency_options": {"collision_strategy": "ENQUEUE"},
        "job_variables": {**found["job_variables"], "stream_output": True},
        "description": "Ours.",
    }
    service.api.patch(path, {**changes, "paused": found["paused"]})
    service.api.patch("/v2/concurrency_limits/devices-local", {"limit": 3})
    worker = service.worker()
    try:
        said = service.up()
        assert "dashboard; the repository" not in said
        again = service.api.get(path)
        kept = {item["slug"]: item for item in again["schedules"]}
        assert {key: kept["nightly"][key] for key in change} == change
        assert kept[None]["schedule"]["interval"] == 3600
        for key in ("parameters", "tags", "job_variables", "description"):
            assert again[key] == changes[key], key
        assert again["global_concurrency_limit"]["limit"] == 4
        assert again["concurrency_options"]["collision_strategy"] == "ENQUEUE"
        limits = service.api.post("/v2/concurrency_limits/filter", {})
        assert {item["name"]: item["limit"] for item in limits}["devices-local"] == 3
        assert service.worker() == worker
        done = service.effnet("status")
        assert done.returncode == 0
        for words in ("online", "1 with an active schedule", "of 3 in use"):
            assert words in done.stdout
    finally:
        service.up("--reset")
    reset = service.api.get(name)
    for key in ("parameters", "tags", "job_variables", "description", "concurrency_options"):
        assert reset[key] == found[key], key
    assert reset["global_concurrency_limit"]["limit"] == found["global_concurrency_limit"]["limit"]
    (only,) = reset["schedules"]
    assert {key: only[key] for key in change} == {key: schedule[key] for key in change}
    limits = service.api.post("/v2/concurrency_limits/filter", {})
    assert {item["name"]: item["limit"] for item in limits}["devices-local"] == 1
    done = service.effnet("up", "--port", "1")
    assert done.returncode == 2
    assert "the service runs already" in done.stderr


def test_what_the_repository_changed_arrives_and_a_persons_change_is_reported(
    service: TestedService,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """From a checkout with one deployment, so that it is quick."""
    content = yaml.safe_load(deploying.DEPLOYMENTS.read_text())
    (stage,) = (item for item in content["deployments"] if item["name"] == "stage")
    item = {**stage, "name": "weekly", "parameters": {"out": "data", "source": "then"}}
    item["schedules"] = [{"slug": "weekly", "cron": "0 1 * * 0", "active": False}]
    content["deployments"] = [item]
    file = tmp_path / "prefect.yaml"
    monkeypatch.setattr(deploying, "DEPLOYMENTS", file)
    capsys.readouterr()

    def deploy(**options: bool) -> str:
        file.write_text(yaml.safe_dump(content))
        deploying.deploy(service.api, environment="local", **options)
        return " ".join(capsys.readouterr().out.split())

    def deployed() -> tuple[str, list[str]]:
        found = service.api.get("/deployments/name/stage/weekly")
        return found["parameters"]["source"], [
            schedule["schedule"]["cron"] for schedule in found["schedules"]
        ]

    assert deploy() == ""
    found = service.api.get("/deployments/name/stage/weekly")
    path = f"/deployments/{found['id']}"
    try:
        assert deployed() == ("then", ["0 1 * * 0"])
        change = {"schedule": {"cron": "30 5 * * *", "timezone": "UTC"}}
        service.api.patch(f"{path}/schedules/{found['schedules'][0]['id']}", change)
        item["parameters"]["source"] = "now"
        item["schedules"][0]["cron"] = "0 2 * * 0"
        assert "weekly: schedules weekly when stays" in deploy()
        assert deployed() == ("now", ["30 5 * * *"])
        assert deploy() == ""  # told once
        assert deployed() == ("now", ["30 5 * * *"])
        assert deploy(reset=True) == ""
        assert deployed() == ("now", ["0 2 * * 0"])

        def touched() -> str:
            return service.api.get(path)["updated"]

        before = touched()
        assert deploy() == "" and touched() == before  # as it should be, so not deployed again
        content["pull"][0] = {step: {"directory": "/elsewhere"} for step in content["pull"][0]}
        assert deploy() == "" and touched() > before
        (step,) = service.api.get(path)["pull_steps"]
        assert list(step.values()) == [{"directory": "/elsewhere"}]
    finally:
        service.api.delete(path)


def test_cancelling_ends_every_process_and_leaves_a_checkpoint(
    service: TestedService, data_dir: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    run = service.start_training(data_dir, run_dir, epochs=500)
    service.wait_for_epoch(run_dir, 1)
    assert processes_naming(run_dir)
    done = service.prefect("flow-run", "cancel", run)
    assert done.returncode == 0, done.stderr
    wait_for("the processes to end", lambda: not processes_naming(run_dir), seconds=15)
    assert service.wait_until_final(run) == "Cancelled"
    assert newest(run_dir / "checkpoints") is not None


@pytest.mark.slow
def test_a_cancelled_training_goes_on_in_its_folder(
    service: TestedService, data_dir: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    run = service.start_training(data_dir, run_dir, epochs=40)
    service.wait_for_epoch(run_dir, 2)
    service.api.set_state(run, "CANCELLING", "Cancelling", "as the dashboard does")
    wait_for("the processes to end", lambda: not processes_naming(run_dir), seconds=15)
    assert service.wait_until_final(run) == "Cancelled"
    again = service.start_training(data_dir, run_dir, epochs=40)
    assert service.wait_until_final(again) == "Completed"
    assert "resuming from" in service.log(again)
    assert "epoch 1/40" not in service.log(again)


@pytest.mark.slow
def test_runs_inside_a_killed_pipeline_end_with_it(
    service: TestedService, source_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    parameters = {
        "source": str(source_dir),
        "folder": str(source_dir / "val"),
        "out": str(out),
        "data": str(tmp_path / "data"),
        "recipe": "digits",
        "processes": 1,
        "epochs": 12,
        "overrides": [
            *(setting for setting in TINY if not setting.startswith("train.epochs")),
            *("infer.max_error_share=0.5", f"storage.root={tmp_path / 'store'}"),
        ],
    }
    run = service.start_run("pipeline/nightly-pipeline", parameters)
    service.wait_for_epoch(out / "train", 2)
    before = {item["id"] for item in service.runs_inside(run)}
    kill(service.process_of(run))
    wait_for("the next start", lambda: service.history(run).count("Running") == 2)
    ended = [item["state_name"] for item in map(service.api.run, before)]
    assert sorted(ended) == ["Completed", "Crashed"]  # staging had ended, the training was cut
    assert service.wait_until_final(run) == "Completed"
    after = [item for item in service.runs_inside(run) if item["id"] not in before]
    assert {item["state_name"] for item in after} == {"Completed"}
    assert any("resuming from" in service.log(item["id"]) for item in after)
    assert processes_naming(out) == []


@pytest.mark.slow
def test_a_killed_run_is_seen_and_goes_on(
    service: TestedService, data_dir: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    run = service.start_training(data_dir, run_dir, epochs=12)
    service.wait_for_epoch(run_dir, 2)
    kill(service.process_of(run))
    assert service.wait_until_final(run) == "Completed"
    names = service.history(run)
    assert names.count("Running") == 2
    assert names.index("Crashed") < names.index("AwaitingRetry")
    assert "resuming from" in service.log(run)


@pytest.mark.slow
def test_a_killed_worker_loses_nothing(
    service: TestedService, data_dir: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    run = service.start_training(data_dir, run_dir, epochs=20)
    service.wait_for_epoch(run_dir, 1)
    before = service.worker()
    kill(before)
    assert service.wait_until_final(run) == "Completed"
    assert service.history(run).count("Running") == 1
    assert service.worker() != before


@pytest.mark.slow
def test_a_run_that_lost_its_worker_can_be_cancelled(
    service: TestedService, data_dir: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    run = service.start_training(data_dir, run_dir, epochs=500)
    service.wait_for_epoch(run_dir, 1)
    kill(service.worker())
    service.worker()
    assert service.prefect("flow-run", "cancel", run).returncode == 0
    assert service.wait_until_final(run) == "Cancelled"
    wait_for("the processes to end", lambda: not processes_naming(run_dir), seconds=15)
    assert newest(run_dir / "checkpoints") is not None


@pytest.mark.slow
def test_worker_and_run_killed_together(
    service: TestedService, data_dir: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    run = service.start_training(data_dir, run_dir, epochs=12)
    service.wait_for_epoch(run_dir, 2)
    process = service.process_of(run)
    kill(service.worker())
    kill(process)
    assert service.wait_until_final(run) == "Completed"
    names = service.history(run)
    assert names.count("Running") == 2
    assert "Crashed" in names
    assert "resuming from" in service.log(run)


@pytest.mark.slow
def test_a_killed_server_does_not_disturb_a_run(
    service: TestedService, data_dir: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    run = service.start_training(data_dir, run_dir, epochs=40)
    service.wait_for_epoch(run_dir, 1)
    kill(service.server())
    wait_for("the server to be back", service.api.healthy)
    assert service.wait_until_final(run) == "Completed"
    assert service.history(run).count("Running") == 1


@pytest.mark.slow
def test_down_saves_and_up_goes_on(service: TestedService, data_dir: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    run = service.start_training(data_dir, run_dir, epochs=20)
    service.wait_for_epoch(run_dir, 2)
    done = service.effnet("down")
    assert done.returncode == 0, done.stderr
    assert processes_naming(run_dir) == []
    assert newest(run_dir / "checkpoints") is not None
    service.up()
    assert service.wait_until_final(run) == "Completed"
    assert "resuming from" in service.log(run)


@pytest.mark.slow
def test_three_trainings_take_turns_on_one_slot_and_labelling_runs_meanwhile(
    service: TestedService, data_dir: Path, tmp_path: Path
) -> None:
    folders = {name: tmp_path / name for name in ("b0", "b1", "b2")}
    lengths = {"b0": 5000, "b1": 4, "b2": 4}
    runs = {
        name: service.start_training(data_dir, folder, epochs=lengths[name], name=name)
        for name, folder in folders.items()
        if name == "b0"
    }
    service.wait_for_epoch(folders["b0"], 1)
    for name in ("b1", "b2"):
        runs[name] = service.start_training(
            data_dir, folders[name], epochs=lengths[name], name=name
        )
    for name in ("b1", "b2"):
        wait_for(f"{name} in the queue", lambda run=runs[name]: "its turn" in service.log(run))

    images = tmp_path / "images"
    images.mkdir()
    for index in range(3):
        (images / f"{index}.png").write_bytes(encode(draw(seed=index)))
    weights = str(make_checkpoint(tmp_path / "model.ckpt"))
    parameters = {"folder": str(images), "weights": weights, "output": str(tmp_path / "labels")}
    labelling = service.start_run("batch-infer/batch-infer", parameters)
    assert service.wait_until_final(labelling) == "Completed"
    assert {service.state(run) for run in runs.values()} == {"Running"}
    assert [bool(processes_naming(path)) for path in folders.values()] == [True, False, False]

    service.prefect("flow-run", "cancel", runs["b0"])
    busiest = 0

    def idle() -> bool:
        nonlocal busiest
        busiest = max(busiest, sum(bool(processes_naming(path)) for path in folders.values()))
        return not any(service.api.run(run)["state_type"] == "RUNNING" for run in runs.values())

    wait_for("the end of all", idle)
    assert [service.wait_until_final(run) for run in runs.values()] == [
        *("Cancelled", "Completed", "Completed")
    ]
    assert busiest == 1


@pytest.mark.slow
def test_a_schedule_fires_on_its_minute(
    service: TestedService, source_dir: Path, data_dir: Path
) -> None:
    path = f"/deployments/{service.api.get('/deployments/name/stage/stage')['id']}/schedules"
    schedule = {
        "schedule": {"cron": "* * * * *", "timezone": "UTC"},
        "active": True,
        "parameters": {"source": str(source_dir), "out": str(data_dir)},
    }
    (made,) = service.api.post(path, [schedule])
    try:

        def fired() -> list[dict[str, Any]]:
            return [run for run in service.api.runs("COMPLETED") if run["auto_scheduled"]]

        run = wait_for("a scheduled run", fired)[0]
    finally:
        service.api.delete(f"{path}/{made['id']}")
    assert str(run["expected_start_time"])[17:19] == "00"
    assert late_s(run) > -2  # a worker takes a run a moment before it is due


def late_s(run: dict[str, Any]) -> float:
    """Seconds between the time that a run was due and its start."""
    due, started = (
        datetime.fromisoformat(str(run[key]).replace("Z", "+00:00"))
        for key in ("expected_start_time", "start_time")
    )
    return (started - due).total_seconds()


@pytest.mark.slow
def test_another_environment_and_its_watch(service: TestedService) -> None:
    done = service.effnet("deploy", "-e", "production")
    assert done.returncode == 0, done.stderr
    try:
        pool = service.api.get("/work_pools/production")
        assert pool["type"] == "kubernetes"
        template = read_json(ROOT / "deployments" / "kubernetes" / "work-pool.json")
        assert pool["base_job_template"]["job_configuration"] == template["job_configuration"]
        deployment = service.api.get("/deployments/name/stage/stage")
        assert deployment["work_pool_name"] == "production"
        assert deployment["job_variables"]["env"]["EFFNET_ENVIRONMENT"] == "production"
        body = {
            "parameters": {"source": "a", "out": "b"},
            "state": {"type": "CRASHED", "name": "Crashed", "message": "killed"},
        }
        run = service.api.post(f"/deployments/{deployment['id']}/create_flow_run", body)["id"]
        watch = service.start("watch", "-e", "production")
        try:
            wait_for("another try", lambda: service.state(run) in ("AwaitingRetry", "Late"))
        finally:
            watch.send_signal(signal.SIGINT)
            output = watch.communicate(timeout=30)
        assert watch.returncode == 130, output
        assert "crashed: now AwaitingRetry" in output[0]
        service.api.set_state(run, "CANCELLED", "Cancelled", "test")
    finally:
        service.up()
    assert service.api.get("/deployments/name/stage/stage")["work_pool_name"] == "local"
