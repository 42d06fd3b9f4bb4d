"""YAML that costs more than its size, and what is not YAML, end in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from effnet_core.config.load import load_config
from effnet_core.config.yaml_text import parse_yaml
from effnet_core.errors import ConfigError

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (LAUGHS, "its aliases stand for more than 100,000 values"),
        ("&a [*a]", "it contains itself"),
        ("[" * 700, "it is nested too deeply"),
        ("2026-02-30", "day is out of range"),
        ("x: [", "while parsing"),
        ("a: 1\n---\nb: 2", "expected a single document"),
    ],
)
def test_what_is_refused(text: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(yaml.YAMLError, match=reason):
        parse_yaml(text)
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(ConfigError, match="is not valid YAML") as caught:
        load_config(tmp_path / "recipe.yaml")
    assert len(str(caught.value)) < 1000


def test_aliases_that_people_write_are_read() -> None:
    assert parse_yaml("a: &a {x: 1}\nb: {<<: *a, y: 2}\n")["b"] == {"x": 1, "y": 2}
    assert parse_yaml("") is None
    assert parse_yaml("[1, 2.5, yes, null]") == [1, 2.5, True, None]


def test_a_message_does_not_repeat_a_large_value(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(f"[{'1, ' * 5_000}]")
    with pytest.raises(ConfigError, match=r"must hold sections .* characters\)") as caught:
        load_config(tmp_path / "recipe.yaml")
    assert len(str(caught.value)) < 1000
    wrong = ", ".join(["x"] * 5_000)
    for override in (f"data.progressive_sizes=[{wrong}]", f"train.epochs=[{wrong}]", "x" * 10**6):
        with pytest.raises(ConfigError) as caught:
            load_config(None, [override])
        assert len(str(caught.value)) < 5000
