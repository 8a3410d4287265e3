import jax.numpy as jnp
import numpy as np
import pytest

from unet_jax import metrics, parallel
from unet_jax.data import Normalised
from unet_jax.evaluation import evaluate
from unet_jax.training import State

STATE = State(0, {}, {}, {}, 0)
SIZES = [(16, 16), (23, 40), (9, 12), (33, 17)]


class Images:
    """Images of several sizes whose label is 1 where the image is bright; some pixels are not to be counted."""

    ids, channels, label_kind, columns = tuple("abcd"), 1, "binary", {}

    def __len__(self):
        return len(SIZES)

    def __getitem__(self, i):
        rng = np.random.default_rng(i)
        image = np.where(rng.random(SIZES[i]) > 0.5, 255, 0).astype(np.uint8)[..., None]
        mask = np.ones(SIZES[i], bool)
        mask[0, :3] = False
        return {"image": image, "label": (image[..., 0] > 0).astype(np.int32), "mask": mask, "id": self.ids[i]}


def threshold(state, batch):
    """An evaluation step that answers the bright pixels."""
    bright = batch["image"][..., 0] > 0
    logits = jnp.stack([~bright, bright], -1).astype(jnp.float32)
    return {
        "loss": jnp.mean(batch["label"], (1, 2), jnp.float32),
        "counts": metrics.confusion(logits, batch["label"], batch["mask"], num_classes=2),
        "prediction": bright.astype(jnp.uint8),
    }


def test_whole_images_come_back_and_every_pixel_counts_once():
    source, mesh = Normalised(Images()), parallel.data_mesh(4)
    result = evaluate(threshold, STATE, source, patch=(16, 16), batch=4, margin=3, mesh=mesh, keep_predictions=True)
    for i in range(len(SIZES)):
        sample = source[i]
        np.testing.assert_array_equal(result.predictions[i], sample["label"])
        positive = int(sample["label"][sample["mask"]].sum())
        assert result.counts[i].tolist() == [[sample["mask"].sum() - positive, 0], [0, positive]]


def test_nothing_to_evaluate():
    class Nothing(Images):
        ids = ()

        def __len__(self):
            return 0

    with pytest.raises(ValueError, match="holds no image"):
        evaluate(threshold, STATE, Nothing(), patch=(16, 16), batch=4, margin=3, mesh=parallel.data_mesh(4))
