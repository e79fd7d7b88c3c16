"""Draws with random scheduler configurations by diffusers and by this program, one small U-Net and the same noise: how many
agree, how many are refused, and whether any is silently different.

usage: python compare.py DIFFUSE [COUNT=200] [SEED=0]       (needs torch, diffusers 0.42.1, safetensors, scipy)

DIFFUSE is the program; it runs on its usual adapter (`DIFFUSE_RUN`: words in front of it, such as a wrapper). Not part of
`cargo test`. Two results are equal if no element of the final images is off by more than 1e-4 of max(1, the largest
element). One that isn't is `undetermined` if diffusers is off from itself by a quarter of that or more, with the network in
double precision, or the tables of betas as well, or with an x_T that is off by its last bit: its estimates of x0 at sigma 4096 or 20000 are all rounding then, or its
sigma of timestep 0 is, which hangs on the last bit of PyTorch's square root. Anything else is `different`, and the script fails. Configurations that diffusers itself refuses, or draws nothing finite with, are drawn again
and counted.
"""
import collections
import importlib
import json
import os
import shlex
import subprocess
import sys
import tempfile
import warnings
from unittest import mock

import diffusers
import numpy as np
import torch
from configs import CLASSES, random_config
from safetensors.torch import load_file, save_file

SHAPE, STEPS = (2, 3, 8, 8), 24


def network():
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(sample_size=8, in_channels=3, out_channels=3, layers_per_block=1, block_out_channels=(16, 32), norm_num_groups=8,
                                 down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"))
    with torch.no_grad():  # an output of about the size of noise
        unet.conv_out.weight *= 2
    return unet.eval()


def draw(unet, config, steps, noise):
    """The final images as a pipeline of diffusers draws them."""
    cls = getattr(diffusers, config["_class_name"])
    s = cls.from_config(dict(config))
    s.set_timesteps(steps)
    x = noise["x_T"] * s.init_noise_sigma
    drawn = iter(noise[f"noise.{i}"] for i in range(STEPS))
    module = importlib.import_module(cls.__module__)
    patch = mock.patch.object(module, "randn_tensor", lambda *a, **k: next(drawn)) if hasattr(module, "randn_tensor") else mock.MagicMock()
    with torch.no_grad(), patch:
        for t in s.timesteps:
            x = s.step(unet(s.scale_model_input(x, t), t).sample, t, x).prev_sample
    return x


def draw_in_double(config, steps, noise, tables):
    """The same with a network in double precision, and with `tables` all else, too."""
    noise = {name: z.double() for name, z in noise.items()}
    if not tables:
        return draw(network().double(), config, steps, noise)
    unet, solve = network().double(), torch.linalg.solve
    of_double = lambda a, b: solve(a.double(), b.double())  # UniPC mixes both
    torch.set_default_dtype(torch.float64)
    try:
        with mock.patch.object(torch, "float32", torch.float64), mock.patch.object(torch.linalg, "solve", of_double):
            return draw(unet, config, steps, noise)
    finally:
        torch.set_default_dtype(torch.float32)


def valid(unet, r, name, noise, failed):
    while True:
        config, steps = random_config(r, name)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                want = draw(unet, config, steps, noise)
        except (ValueError, NotImplementedError, IndexError, AssertionError, RuntimeError) as error:
            failed["raises " + type(error).__name__] += 1
            continue
        if torch.isfinite(want).all():
            return config, steps, want
        failed["draws what isn't finite"] += 1


def main():
    program, count, seed = sys.argv[1], *(int(a) for a in (sys.argv[2:] + ["200", "0"][len(sys.argv) - 2:]))
    diffusers.utils.logging.set_verbosity_error()
    r, unet = np.random.default_rng(seed), network()
    counts, failed, refusals, different = collections.Counter(), collections.Counter(), collections.Counter(), []
    by_class, worst = collections.defaultdict(collections.Counter), 0.0
    with tempfile.TemporaryDirectory() as place:
        unet.save_pretrained(place)
        torch.manual_seed(1)
        noise = {"x_T": torch.randn(SHAPE), **{f"noise.{i}": torch.randn(SHAPE) for i in range(STEPS)}}
        file = lambda name: os.path.join(place, name)
        save_file(noise, file("noise.st"))
        for i in range(count):
            config, steps, want = valid(unet, r, CLASSES[i % len(CLASSES)], noise, failed)
            with open(file("scheduler_config.json"), "w") as f:
                json.dump(config, f)
            line = [*shlex.split(os.environ.get("DIFFUSE_RUN", "")), program, "sample", place, "--count", str(SHAPE[0]), "--steps", str(steps),
                    "--noise", file("noise.st"), "--tune", "off", "--out", file("s.png"), "--tensor", file("s.st")]
            run = subprocess.run(line, capture_output=True, text=True)
            short = {k: (v if k != "trained_betas" or not v else "table") for k, v in config.items() if k != "_diffusers_version"}
            if run.returncode:
                result = "refused"
                refusals[run.stderr.strip().splitlines()[-1][:110]] += 1
            else:
                off = float((load_file(file("s.st"))["samples"] - want).abs().max() / max(1.0, float(want.abs().max())))
                result = "equal" if off <= 1e-4 else "different"
                if result == "different":
                    exact = [draw_in_double(config, steps, noise, tables) for tables in (False, True)]
                    exact += [draw(unet, config, steps, {**noise, "x_T": torch.nextafter(noise["x_T"], torch.tensor(end))})
                              for end in (9.0, -9.0)]
                    own = max(float((want - e).abs().max() / max(1.0, float(want.abs().max()))) for e in exact)
                    result = "undetermined" if 4 * own >= off else result
                    print(f"{result}: off by {off:.1e}, diffusers from itself by {own:.1e}, {steps} steps: {json.dumps(short)}", flush=True)
                worst = max(worst, off if result == "equal" else 0.0)
                if result == "different":
                    different.append(short)
            counts[result] += 1
            by_class[config["_class_name"]][result] += 1
    print(f"diffusers {diffusers.__version__}, torch {torch.__version__}, seed {seed}: {dict(counts)} of {count}; largest difference of an equal one {worst:.1e}")
    for name, of in by_class.items():
        print(f"  {name}: {dict(of)}")
    print("refused here:", *(f"  {n} x {line}" for line, n in refusals.most_common()), sep="\n")
    print("drawn again, for diffusers:", dict(failed))
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
