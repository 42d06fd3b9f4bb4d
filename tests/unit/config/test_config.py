"""Settings: what is refused and in which words, what wins over what, and that nothing changes later."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from effnet_core.config.load import (
    CONFIG_NAME,
    by_section,
    leaf_keys,
    load_config,
    meanings,
    read_config,
    write_config,
)
from effnet_core.config.recipes import recipe_names
from effnet_core.config.schema import RunConfig
from effnet_core.errors import ConfigError

TINY = """
model: {variant: efficientnet_tiny}
data: {global_batch_size: 8}
schedule: {warmup_epochs: 1}
train: {epochs: 4, seed: 3}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


def refusal(*overrides: str, recipe: str | Path | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(recipe, overrides)
    message = str(caught.value)
    assert "\n" not in message
    assert "pydantic" not in message
    return message


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", leaf_keys())
def test_a_slip_in_any_key_names_the_right_one(key: str) -> None:
    section, leaf = key.split(".")
    slip = f"{section}.{leaf}x"
    assert refusal(f"{slip}=1").startswith(f"unknown setting '{slip}'; did you mean '{key}'?")


@pytest.mark.parametrize("section", RunConfig.model_fields)
def test_a_slip_in_any_section_names_the_right_one(section: str) -> None:
    assert f"did you mean '{section}'?" in refusal(f"{section}x.epochs=1")


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("model.epochs", "train.epochs"),  # a known key in another section
        ("train.min_lr", "schedule.min_lr"),
        ("optim.mometum", "optim.momentum"),
        ("data.batch_size", "data.global_batch_size"),
    ],
)
def test_the_nearest_key_may_be_in_another_section(wrong: str, right: str) -> None:
    assert f"did you mean '{right}'?" in refusal(f"{wrong}=1")


def test_a_key_without_its_section_names_the_section(tmp_path: Path) -> None:
    path = tmp_path / "flat.yaml"
    path.write_text("epochs: 5\n")
    assert "did you mean 'train.epochs'?" in refusal(recipe=path)


def test_an_unknown_recipe_names_the_nearest(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "digits.yaml").write_text("train: {epochs: 9}\n")
    monkeypatch.setattr("effnet_core.config.recipes.RECIPES_DIR", tmp_path)
    monkeypatch.setattr("effnet_core.config.recipes.PAPER", ())
    message = refusal(recipe="digit")
    assert message == (
        "recipe 'digit' is unknown; did you mean 'digits'? "
        "(known: digits; or give a path that ends in .yaml)"
    )
    assert load_config("digits").train.epochs == 9


def test_an_unknown_variant_names_the_nearest() -> None:
    message = refusal("model.variant=efficientnet-b3")
    assert "model.variant='efficientnet-b3' is unknown; did you mean 'efficientnet_b3'?" in message
    assert message.count("model.variant") == 1


# --- files ---------------------------------------------------------------------------------------


def test_a_recipe_file_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    assert refusal(recipe=path) == f"recipe file {path} does not exist"
    path.write_text("train: [")
    assert refusal(recipe=path).startswith(f"recipe file {path} is not valid YAML")
    path.write_text("- 1\n")
    assert "must hold sections" in refusal(recipe=path)
    path.write_bytes(b"\xff\xfe\xfa")
    assert refusal(recipe=path).startswith(f"recipe file {path} is not valid YAML")
    folder = tmp_path / "folder.yaml"
    folder.mkdir()
    assert refusal(recipe=folder).startswith(f"recipe file {folder} cannot be read")


