"""Patches and strides for volumes as scanners give them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unet_jax.volume_planning import SMALLEST, plan_strides, plan_volumes

ONE = (1.0, 1.0, 1.0)


def test_a_whole_head_is_halved_alike():
    plan = plan_volumes((140, 170, 140), ONE, depth=4, most=(128, 128, 128))
    assert plan.patch == (128, 128, 128)
    assert plan.strides == ((2, 2, 2),) * 4
    assert plan.reasons["patch"] == "the median volume has 140×170×140 voxels, not less than the preset's 128×128×128"
    assert "8×8×8 at the bottom" in plan.lines()[1]


def test_a_thin_volume_keeps_its_planes():
    # 33 planes: 33 → 16 → 8 → 4 are three halvings, so a patch of 32; 96 → 48 → 24 → 12 → 6.
    plan = plan_volumes((150, 180, 33), ONE, depth=4, most=(96, 96, 96))
    assert plan.patch == (96, 96, 32)
    assert plan.strides == ((2, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 1))


def test_thick_slices_are_halved_when_the_plane_has_caught_up():
    # 5 mm against 1: the plane becomes 2 and 4 mm, and 5 is below twice 4.
    plan = plan_volumes((200, 200, 24), (1.0, 1.0, 5.0), depth=3, most=(96, 96, 96))
    assert plan.strides == ((2, 2, 1), (2, 2, 1), (2, 2, 2))
    assert plan.patch == (96, 96, 24)
    assert plan_strides((96, 96, 24), (1.0, 1.0, 2.0), 1) == ((2, 2, 1),)
    assert plan_strides((96, 96, 24), (1.0, 1.0, 1.9), 1) == ((2, 2, 2),)


def test_what_the_user_gives_is_kept_or_refused_with_a_mend():
    given_patch = plan_volumes((150, 180, 150), ONE, depth=3, most=(96, 96, 96), patch=(64, 64, 24))
    assert (given_patch.patch, given_patch.reasons["patch"]) == ((64, 64, 24), "given")
    with pytest.raises(ValueError, match=r"--patch 64×64×30 .*: give 64×64×28 or 64×64×32"):
        plan_volumes((150, 180, 150), ONE, depth=3, most=(96, 96, 96), patch=(64, 64, 30))
    with pytest.raises(ValueError, match=r"patch of 12×12×9 voxels is too small for 3 down-samplings, of which 2"):
        plan_volumes((12, 12, 9), ONE, depth=3, most=(96, 96, 96))


@given(
    size=st.tuples(*[st.integers(8, 600)] * 3),
    spacing=st.tuples(*[st.floats(0.2, 8)] * 3),
    depth=st.integers(1, 4),
)
def test_every_plan_can_be_built(size, spacing, depth):
    try:
        plan = plan_volumes(size, spacing, depth=depth, most=(128, 128, 128))
    except ValueError:
        return
    for axis, n in enumerate(plan.patch):
        assert 0 < n <= min(size[axis], 128)
        for strides in plan.strides:
            assert n % strides[axis] == 0
            n //= strides[axis]
        assert n >= SMALLEST or all(s[axis] == 1 for s in plan.strides)
