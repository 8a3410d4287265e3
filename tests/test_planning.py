"""Plans for folders as people have them, and the rules a plan must keep whatever the folder."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unet_jax.planning import Statistics, describe, make_plan

GREY = ((10.0, 200.0),)


def folder(size, *, images=100, least=None, channels=1, dtype="uint8", ranges=None, pixels=(0.8, 0.2), found=None):
    height, width = size
    low = least or size
    return Statistics(
        images=images,
        height=(low[0], float(height), height),
        width=(low[1], float(width), width),
        channels=channels,
        dtype=dtype,
        ranges=ranges or GREY * channels,
        classes=("background", *(f"class {i}" for i in range(1, len(pixels)))),
        pixel_share=pixels,
        image_share=found or (1.0,) * len(pixels),
    )


ROADS = folder((400, 400), channels=3, pixels=(0.83, 0.17))
DEFECTS = folder((280, 110), images=400, least=(90, 80), pixels=(0.998, 0.002), found=(1.0, 0.3))
VESSELS = folder((584, 565), images=28, channels=3, pixels=(0.88, 0.12))
CRACKS = folder((448, 448), images=2000, channels=3, pixels=(0.97, 0.03))
SATELLITE = folder(
    (8000, 8000), images=5, channels=5, dtype="uint16", ranges=((200, 900), (3e2, 1e3), (1, 2), (0, 1e4), (5, 6)),
    pixels=(0.9, 0.07, 0.03),
)  # fmt: skip
MANY = folder((128, 128), images=300, channels=3, pixels=(0.5, 0.49, 0.01), found=(1.0, 0.9, 0.03))


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (ROADS, {"patch": 256, "batch": 8, "loss": "dice+ce", "centred": 0.33, "crops": 200, "balance": 0.0}),
        # sqrt(280 * 110) = 175.5, rounded up to a multiple of 16
        (
            DEFECTS,
            {"patch": 176, "widths": (16, 32, 64, 128, 256), "batch": 16, "loss": "tversky+focal", "centred": 0.67},
        ),
        # an epoch of 28 images, 2 crops each, would be 7 steps of 8
        (VESSELS, {"patch": 256, "crops": 200, "epochs": 100, "loss": "dice+ce"}),
        (CRACKS, {"patch": 256, "crops": 4000, "epochs": 10, "loss": "dice+ce", "centred": 0.33}),
        (SATELLITE, {"normalisation": "channel-percentile", "patch": 256, "centred": 0.67}),
        (MANY, {"patch": 128, "batch": 32, "loss": "dice+ce", "balance": 0.2}),
    ],
    ids=["roads", "defects", "vessels", "cracks", "satellite", "many classes"],
)
def test_plans_for_usual_folders(found, expected):
    plan = dataclasses.asdict(make_plan(found))
    assert {name: plan[name] for name in expected} == expected


def test_an_accelerator_gets_a_wider_network_and_larger_crops():
    plan = make_plan(
        dataclasses.replace(ROADS, height=(900, 1000.0, 1100), width=(900, 1000.0, 1100)), accelerator=True
    )
    assert (plan.patch, plan.widths[0], plan.batch) == (512, 64, 8)


def test_colours_keep_their_proportions_and_bands_do_not():
    assert make_plan(dataclasses.replace(ROADS, ranges=((0, 10), (0, 200), (0, 200)))).normalisation == "percentile"
    alike = dataclasses.replace(ROADS, dtype="uint16")
    assert make_plan(alike).normalisation == "percentile"
    apart = dataclasses.replace(alike, ranges=((0, 10), (0, 200), (0, 200)))
    assert make_plan(apart).normalisation == "channel-percentile"


def test_what_is_given_is_kept_and_the_rest_follows_from_it():
    plan = make_plan(ROADS, patch=64, widths=(4, 8), epochs=3, loss=None)
    assert (plan.patch, plan.widths, plan.epochs, plan.batch) == (64, (4, 8), 3, 32)
    assert plan.reasons["patch"] == plan.reasons["widths"] == "given"
    assert make_plan(DEFECTS, widths=(4, 8, 16)).patch == 176
    with pytest.raises(ValueError, match="patch 36 with 4 widths: give a multiple of 8, or fewer widths"):
        make_plan(ROADS, patch=36, widths=(1, 2, 3, 4))
    with pytest.raises(ValueError, match="a plan has no field patches"):
        make_plan(ROADS, patches=3)


@pytest.mark.parametrize(
    ("patch", "halved", "mend"),
    [
        (225, 0, "224 or 240"), (150, 1, "144 or 160"), (250, 1, "240 or 256"), (257, 0, "256 or 288"),
        (300, 2, "288 or 320"), (500, 2, "480 or 512"), (321, 0, "320 or 352"), (50, 1, "48 or 64"),
        (25, 0, "16 or 32"),
    ],
)  # fmt: skip
def test_a_named_patch_that_would_flatten_the_network_is_refused(patch, halved, mend):
    with pytest.raises(ValueError, match=f"patch {patch} can be halved {halved} times, .* give {mend}, or the widths"):
        make_plan(ROADS, patch=patch)
    for better in map(int, mend.split(" or ")):
        assert len(make_plan(ROADS, patch=better).widths) - 1 >= min(3, halved + 1)


# Halvings that leave 8 pixels or more: 24 -> 12; 36 -> 18 -> 9; 40 -> 20 -> 10; 72 -> 36 -> 18 -> 9; 200 -> ... -> 25
@pytest.mark.parametrize(("patch", "depth"), [(9, 0), (24, 1), (36, 2), (40, 2), (72, 3), (200, 3), (256, 4), (512, 4)])
def test_a_named_patch_that_is_deep_enough_for_its_size_is_taken(patch, depth):
    assert len(make_plan(ROADS, patch=patch).widths) == depth + 1
    assert make_plan(ROADS, patch=225, widths=(16,)).widths == (16,)


def test_every_choice_is_told_with_its_reason():
    plan = make_plan(DEFECTS)
    lines = describe(plan)
    assert len(lines) == len(dataclasses.fields(plan)) - 1
    assert lines[0].strip().startswith("patch: 176; the median image has 280×110 pixels")
    assert any("class 1, the rarest class, is 0.2 % of the pixels" in line for line in lines)
    assert any("widths: 16 32 64 128 256; 4 down-samplings leave 11×11" in line for line in lines)


def test_class_0_counts_like_any_other_where_it_is_no_background():
    fields = folder((128, 128), channels=3, pixels=(0.005, 0.5, 0.495), found=(0.1, 1.0, 1.0))
    plan = make_plan(fields)
    assert (plan.loss, plan.balance) == ("dice+ce", 0.0)
    named = dataclasses.replace(fields, classes=("car", "road", "house"), background=None)
    plan = make_plan(named)
    assert (plan.loss, plan.balance) == ("tversky+focal", 0.2)
    assert plan.reasons["loss"].startswith("car, the rarest class, is 0.5 % of the pixels")
    assert plan.reasons["balance"].startswith("car is in 10 % of the images")


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 20_000), st.integers(1, 20_000)),
    images=st.integers(1, 5000),
    share=st.floats(0, 1),
    accelerator=st.booleans(),
)
def test_whatever_the_folder_the_plan_can_be_trained(size, images, share, accelerator):
    plan = make_plan(folder(size, images=images, pixels=(1 - share, share)), accelerator=accelerator)
    assert plan.patch % 2 ** (len(plan.widths) - 1) == 0
    assert 32 <= plan.patch <= 512
    assert plan.batch >= 2
    assert plan.crops >= images
    assert plan.epochs >= 10
    assert 0 <= plan.centred < 1
