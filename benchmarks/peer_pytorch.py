"""The same network, loss and optimiser in PyTorch's best plain form; a process of its own that `peer.PyTorch` drives.

Imports PyTorch and numpy only, so that any Python that has the two can run it: `python benchmarks/peer_pytorch.py`.
One JSON object a line comes in and one goes out; arrays travel as .npz files. Between two lines the process sleeps.
Best plain form: channels-last, fused Adam, zero_grad(set_to_none=True), autocast for bfloat16, on a GPU also
torch.compile, cudnn.benchmark and TF32.
"""

import json
import math
import os
import sys
import time

try:
    import numpy as np
    import torch
    from torch import nn
    from torch.nn import functional as F
except ModuleNotFoundError as missing:
    print(json.dumps({"missing": missing.name}), flush=True)
    sys.exit(1)


class Block(nn.Module):
    def __init__(self, conv, channels, features, norm):
        super().__init__()
        bias = norm not in (nn.BatchNorm2d, nn.BatchNorm3d)  # before batch normalisation it would do nothing
        self.conv0 = conv(channels, features, 3, padding=1, bias=bias)
        self.conv1 = conv(features, features, 3, padding=1, bias=bias)
        self.norm0, self.norm1 = norm(features), norm(features)

    def forward(self, x):
        x = F.relu(self.norm0(self.conv0(x)), inplace=True)
        return F.relu(self.norm1(self.conv1(x)), inplace=True)


def group_norm(features):
    return nn.GroupNorm(math.gcd(8, features), features, eps=1e-6)


class UNet(nn.Module):
    """The padded 2015 U-Net, (B, C, *S) -> (B, classes, *S); `norm` is "none", "batch" or "group" (of at most 8)."""

    def __init__(self, widths, channels, classes, rank, norm="none"):
        super().__init__()
        norm = {"none": nn.Identity, "batch": {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[rank], "group": group_norm}[norm]
        conv, up, pool = {
            2: (nn.Conv2d, nn.ConvTranspose2d, nn.MaxPool2d),
            3: (nn.Conv3d, nn.ConvTranspose3d, nn.MaxPool3d),
        }[rank]
        self.depth, self.pool = len(widths) - 1, pool(2)
        for level in range(self.depth):
            self.add_module(f"down{level}", Block(conv, widths[level - 1] if level else channels, widths[level], norm))
        self.bottom = Block(conv, widths[-2] if self.depth else channels, widths[-1], norm)
        for level in range(self.depth):
            self.add_module(f"up{level}_conv", up(widths[level + 1], widths[level], 2, stride=2))
            self.add_module(f"up{level}", Block(conv, 2 * widths[level], widths[level], norm))
        self.logits = conv(widths[0], classes, 1)

    def forward(self, x):
        skips = []
        for level in range(self.depth):
            skips.append(self.get_submodule(f"down{level}")(x))
            x = self.pool(skips[-1])
        x = self.bottom(x)
        for level in reversed(range(self.depth)):
            x = torch.cat([skips[level], self.get_submodule(f"up{level}_conv")(x)], 1)
            x = self.get_submodule(f"up{level}")(x)
        return self.logits(x)


def dice(logits, label, mask):
    """Mean over images and classes of 1 - (2 I + 1) / (P + T + 1), over the valid pixels."""
    probability = torch.softmax(logits.float(), 1)
    truth = F.one_hot(label, logits.shape[1]).movedim(-1, 1).float()
    valid, axes = mask[:, None].float(), tuple(range(2, logits.ndim))
    inter = (probability * truth * valid).sum(axes)
    total = ((probability + truth) * valid).sum(axes)
    return (1 - (2 * inter + 1) / (total + 1)).mean()


class Side:
    """Network, optimiser and batch on one device, and the step asked for."""

    def __init__(self, *, what, widths, classes, rank, learning_rate, dtype, device, threads, file):
        torch.set_num_threads(threads)
        torch.backends.cudnn.benchmark = True
        self.what, self.device, self.bfloat16 = what, device, dtype == "bfloat16"
        self.layout = torch.channels_last if rank == 2 else torch.channels_last_3d
        arrays = dict(np.load(file))
        image, label, mask = (arrays.pop(name) for name in ("image", "label", "mask"))
        self.net = UNet(widths, image.shape[-1], classes, rank)
        self.net.load_state_dict({name: torch.from_numpy(value) for name, value in arrays.items()})
        self.net = self.net.to(device=device, memory_format=self.layout)
        self.image = self.first_axis_channels(image)
        self.label = torch.from_numpy(label).long().to(device)
        self.mask = torch.from_numpy(mask).to(device)
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=learning_rate, fused=True)
        compiled = torch.compile if device == "cuda" else lambda function: function
        self.objective, self.predict = compiled(self.objective), compiled(self.predict)
        self.allow_tf32(True)

    def first_axis_channels(self, image):
        """(B, *S, C) of numpy as (B, C, *S) on the device, channels last in memory without a copy."""
        return torch.from_numpy(image).movedim(-1, 1).to(self.device).contiguous(memory_format=self.layout)

    def allow_tf32(self, allowed):
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed

    def objective(self, image, label, mask):
        with torch.autocast(self.device, torch.bfloat16, enabled=self.bfloat16):
            logits = self.net(image.float() / 255)
        return dice(logits, label, mask)

    def predict(self, image):
        with torch.autocast(self.device, torch.bfloat16, enabled=self.bfloat16):
            return self.net(image.float() / 255).argmax(1).to(torch.uint8)

    def wait(self):
        if self.device == "cuda":
            torch.cuda.synchronize()

    def run(self, steps):
        """Seconds of so many steps, and the last one's loss."""
        self.wait()
        began, loss = time.perf_counter(), None
        if self.what == "train":
            for _ in range(steps):
                self.optimizer.zero_grad(set_to_none=True)
                loss = self.objective(self.image, self.label, self.mask)
                loss.backward()
                self.optimizer.step()
        else:
            with torch.inference_mode():
                for _ in range(steps):
                    self.predict(self.image)
        self.wait()
        seconds = time.perf_counter() - began
        peak = torch.cuda.max_memory_allocated() if self.device == "cuda" else None
        return {"seconds": seconds, "loss": None if loss is None else loss.item(), "device_peak": peak}

    def exact_logits(self, file, out):
        """Writes the logits, channels last, of the images in `file`, in true float32."""
        self.allow_tf32(False)
        with torch.inference_mode():
            logits = self.net(self.first_axis_channels(np.load(file)["image"]).float() / 255)
        self.allow_tf32(True)
        np.savez(out, logits=logits.movedim(1, -1).cpu().numpy())
        return {}

    def product(self, n, dtype):
        """Seconds of one n × n matrix product."""
        ones = torch.ones((n, n), dtype=getattr(torch, dtype), device=self.device)
        ones @ ones
        self.wait()
        began = time.perf_counter()
        ones @ ones
        self.wait()
        return {"seconds": time.perf_counter() - began}


def serve(make):
    """Answer requests until there are no more: "setup" makes a side with `make`, any other calls its method."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints must not get among the answers
    print(json.dumps({"torch": torch.__version__, "cuda": torch.cuda.is_available()}), file=answers)
    side = None
    for line in sys.stdin:
        request = json.loads(line)
        name = request.pop("do")
        if name == "setup":
            side, answer = make(**request), {}
        else:
            answer = getattr(side, name)(**request)
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    serve(Side)
