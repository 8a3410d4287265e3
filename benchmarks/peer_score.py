"""PyTorch's side of `time_to_score.py`, in its best plain form; a process of its own that `peer.PyTorch` drives.

Run as a script, beside `peer_pytorch.py`: needs PyTorch and numpy only.
"""

from peer_pytorch import UNet, dice, serve  # first, for it says when PyTorch is missing

# isort: split
import time

import numpy as np
import torch
from race import IGNORED, Stream, race
from torch.nn import functional as F


class Racer:
    """Network, optimiser and stream; Dice + cross-entropy, Adam, clipped gradients."""

    def __init__(self, *, widths, classes, norm, weights, stream, dtype, device, threads):
        torch.set_num_threads(threads)
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        self.stream, self.device, self.bfloat16 = Stream(stream), device, dtype == "bfloat16"
        self.net = UNet(widths, self.stream.image.shape[-1], classes, 2, norm)
        with np.load(weights) as arrays:
            state = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        missing, unexpected = self.net.load_state_dict(state, strict=False)
        if unexpected or any(not name.endswith("num_batches_tracked") for name in missing):
            raise ValueError(f"weights do not fit: {missing} are missing, {unexpected} are not known")
        self.net = self.net.to(device=device, memory_format=torch.channels_last)
        self.optimizer = torch.optim.Adam(self.net.parameters(), fused=True)
        compiled = torch.compile if device == "cuda" else lambda function: function
        self.objective, self.count = compiled(self.objective), compiled(self.count)

    def batch(self, image, label):
        """On the device: image (B, C, H, W), channels last in memory, label (B, H, W), mask (B, H, W)."""
        image, label = (torch.from_numpy(np.array(x)).to(self.device) for x in (image, label))
        mask = label != IGNORED
        return image.movedim(-1, 1), torch.where(mask, label, 0).long(), mask

    def logits(self, image):
        with torch.autocast(self.device, torch.bfloat16, enabled=self.bfloat16):
            return self.net(image.float() / 255)

    def objective(self, image, label, mask):
        logits = self.logits(image).float()
        pixel = F.cross_entropy(logits, label, reduction="none") * mask
        cross_entropy = pixel.sum((1, 2)) / mask.sum((1, 2)).clamp(min=1)
        return dice(logits, label, mask) + cross_entropy.mean()

    def count(self, image, label, mask):
        predicted, true = (self.logits(image).argmax(1) == 1) & mask, (label == 1) & mask
        return torch.stack([(predicted & true).sum(), predicted.sum(), true.sum()])

    def train(self, step):
        for group in self.optimizer.param_groups:
            group["lr"] = self.stream.rates[step]
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.objective(*self.batch(self.stream.image[step], self.stream.label[step]))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimizer.step()
        return loss

    def validate(self):
        self.net.eval()
        with torch.inference_mode():
            batches = zip(self.stream.val_image, self.stream.val_label, strict=True)
            counts = sum(self.count(*self.batch(*batch)) for batch in batches).tolist()
        self.net.train()
        return counts

    def losses(self, steps):
        """The losses of the first steps, and the median seconds of a step in their second half."""
        losses, seconds = [], []
        for step in range(steps):
            began = time.perf_counter()
            losses.append(self.train(step).item())
            seconds.append(time.perf_counter() - began)
        return {"losses": losses, "seconds": float(np.median(seconds[steps // 2 :]))}

    def race(self, **limits):
        return {"rows": race(self.train, self.validate, **limits)}


if __name__ == "__main__":
    serve(Racer)
