"""Makes samplers.json: sampling chains of diffusers' Euler, Euler ancestral, Heun, DPM-Solver++(2M) and UniPC schedulers,
step by step, read by tests/diffusion/samplers.rs.

usage: python make_samplers.py      (needs torch and diffusers; writes beside itself)

Tables are in float64 (see make_schedulers.py); sigmas are rounded to float32 by diffusers itself. The Euler and Heun schedulers
hold x / alpha; the records hold x as the network gets it, at the level reached. A record is one step: the timestep at which
the network was asked, x' and where the scheduler tells it the estimate of x0.
"""
import json
import os
from unittest import mock

import diffusers
import torch
from diffusers import (DDPMScheduler, DPMSolverMultistepScheduler, EulerAncestralDiscreteScheduler, EulerDiscreteScheduler, HeunDiscreteScheduler,
                       UniPCMultistepScheduler)
from make_schedulers import INITIAL, NOISE, network, scheduler, short

SCHEDULES = [("linear", 1e-4, 0.02), ("squaredcos_cap_v2", 1e-4, 0.02), ("scaled_linear", 0.00085, 0.012)]
PREDICTIONS = ["epsilon", "v_prediction", "sample"]
SPACINGS = ["leading", "linspace", "trailing", "karras"]
# name, class, its own settings, whether it holds x / alpha
KINDS = [
    ("euler", EulerDiscreteScheduler, {}, True),
    ("euler-ancestral", EulerAncestralDiscreteScheduler, {}, True),
    ("heun", HeunDiscreteScheduler, {}, True),
    ("dpm++", DPMSolverMultistepScheduler, dict(algorithm_type="dpmsolver++"), False),
    ("dpm++-sde", DPMSolverMultistepScheduler, dict(algorithm_type="sde-dpmsolver++"), False),
    ("unipc", UniPCMultistepScheduler, {}, False),
]


def chain(kind, schedule, prediction, spacing, steps, clip=None):
    name, cls, own, scaled = kind
    config = dict(own, beta_schedule=schedule[0], beta_start=schedule[1], beta_end=schedule[2], prediction_type=prediction)
    if spacing == "karras":
        config.update(use_karras_sigmas=True, timestep_spacing="linspace")
    else:
        config.update(timestep_spacing=spacing)
    if clip:
        config.update(clip_sample=True, clip_sample_range=clip)
    s = scheduler(cls, "f64", **config)
    s.set_timesteps(steps)
    s.sigmas = s.sigmas.double()
    s.set_begin_index(0)  # else it searches, and takes the second of equal timesteps
    alpha = lambda k: float(1 / (s.sigmas[k] ** 2 + 1) ** 0.5)
    x = torch.tensor([INITIAL], dtype=torch.float64) / (alpha(0) if scaled else 1)
    records = []
    for k in range(len(s.timesteps)):
        t = s.timesteps[k]
        z = torch.tensor([NOISE[k % len(NOISE)]], dtype=x.dtype)
        out = network(s.scale_model_input(x, t), float(t))
        module = cls.__module__
        with mock.patch(f"{module}.randn_tensor", return_value=z) if hasattr(__import__(module, fromlist=["x"]), "randn_tensor") else mock.MagicMock():
            r = s.step(out, t, x)
        x = r.prev_sample
        seen = x[0] * (alpha(k + 1) if scaled else 1)
        x0 = short(r.pred_original_sample[0].tolist(), 9) if getattr(r, "pred_original_sample", None) is not None else []
        records.append([float(f"{float(t):.9g}")] + short(seen.tolist(), 9) + x0)
    return dict(sampler=name, schedule=schedule[0], beta_start=schedule[1], beta_end=schedule[2], prediction=prediction, spacing=spacing,
                steps=steps, clip=clip, records=records)


def table(schedule):
    """beta and alpha_bar at some timesteps of the schedules that schedulers.json has not."""
    s = scheduler(DDPMScheduler, "f64", beta_schedule=schedule[0], beta_start=schedule[1], beta_end=schedule[2])
    at = [0, 1, 2, 49, 250, 500, 750, 998, 999]
    return dict(schedule=schedule[0], beta_start=schedule[1], beta_end=schedule[2], at=at, betas=short(s.betas[at].tolist(), 14),
                alpha_bars=short(s.alphas_cumprod[at].tolist(), 14))


def main():
    torch.set_default_dtype(torch.float64)
    result = []
    for i, kind in enumerate(KINDS):
        for j, prediction in enumerate(PREDICTIONS):
            for n, spacing in enumerate(SPACINGS):
                if kind[0] == "euler-ancestral" and "karras" == spacing or (kind[0], prediction) == ("euler-ancestral", "sample"):
                    continue  # it has neither
                result.append(chain(kind, SCHEDULES[(i + j + n) % 3], prediction, spacing, 6))
        result.append(chain(kind, SCHEDULES[0], "epsilon", "trailing", 16))
    result.append(chain(KINDS[2], SCHEDULES[0], "epsilon", "leading", 7, 1.0))
    result.append(chain(KINDS[2], SCHEDULES[1], "v_prediction", "linspace", 5, 1.5))
    tables = [table(schedule) for schedule in [("sigmoid", 1e-4, 0.02), SCHEDULES[2]]]
    about = f"made by make_samplers.py with diffusers {diffusers.__version__}, torch {torch.__version__.split('+')[0]}"
    head = f'"about": {json.dumps(about)},\n"initial": {json.dumps(INITIAL)},\n"noise": {json.dumps(NOISE)},\n"tables": {json.dumps(tables)},\n"chains": [\n'
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "samplers.json"), "w") as f:
        f.write("{\n" + head + ",\n".join(json.dumps(r, separators=(",", ":")) for r in result) + "\n]\n}\n")


if __name__ == "__main__":
    main()
