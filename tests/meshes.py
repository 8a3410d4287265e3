"""Started by test_parallel.py on eight devices: the losses of 20 steps of SGD on each mesh, as JSON."""

import json
import sys

import jax
import numpy as np
import optax

from unet_jax import augment, losses, parallel, targets, training
from unet_jax.models import UNet

BATCH, SIZE, STEPS = 8, 16, 20

MODEL = UNet((4, 8), norm="batch", dropout=0.2)
OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), training.scheduled(0.1, 100, warmup=1))


def batch(step):
    """Images whose masks are uneven: a third of one, none of another, all of the rest."""
    rng = np.random.default_rng(step)
    label = (rng.random((BATCH, SIZE, SIZE)) > 0.6).astype(np.int32)
    image = np.where(label > 0, 180, 60)[..., None] + rng.integers(0, 40, (*label.shape, 1))
    mask = np.ones(label.shape, bool)
    mask[0, : SIZE // 3], mask[5] = False, False
    return {"image": image.astype(np.uint8), "label": label, "mask": mask}


def curve(words, changes, fresh):
    mesh = parallel.make_mesh(words, BATCH, SIZE)
    step, everywhere = (
        training.make_train_step(MODEL, OPTIMIZER, losses.dice, target=targets.foreground, augment=changes),
        parallel.replicated(mesh),
    )
    step = jax.jit(step, out_shardings=everywhere)
    state = jax.device_put(fresh, everywhere)
    seen = []
    for i in range(STEPS):
        shards = parallel.shard(batch(i), mesh)
        state, out = step(state, shards)
        seen.append(float(out["loss"]))
    statistics = [float(np.abs(leaf).sum()) for leaf in jax.tree.leaves(state.model_state)]
    return {
        "losses": seen,
        "statistics": statistics,
        "rows": [s.data.shape[:2] for s in shards["image"].addressable_shards],
    }


fresh = training.init_state(MODEL, OPTIMIZER, (SIZE, SIZE, 1), seed=0)
changes = augment.strong() if sys.argv[1] == "augmented" else None
print(json.dumps({words: curve(words, changes, fresh) for words in sys.argv[2:]}))
