"""Makes schedulers.json: tables and sampling chains of diffusers' DDPMScheduler and DDIMScheduler, read by tests/diffusion.rs.

usage: python make_schedulers.py      (needs torch and diffusers; writes beside itself)

diffusers keeps its tables in float32, which costs up to 1e-3 relative in sqrt(1 - alpha_bar) of the first timesteps. To
compare formulas rather than rounding, precision "f64" runs diffusers' own code with torch.float32 replaced by
torch.float64 while a scheduler is built; precision "f32" is diffusers as shipped.

One deviation, in the chains marked "adjusted". DDIMScheduler.step takes t - T // steps as the timestep to arrive at. With
linspace, or with trailing where T / steps isn't whole, that isn't the timestep at which the next step reads the sample.
`diffuse` always goes to the next timestep of the list, as DDPMScheduler does; there the script hands step() a number of
steps for which T // steps is that very distance. All arithmetic remains diffusers'.
"""
import json
import math
import os
from fractions import Fraction
from unittest import mock

import diffusers
import torch
from diffusers import DDIMScheduler, DDPMScheduler

T = 1000
ELEMENTS = 4
INITIAL = [0.7, -1.3, 0.2, 1.9]
NOISE = [[round(math.sin(1.7 + 5 * row + 3 * i) * 1.6, 3) for i in range(ELEMENTS)] for row in range(7)]
LINEAR, COSINE = "linear", "squaredcos_cap_v2"
# The samplers of the oracle: name, variance of DDPM, eta of DDIM.
KINDS = [("ddpm", "fixed_small", None), ("ddpm", "fixed_large", None), ("ddim", None, 0.0), ("ddim", None, 0.5), ("ddim", None, 1.0)]
PREDICTIONS = ["epsilon", "sample", "v_prediction"]
SPACINGS = ["leading", "linspace", "trailing"]


def short(values, digits=12):
    return [float(f"{v:.{digits}g}") for v in values]


def network(x, t):
    """The stand-in for a network: element i gives 0.3 x_i + sin(t / 200 + i)."""
    return 0.3 * x + torch.tensor([math.sin(t / 200 + i) for i in range(ELEMENTS)], dtype=x.dtype)


def scheduler(kind, precision="f64", **config):
    if precision == "f32":
        return kind(**config)
    with mock.patch.object(torch, "float32", torch.float64):
        return kind(**config)


def chain(kind, schedule=LINEAR, prediction="epsilon", clip=None, spacing="leading", steps=10, every=1, precision="f64", total=T):
    name, variance, eta = kind
    config = dict(num_train_timesteps=total, beta_schedule=schedule, prediction_type=prediction, timestep_spacing=spacing,
                  clip_sample=clip is not None, clip_sample_range=clip or 1.0)
    if name == "ddpm":
        s = scheduler(DDPMScheduler, precision, variance_type=variance, **config)
    else:
        s = scheduler(DDIMScheduler, precision, set_alpha_to_one=True, **config)
    s.set_timesteps(steps)
    timesteps = s.timesteps.tolist()
    x = torch.tensor([INITIAL], dtype=torch.float32 if precision == "f32" else torch.float64)
    adjusted, records = False, []
    for k, t in enumerate(timesteps):
        z = torch.tensor([NOISE[k % len(NOISE)]], dtype=x.dtype)
        out = network(x, t)
        if variance == "learned_range":
            out = torch.cat([out, network(-x, t)], dim=1)
        # The scheduler finds its own position by value, so the tensor's element is passed on as it is.
        if name == "ddpm":
            with mock.patch("diffusers.schedulers.scheduling_ddpm.randn_tensor", return_value=z):
                r = s.step(out, s.timesteps[k], x)
        else:
            to = timesteps[k + 1] if k + 1 < len(timesteps) else -1
            if t - total // steps != to and (to >= 0 or t - total // steps >= 0):
                adjusted, s.num_inference_steps = True, Fraction(total, t - to)
            r = s.step(out, s.timesteps[k], x, eta=eta, variance_noise=z if eta > 0 else None)
            s.num_inference_steps = steps
        x = r.prev_sample
        if (k + 1) % every == 0:
            records.append([k] + short(x[0].tolist()) + short(r.pred_original_sample[0].tolist()))
    return dict(sampler=name, variance=variance, eta=eta, schedule=schedule, prediction=prediction, clip=clip, spacing=spacing,
                steps=steps, total=total, precision=precision, adjusted=adjusted, records=records)


