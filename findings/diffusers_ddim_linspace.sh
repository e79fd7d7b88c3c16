#!/bin/sh
# diffusers' DDIMScheduler with timestep_spacing="linspace" steps to a level that isn't the next timestep's.
#
# The guess, before it was run: at most a rounded timestep off, since the next one is in scheduler.timesteps.
# Seen with diffusers 0.42.1, torch 2.15.0, T = 1,000: step() goes to t - T // n, while linspace puts (T - 1) / (n - 1) between timesteps.
# With 4 steps each ends at a level 83 timesteps noisier than the one that the network is told next, with 10 steps 11, with 50 steps 0 or 1;
# with 2 steps 499. "leading" meets its timesteps exactly, "trailing" to 1. The level is read from step() itself: with a network's output of 0
# it scales a sample by sqrt(alpha_bar(to) / alpha_bar(from)).
# Why it matters: the network is told less noise than there is, most where steps are few, and the same "linspace" in DPMSolverMultistepScheduler
# goes from timestep to timestep. Who compares samplers at few steps, or ports one, compares this.
#
# Needs python3 with venv; downloads torch, on Linux with gigabytes of CUDA. Installs into a temporary folder. Exit status 0: as described.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" -q install diffusers==0.42.1 torch==2.15.0 numpy==2.4.6
cat >"$work/levels.py" <<'END'
import torch
from diffusers import DDIMScheduler


def too_high(spacing, steps):
    """Of each step but the last: how many timesteps above the next one its level is."""
    made = DDIMScheduler(num_train_timesteps=1000, timestep_spacing=spacing, clip_sample=False)
    made.alphas_cumprod = made.alphas_cumprod.double()
    made.set_timesteps(steps)
    found = []
    for timestep, following in zip(made.timesteps.tolist(), made.timesteps.tolist()[1:]):
        sample = torch.ones(1, dtype=torch.float64)
        factor = made.step(0 * sample, timestep, sample).prev_sample.item()
        level = factor**2 * made.alphas_cumprod[timestep].item()
        found.append(int((made.alphas_cumprod - level).abs().argmin()) - following)
    return found


expected = {("linspace", 2): {499}, ("linspace", 4): {83}, ("linspace", 10): {11}, ("linspace", 50): {0, 1},
            ("leading", 10): {0}, ("leading", 50): {0}, ("trailing", 7): {0, 1}}
seen = {key: set(too_high(*key)) for key in expected}
for (spacing, steps), levels in seen.items():
    print(f"{spacing}, {steps} steps: timesteps above the next one: {sorted(levels)}")
raise SystemExit(0 if seen == expected else "not as described any more")
END
"$work/venv/bin/python" "$work/levels.py"