def test_a_section_must_be_a_section(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("train: 5\n")
    assert refusal(recipe=path) == "train must be a section with keys of its own, not 5"


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_loads(name: str) -> None:
    config = load_config(name)
    assert config != RunConfig()
    assert config.per_device_batch_size * config.runtime.world_size == config.data.global_batch_size


def test_what_recipes_share_is_no_recipe() -> None:
    assert len(recipe_names()) == len(set(recipe_names()))
    assert "digits" in recipe_names()
    assert not [name for name in recipe_names() if name.startswith("_")]
    for name in ("_imagenet2012", "_google", "efficientnet_b8_imagenet2012"):
        assert f"recipe {name!r} is unknown" in refusal(recipe=name)


def test_options_win_over_overrides_and_are_not_read_as_yaml(tmp_path: Path) -> None:
    options = by_section({"model.weights": "2024", "train.epochs": None, "optim.base_lr": 1e-5 / 3})
    config = load_config(
        overrides=["model.weights=x", "train.epochs=30"],
        values={"train": {"epochs": 9}, "data": {"workers": 2}},
        options=options,
    )
    assert (config.model.weights, config.train.epochs, config.data.workers) == ("2024", 30, 2)
    assert config.optim.base_lr == 1e-5 / 3
    assert read_config(write_config(config, tmp_path)) == config


# --- values --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epochs=abc", "train.epochs='abc' is not allowed: it should be a valid integer"),
        ("train.epochs=2.5", "train.epochs=2.5 is not allowed"),
        ("train.epochs=0", "it should be greater than or equal to 1"),
        ("train.epochs=true", "train.epochs: must not be a boolean; got True"),
        ("train.epochs=", "train.epochs=None is not allowed"),
        ("optim.base_lr=nan", "optim.base_lr=nan is not allowed: it should be a finite number"),
        ("optim.base_lr=inf", "it should be a finite number"),
        ("optim.base_lr=0", "it should be greater than 0"),
        ("optim.name=adam", "it should be 'rmsprop', 'sgd' or 'adamw'"),
        ("schedule.name=liner", "it should be 'cosine', 'exponential', 'natural_exp', 'inverse', "),
        ("schedule.milestones=[5]", "belong to piecewise_constant, not to cosine; leave them out"),
        (
            "train.budget=30 minuts",
            "such as '30 minutes'; got '30 minuts'; did you mean 'minutes'?",
        ),
        ("train.budget=90", "must be a number above 0 and one of epochs, steps, images, minutes"),
        ("train.budget=-1 steps", "must be a number above 0"),
        ("data.progressive_sizes=[8]", "it should be greater than or equal to 16"),
        ("train.class_weights=[1,0]", "it should be greater than 0"),
        ("optim.momentum=1", "it should be less than 1"),
        ("runtime.pin_cores=2", "runtime.pin_cores=2 is not allowed: it should be a valid boolean"),
        ("runtime.pin_cores=maybe", "it should be a valid boolean"),
        ("runtime.device=cpu", "it should be 'CPU', 'GPU' or 'Ascend'"),
        ("data.mean=[1,2]", "data.mean"),
        ("data.mean=0.5", "it should be a valid tuple"),
        ("data.mean=[.nan,0,0]", "it should be a finite number"),
        ("data.std=[0,1,1]", "data.std: must be positive, all three; got (0.0, 1.0, 1.0)"),
        ("data.crop_scale=[0.9,0.1]", "data.crop_scale: needs 0 < low <= high; got (0.9, 0.1)"),
        ("data.crop_scale=[0.5,1.5]", "data.crop_scale: is a share of the area, at most 1"),
        ("data.crop_ratio=[0,1]", "data.crop_ratio: needs 0 < low <= high; got (0.0, 1.0)"),
        ("data.image_size=8", "it should be greater than or equal to 16"),
        ("storage.name=Bad Name", "should match pattern"),
    ],
)
def test_a_wrong_value_is_refused_with_key_value_and_what_is_allowed(
    override: str, message: str
) -> None:
    assert message in refusal(override)


def test_two_problems_are_both_named() -> None:
    message = refusal("train.epochs=0", "optim.name=adam")
    assert "train.epochs" in message
    assert "optim.name" in message


@pytest.mark.parametrize("text", ["epochs=3", "train=3", "train.epochs", "=3", "train.=3"])
def test_an_override_has_one_form(text: str) -> None:
    assert "is not of the form section.key=value, such as train.epochs=20" in refusal(text)


def test_an_override_that_is_no_yaml() -> None:
    assert "has an unreadable value" in refusal("data.mean=[1, 2")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("false", False), ("true", True), ("False", False), ("no", False), ("0", False), ("1", True)],
)
def test_a_boolean_override_is_a_boolean(text: str, expected: bool) -> None:
    value = load_config(overrides=[f"runtime.pin_cores={text}"]).runtime.pin_cores
    assert value is expected


@pytest.mark.parametrize("text", ["1e-3", "0.001", "1E-3", "1.0e-3"])
def test_exponents_are_numbers(text: str) -> None:
    assert load_config(overrides=[f"optim.weight_decay={text}"]).optim.weight_decay == 0.001


