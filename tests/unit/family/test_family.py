"""The table of variants and the arithmetic that turns a row into a network."""

from __future__ import annotations

import itertools

import pytest

from effnet_core.errors import ConfigError
from effnet_core.family.scaling import cost, drop_path_rates, expand, round_channels, round_repeats
from effnet_core.family.variants import VARIANTS, variant

B0_TO_B7 = {
    # width, depth, image_size, drop_rate, crop_pct, blocks, head, trainable parameters
    "efficientnet_b0": (1.0, 1.0, 224, 0.2, 0.875, 16, 1280, 5_288_548),
    "efficientnet_b1": (1.0, 1.1, 240, 0.2, 0.882, 23, 1280, 7_794_184),
    "efficientnet_b2": (1.1, 1.2, 260, 0.3, 0.890, 23, 1408, 9_109_994),
    "efficientnet_b3": (1.2, 1.4, 300, 0.3, 0.904, 26, 1536, 12_233_232),
    "efficientnet_b4": (1.4, 1.8, 380, 0.4, 0.922, 32, 1792, 19_341_616),
    "efficientnet_b5": (1.6, 2.2, 456, 0.4, 0.934, 39, 2048, 30_389_784),
    "efficientnet_b6": (1.8, 2.6, 528, 0.5, 0.942, 45, 2304, 43_040_704),
    "efficientnet_b7": (2.0, 3.1, 600, 0.5, 0.949, 55, 2560, 66_347_960),
}


@pytest.mark.parametrize("name", B0_TO_B7)
def test_the_table_of_the_paper(name: str) -> None:
    row = variant(name)
    architecture = expand(row)
    assert (
        row.width_mult,
        row.depth_mult,
        row.image_size,
        row.drop_rate,
        row.crop_pct,
        len(architecture.blocks),
        architecture.head_channels,
        cost(row).parameters,
    ) == B0_TO_B7[name]


RELATIVES = {
    # image_size, drop_rate, crop_pct, blocks, head, trainable parameters, giga multiply-adds
    "efficientnet_lite0": (224, 0.2, 0.875, 16, 1280, 4_652_008, 0.385),
    "efficientnet_lite1": (240, 0.2, 0.882, 21, 1280, 5_416_680, 0.600),
    "efficientnet_lite2": (260, 0.3, 0.890, 21, 1280, 6_092_072, 0.860),
    "efficientnet_lite3": (280, 0.3, 0.897, 24, 1280, 8_197_096, 1.383),
    "efficientnet_lite4": (300, 0.3, 0.904, 30, 1280, 13_006_568, 2.553),
    # torchvision states 8.366, 24.582 and 56.080 for these three
    "efficientnet_v2_s": (384, 0.2, 1.0, 40, 1280, 21_458_488, 8.366),
    "efficientnet_v2_m": (480, 0.3, 1.0, 57, 1280, 54_139_356, 24.582),
    "efficientnet_v2_l": (480, 0.4, 1.0, 79, 1280, 118_515_272, 56.080),
}


@pytest.mark.parametrize("name", RELATIVES)
def test_the_tables_of_lite_and_v2(name: str) -> None:
    row = variant(name)
    architecture, size = expand(row), cost(row)
    assert (
        row.image_size,
        row.drop_rate,
        row.crop_pct,
        len(architecture.blocks),
        architecture.head_channels,
        size.parameters,
        round(size.multiply_adds / 1e9, 3),
    ) == RELATIVES[name]


def test_lite_has_no_gates_and_fixed_ends() -> None:
    row = variant("efficientnet_lite4")
    architecture = expand(row)
    assert {block.squeeze_channels for block in architecture.blocks} == {0}
    assert architecture.stem_channels == 32  # 1.4 times 32 would be 48
    assert [block.stage for block in architecture.blocks].count(0) == 1
    assert [block.stage for block in architecture.blocks].count(6) == 1
    assert row.activation == "relu6"
    assert row.mean == pytest.approx((127 / 255,) * 3)
    assert row.std == pytest.approx((128 / 255,) * 3)


def test_v2_gates_only_what_is_not_fused() -> None:
    architecture = expand(variant("efficientnet_v2_s"))
    assert architecture.stem_channels == 24
    assert [block.op for block in architecture.blocks] == ["fused"] * 10 + ["mb"] * 30
    assert all((block.squeeze_channels > 0) == (block.op == "mb") for block in architecture.blocks)
    assert architecture.blocks[10].squeeze_channels == 64 // 4
    sizes = [variant(f"efficientnet_v2_{size}").train_size for size in "sml"]
    assert sizes == [300, 384, 384]