def chains():
    result = []
    for i, kind in enumerate(KINDS):  # every prediction with and without clipping; spacing and schedule in turn
        for j, prediction in enumerate(PREDICTIONS):
            for clip in [None, 1.0]:
                # With fixed_large and trailing, diffusers adds noise even in the last step (its test is t > 0), where
                # Algorithm 2 has none: left out.
                spacing = [s for s in SPACINGS if kind[1] != "fixed_large" or s != "trailing"]
                n = i + j + (clip is not None)
                result.append(chain(kind, [LINEAR, COSINE][n % 2], prediction, clip, spacing[n % len(spacing)]))
    for kind in KINDS:
        for spacing in SPACINGS[: 2 if kind[1] == "fixed_large" else 3]:
            result.append(chain(kind, spacing=spacing, steps=7, every=2, clip=2.0))
            result.append(chain(kind, COSINE, spacing=spacing, steps=50, every=10, clip=1.0))
    for kind in [KINDS[0], KINDS[2]]:
        result.append(chain(kind, LINEAR, steps=1000, every=200, clip=1.0))
        result.append(chain(kind, COSINE, "v_prediction", steps=1000, every=200, clip=1.0))
    for kind in KINDS:
        result.append(chain(kind, steps=10, every=3, precision="f32"))
        result.append(chain(kind, COSINE, "v_prediction", clip=1.0, steps=20, every=5, precision="f32"))
        result.append(chain(kind, spacing="leading", steps=4, total=10))
        result.append(chain(kind, spacing="leading", steps=1))
    # In a strided step diffusers takes the upper end from the table of single steps, and not from the stride as the lower one.
    for schedule, prediction in [(LINEAR, "epsilon"), (COSINE, "v_prediction")]:
        result.append(chain(("ddpm", "learned_range", None), schedule, prediction, 1.0, steps=60, every=20, total=60))
    return result


def tables():
    result = []
    for schedule in [LINEAR, COSINE]:
        for total in [T, 50, 1]:
            at = sorted({0, 1, 2, 7, 49, 100, 250, 500, 750, 900, 997, 998, 999} & set(range(total)))
            for precision in ["f64", "f32"]:
                s = scheduler(DDPMScheduler, precision, num_train_timesteps=total, beta_schedule=schedule)
                variance = [float(s._get_variance(t)) for t in at]
                result.append(dict(schedule=schedule, total=total, precision=precision, at=at, betas=short(s.betas[at].tolist(), 14),
                                   alpha_bars=short(s.alphas_cumprod[at].tolist(), 14), variances=short(variance, 14)))
    return result


def timesteps():
    result = []
    for spacing in SPACINGS:
        for total, steps in [(1000, 1), (1000, 3), (1000, 7), (1000, 16), (1000, 30), (1000, 50), (10, 10), (10, 4), (37, 16), (60, 40)]:
            s = DDPMScheduler(num_train_timesteps=total, timestep_spacing=spacing)
            s.set_timesteps(steps)
            result.append(dict(spacing=spacing, total=total, steps=steps, timesteps=s.timesteps.tolist()))
    return result


def main():
    torch.set_default_dtype(torch.float64)
    parts = dict(about=f"made by make_schedulers.py with diffusers {diffusers.__version__}, torch {torch.__version__.split('+')[0]}",
                 initial=INITIAL, noise=NOISE)
    lists = dict(tables=tables(), timesteps=timesteps(), chains=chains())
    body = ",\n".join([f'"{k}": {json.dumps(v)}' for k, v in parts.items()]
                      + [f'"{k}": [\n' + ",\n".join(json.dumps(r, separators=(",", ":")) for r in v) + "\n]" for k, v in lists.items()])
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "schedulers.json"), "w") as f:
        f.write("{\n" + body + "\n}\n")


if __name__ == "__main__":
    main()