def test_lists_paths_and_nothing() -> None:
    config = load_config(
        overrides=["data.mean=[0.1, 0.2, 0.3]", "model.weights=a/b.ckpt", "model.num_classes=null"]
    )
    assert config.data.mean == (0.1, 0.2, 0.3)
    assert config.model.weights == "a/b.ckpt"
    assert config.model.num_classes is None


def test_text_may_hold_an_equals_sign() -> None:
    assert load_config(overrides=["storage.root=s3://a?b=c"]).storage.root == "s3://a?b=c"


# --- rules across sections -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch", "world", "choices"), [(250, 8, "248 or 256"), (3, 4, "4"), (257, 2, "256 or 258")]
)
def test_the_batch_divides_by_the_ranks(batch: int, world: int, choices: str) -> None:
    config = load_config(
        overrides=[f"data.global_batch_size={batch}", f"runtime.world_size={world}"]
    )
    with pytest.raises(ConfigError) as refused:
        _ = config.per_device_batch_size
    assert str(refused.value) == (
        f"global_batch_size={batch} does not divide by world_size={world}; "
        f"use {choices} (data.global_batch_size)"
    )


def test_warm_up_ends_before_the_run() -> None:
    assert refusal("train.epochs=5") == (
        "warmup_epochs=5 does not end before the run does (epochs=5); "
        "lower schedule.warmup_epochs or raise train.epochs"
    )
    assert load_config(overrides=["train.epochs=5", "schedule.warmup_epochs=4.5"])


# --- precedence ----------------------------------------------------------------------------------


def test_defaults_lose_to_recipe_loses_to_values_loses_to_overrides(recipe: Path) -> None:
    assert load_config(recipe).train.seed == 3
    assert load_config(recipe).train.log_every_steps == RunConfig().train.log_every_steps
    assert load_config(recipe, values={"train": {"seed": 4}}).train.seed == 4
    assert load_config(recipe, ["train.seed=5"], values={"train": {"seed": 4}}).train.seed == 5
    assert load_config(recipe, ["train.seed=5", "train.seed=6"]).train.seed == 6


def test_merging_leaves_the_other_keys_of_a_section_and_the_input_alone(recipe: Path) -> None:
    values = {"train": {"seed": 4}}
    config = load_config(recipe, ["train.seed=9"], values=values)
    assert config.train.epochs == 4
    assert values == {"train": {"seed": 4}}


# --- what a config gives -------------------------------------------------------------------------


def test_sizes_and_rates_follow_the_variant_unless_set() -> None:
    config = load_config(overrides=["model.variant=efficientnet_b4"])
    assert (config.image_size, config.crop_pct, config.drop_rate) == (380, 0.922, 0.4)
    config = load_config(
        overrides=[
            "model.variant=efficientnet_b4",
            "data.image_size=64",
            "data.crop_pct=1",
            "model.drop_rate=0",
        ]
    )
    assert (config.image_size, config.crop_pct, config.drop_rate) == (64, 1.0, 0.0)


def test_derived_numbers() -> None:
    config = load_config(
        overrides=["data.global_batch_size=512", "runtime.world_size=4", "optim.base_lr=0.01"]
    )
    assert config.per_device_batch_size == 128
    assert config.peak_lr == pytest.approx(0.02)


def test_round_trip_through_the_run_folder(tmp_path: Path) -> None:
    config = load_config(
        overrides=[
            "optim.base_lr=1e-5",
            "data.mean=[0.1,0.2,0.3]",
            "model.weights=runs/ä b/model.ckpt",
            "runtime.pin_cores=false",
        ],
        values={"storage": {"root": "1e-3", "name": "2024"}},  # text that looks like numbers
    )
    path = write_config(config, tmp_path)
    assert path == tmp_path / CONFIG_NAME
    assert read_config(path) == config


def test_the_written_file_holds_every_key(tmp_path: Path) -> None:
    text = write_config(RunConfig(), tmp_path).read_text()
    assert all(f"  {key.split('.')[1]}:" in text for key in leaf_keys())


def test_a_config_is_frozen() -> None:
    config = RunConfig()
    with pytest.raises(ValidationError):
        config.train.epochs = 3  # type: ignore[misc]
    with pytest.raises(ValidationError):
        config.train = config.train  # type: ignore[misc]