def test_the_family_is_the_tables_and_hidden_rows_for_tests() -> None:
    public = [row.name for row in VARIANTS.values() if not row.hidden]
    assert public == [*B0_TO_B7, *RELATIVES]
    assert [row.name for row in VARIANTS.values() if row.hidden] == [
        "efficientnet_tiny",
        "efficientnet_tiny_one",
        "efficientnet_tiny_lite",
        "efficientnet_tiny_v2",
    ]


@pytest.mark.parametrize(
    ("name", "giga"),
    list(zip(B0_TO_B7, (0.386, 0.687, 0.994, 1.827, 4.394, 10.266, 19.068, 37.746), strict=True)),
)
def test_multiply_adds_are_those_of_public_counters(name: str, giga: float) -> None:
    """The paper says 0.39, 0.70, 1.0, 1.8, 4.2, 9.9, 19 and 37; torchvision lists these (B2 at 288 px)."""
    assert cost(variant(name)).multiply_adds / 1e9 == pytest.approx(giga, abs=0.0005)


def test_cost_follows_classes_and_image_size() -> None:
    row = variant("efficientnet_b0")
    assert cost(row).parameters - cost(row, num_classes=10).parameters == 990 * 1281
    assert cost(row, image_size=448).multiply_adds > 3.9 * cost(row).multiply_adds
    assert cost(row, image_size=448).parameters == cost(row).parameters


def test_b0_blocks() -> None:
    blocks = expand(variant("efficientnet_b0")).blocks
    assert expand(variant("efficientnet_b0")).stem_channels == 32
    assert [block.out_channels for block in blocks] == (
        [16] + [24] * 2 + [40] * 2 + [80] * 3 + [112] * 3 + [192] * 4 + [320]
    )
    assert [i for i, block in enumerate(blocks) if block.stride == 2] == [1, 3, 5, 11]
    assert [i for i, block in enumerate(blocks) if not block.residual] == [0, 1, 3, 5, 8, 11, 15]
    assert [i for i, block in enumerate(blocks) if not block.expands] == [0]
    assert blocks[0].squeeze_channels == 8  # a quarter of the block's input, not of its inner width
    assert blocks[1].squeeze_channels == 4


@pytest.mark.parametrize("name", VARIANTS)
def test_blocks_are_chained(name: str) -> None:
    architecture = expand(variant(name))
    blocks = architecture.blocks
    assert blocks[0].in_channels == architecture.stem_channels
    assert all(a.out_channels == b.in_channels for a, b in itertools.pairwise(blocks))


@pytest.mark.parametrize(
    ("channels", "width", "expected"),
    [
        (32, 1.0, 32),
        (32, 1.1, 32),  # 35.2 is nearer to 32
        (16, 1.1, 16),
        (80, 1.1, 88),
        (1280, 1.1, 1408),
        (24, 1.2, 32),  # 28.8: nearest is 32 (half goes up)
        (4, 1.0, 8),  # never below 8
        (8, 1.4, 16),  # 11.2: 8 would keep less than 90 %
        (11, 1.0, 16),
        (12, 1.0, 16),
        (17, 1.0, 16),  # 94 % kept
    ],
)
def test_channels_round_to_eights_and_keep_nine_tenths(
    channels: int, width: float, expected: int
) -> None:
    rounded = round_channels(channels, width)
    assert rounded == expected
    assert rounded % 8 == 0
    assert rounded >= 0.9 * channels * width


@pytest.mark.parametrize(
    ("repeats", "depth", "expected"), [(1, 1.0, 1), (1, 1.1, 2), (4, 2.2, 9), (3, 3.1, 10)]
)
def test_repeats_round_up(repeats: int, depth: float, expected: int) -> None:
    assert round_repeats(repeats, depth) == expected


def test_drop_path_grows_linearly_from_nothing() -> None:
    rates = drop_path_rates(16, 0.2)
    assert rates[0] == 0.0
    assert rates[8] == pytest.approx(0.1)
    assert rates[15] == pytest.approx(0.2 * 15 / 16)
    assert drop_path_rates(3, 0.0) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ("efficientnet_b9", "did you mean 'efficientnet_b"),
        ("efficentnet_b3", "did you mean 'efficientnet_b3'?"),
        ("b0", "known: efficientnet_b0, "),
    ],
)
def test_an_unknown_variant_names_the_nearest(wrong: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        variant(wrong)
    assert repr(wrong) in str(caught.value)
    assert hint in str(caught.value)
    assert "tiny" not in str(caught.value)
