"""Makes chains.json: what diffusers' schedulers leave of some noise under random configurations, read by tests/schedulers.rs.

usage: python make_chains.py      (needs torch, diffusers 0.42.1, scipy; writes beside itself)

The network is 0.3 x_i + sin(t / 200 + i), at the timestep that the scheduler says, in double precision; tables and sigmas are
diffusers' own, in single. Left out are configurations that diffusers refuses, that leave what isn't finite, or whose result
in single precision is off by more than 1e-5: those are all rounding.
"""
import importlib
import json
import math
import os
from unittest import mock

import diffusers
import numpy as np
import torch
from configs import CLASSES, random_config

ELEMENTS, STEPS, EACH = 6, 9, 10
INITIAL = [0.7, -1.3, 0.2, 1.9, -0.4, 0.9]
NOISE = [[round(math.sin(1.7 + 5 * row + 3 * i) * 1.6, 3) for i in range(ELEMENTS)] for row in range(STEPS)]


def draw(config, steps, dtype):
    cls = getattr(diffusers, config["_class_name"])
    s = cls.from_config(dict(config))
    s.set_timesteps(steps)
    tensor = lambda values: torch.tensor(values, dtype=dtype).reshape(1, ELEMENTS, 1, 1)
    x = tensor(INITIAL) * s.init_noise_sigma
    drawn = iter(NOISE)
    module = importlib.import_module(cls.__module__)
    patch = mock.patch.object(module, "randn_tensor", lambda *a, **k: tensor(next(drawn))) if hasattr(module, "randn_tensor") else mock.MagicMock()
    with patch:
        for t in s.timesteps:
            network = 0.3 * s.scale_model_input(x, t) + tensor([math.sin(float(t) / 200 + i) for i in range(ELEMENTS)])
            x = s.step(network.to(dtype), t, x).prev_sample
    return x.reshape(-1).double().tolist()


def chain(r, name):
    while True:
        config, steps = random_config(r, name)
        if config.get("trained_betas"):
            config.update(num_train_timesteps=100, trained_betas=[float(f"{b:.4g}") for b in np.linspace(1e-3, 0.2, 100)])
        try:
            single, double = draw(config, steps, torch.float32), draw(config, steps, torch.float64)
        except (ValueError, NotImplementedError, IndexError, AssertionError, RuntimeError):
            continue
        largest = max(1.0, max(map(abs, double)))
        if all(map(math.isfinite, double)) and max(abs(a - b) for a, b in zip(single, double)) < 1e-5 * largest:
            written = {k: ("-Infinity" if v == -math.inf else v) for k, v in config.items() if k != "_diffusers_version"}
            return dict(config=written, steps=steps, final=[float(f"{v:.8g}") for v in double])


def main():
    diffusers.utils.logging.set_verbosity_error()
    r = np.random.default_rng(42)
    chains = [chain(r, name) for _ in range(EACH) for name in CLASSES]
    about = f"made by make_chains.py with diffusers {diffusers.__version__}, torch {torch.__version__.split('+')[0]}"
    head = f'"about": {json.dumps(about)},\n"x_T": {json.dumps(INITIAL)},\n"noise": {json.dumps(NOISE)},\n"chains": [\n'
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "chains.json"), "w") as f:
        f.write("{\n" + head + ",\n".join(json.dumps(c) for c in chains) + "\n]\n}\n")


if __name__ == "__main__":
    main()