def test_every_setting_has_a_sentence() -> None:
    told = meanings()
    assert told.keys() == leaf_keys().keys()
    assert not [key for key, text in told.items() if not text]


def pieces(milestones: str, rates: str) -> str:
    return refusal(
        "schedule.name=piecewise_constant",
        f"schedule.milestones={milestones}",
        f"schedule.rates={rates}",
    )


def test_milestones_and_rates_must_be_as_many_and_rise() -> None:
    assert pieces("[10,20,30]", "[0.1,0.01]").startswith(
        "schedule.milestones has 3 entries and schedule.rates 2; piecewise_constant needs as many"
    )
    assert "at least one" in pieces("[]", "[]")
    assert "schedule.milestones=[20, 10] must rise" in pieces("[20,10]", "[0.1,0.01]")


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("2 epochs", 20),
        ("2.5 epochs", 25),
        ("17 steps", 17),
        ("1 step", 1),
        ("100 images", 13),
        ("1e3 images", 125),
        ("3 minutes", None),
    ],
)
def test_a_budget_in_every_unit(text: str, steps: int | None) -> None:
    config = load_config(None, [f"train.budget={text}", "schedule.warmup_epochs=0"])
    assert config.train.length.steps(steps_per_epoch=10, batch_size=8) == steps


@pytest.mark.parametrize(
    ("settings", "dtype"),
    [
        (["runtime.device=CPU"], "fp16"),
        (["runtime.device=GPU"], "fp16"),
        (["runtime.device=Ascend"], "bf16"),
        (["runtime.device=Ascend", "model.variant=efficientnet_lite0"], "fp16"),
        (["runtime.device=Ascend", "train.amp_level=O3"], "fp16"),
        (["runtime.device=Ascend", "train.amp_dtype=fp16"], "fp16"),
    ],
)
def test_the_sixteen_bits_suit_device_and_layers(settings: list[str], dtype: str) -> None:
    assert load_config(None, ["train.amp_level=O2", *settings]).amp_dtype == dtype


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["train.amp_level=O2"], "bf16 cannot be computed by MindSpore on runtime.device=CPU"),
        (
            ["runtime.device=GPU", "train.amp_level=O2"],
            "runtime.device=GPU; use fp16, or an Ascend",
        ),
        (["train.amp_level=O3", "runtime.device=Ascend"], "BatchNorm and ReLU6 know fp16 only"),
        (
            ["train.amp_level=O2", "runtime.device=Ascend", "model.variant=efficientnet_lite0"],
            "train.amp_level=O2 and efficientnet_lite0",
        ),
        (
            ["train.amp_level=O3", "runtime.device=GPU"],
            "on runtime.device=GPU; use O2",
        ),
        (["train.amp_level=O1"], "it should be 'O0', 'O2' or 'O3'"),
    ],
)
def test_precision_that_cannot_be_had_is_refused(settings: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, ["train.amp_dtype=bf16", *settings])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["runtime.world_size=3"], "world_size=3 must be a multiple of the 2 runtime.hosts"),
        (["runtime.master_port=0"], "runtime.hosts needs runtime.master_port"),
        (["runtime.host_index=2"], "host_index=2 is none of the 2 runtime.hosts"),
        (["runtime.hosts=[a, a]"], "names a host twice"),
        (["runtime.hosts=[]", "runtime.host_index=1"], "host_index=1 is none of the 0"),
    ],
)
def test_hosts_that_do_not_fit_are_refused(settings: list[str], message: str) -> None:
    hosts = ["runtime.hosts=[a, b]", "runtime.world_size=4", "runtime.master_port=8118"]
    assert load_config(None, hosts).runtime.local_world_size == 2
    with pytest.raises(ConfigError) as caught:
        load_config(None, [*hosts, *settings])
    assert message in str(caught.value)


def test_parts_of_a_batch_must_divide_it() -> None:
    config = load_config(
        None, ["data.global_batch_size=30", "runtime.world_size=2", "optim.accumulate_steps=4"]
    )
    with pytest.raises(ConfigError) as caught:
        _ = config.per_device_batch_size
    assert str(caught.value) == (
        "global_batch_size=30 does not divide by world_size=2 times accumulate_steps=4; "
        "use 24 or 32 (data.global_batch_size)"
    )
