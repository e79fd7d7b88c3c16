"""The presets of diffuse in PyTorch (diffusers' UNet2DModel): the time of a training step.

usage: unet.py MODELS BATCHES STEPS MODES
    MODELS   of mnist, base, cifar10; with commas between them, as BATCHES and MODES
    MODES    cpu; cuda-eager: without TF32; with TF32: cuda-tf32, cuda-amp, cuda-compile, cuda-compile-amp
Prints a JSON object a line as soon as it is measured, with an `error` where that failed; the exit status is 1 if nothing
could be measured. ROCm's devices are CUDA devices to PyTorch. A step is that of `diffuse train`: noise, forward, loss,
backward, clip, AdamW, averaged weights.
"""
import itertools
import json
import statistics
import sys
import time
import warnings

import torch
import torch.nn.functional as F
from diffusers import UNet2DModel

COLOUR = dict(sample_size=32, in_channels=3, out_channels=3, layers_per_block=2,
              down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
              up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"))
# As src/train/options.rs has them; the number of parameters is printed, so that peers.sh can compare.
MODELS = {
    "mnist": dict(sample_size=28, in_channels=1, out_channels=1, layers_per_block=1, norm_num_groups=8,
                  block_out_channels=(32, 64, 64),
                  down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
                  up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D")),
    "base": dict(COLOUR, block_out_channels=(64, 128, 128, 128)),
    "cifar10": dict(COLOUR, block_out_channels=(128, 256, 256, 256), flip_sin_to_cos=False, freq_shift=1,
                    norm_eps=1e-6, attention_head_dim=None, downsample_padding=0),
}
NAMES = {
    "cpu": "CPU eager f32",
    "cuda-eager": "CUDA eager f32",
    "cuda-tf32": "CUDA eager TF32",
    "cuda-amp": "CUDA eager, AMP bf16, channels_last",
    "cuda-compile": "CUDA compile TF32",
    "cuda-compile-amp": "CUDA compile, AMP bf16, channels_last",
}
WARM_UP = 3


def measure(model, batch, steps, mode):
    """A record of `steps` training steps of `batch` images in `mode`; times are milliseconds."""
    cuda, compiled, amp = mode.startswith("cuda"), "compile" in mode, mode.endswith("amp")
    device = "cuda" if cuda else "cpu"
    if cuda:
        tf32 = mode != "cuda-eager"
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
        torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    config = MODELS[model]
    unet = UNet2DModel(**config).to(device)
    if amp:
        unet = unet.to(memory_format=torch.channels_last)
    weights = list(unet.parameters())
    average = [weight.detach().clone() for weight in weights]
    forward = torch.compile(unet) if compiled else unet
    optimizer = torch.optim.AdamW(weights, lr=1e-4, fused=cuda)
    side = config["sample_size"]
    images = torch.randn(batch, config["in_channels"], side, side, device=device)
    kept = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, device=device), 0)

    def step():
        timestep = torch.randint(0, 1000, (batch,), device=device)
        noise = torch.randn_like(images)
        alpha = kept[timestep].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * images + (1 - alpha).sqrt() * noise
        if amp:
            noisy = noisy.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device, dtype=torch.bfloat16, enabled=amp):
            out = forward(noisy, timestep).sample
        loss = F.mse_loss(out.float(), noise)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, weights, 1e-3)

    def timed():
        start = time.perf_counter()
        step()
        if cuda:
            torch.cuda.synchronize()
        return (time.perf_counter() - start) * 1e3

    first = [timed() for _ in range(WARM_UP)][0]
    times = [timed() for _ in range(steps)]
    hardware = torch.cuda.get_device_name() if cuda else f"{torch.get_num_threads()} threads"
    return {
        "peer": f"PyTorch {torch.__version__.split('+')[0]}, {NAMES[mode]}",
        "hardware": hardware,
        "parameters": sum(weight.numel() for weight in weights),
        "step_ms": statistics.median(times),
        "first_ms": first,
    }


def main():
    models, batches, steps, modes = sys.argv[1:5]
    measured = 0
    # What compiles takes longest, so that modes come outermost.
    for mode, model, batch in itertools.product(modes.split(","), models.split(","), map(int, batches.split(","))):
        try:
            record = measure(model, batch, int(steps), mode)
            measured += 1
        except Exception as error:
            # Out of memory, or no compiler for torch.compile: the others may still run.
            record = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
            print(f"{model}, {batch}, {mode}: {record['error']}", file=sys.stderr)
        print(json.dumps({"model": model, "batch": batch, "mode": mode, **record}), flush=True)
        if mode.startswith("cuda"):
            torch._dynamo.reset()
            torch.cuda.empty_cache()
    sys.exit(0 if measured else 1)


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    main()
