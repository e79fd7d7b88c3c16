"""How compare.py and make_stored.py draw with a pipeline of diffusers: from noise that is given."""
import contextlib
import importlib
from unittest import mock

import torch


def noise_of(shape, steps, seed=1):
    """Tensors as `diffuse sample --noise` reads them."""
    torch.manual_seed(seed)
    return {"x_T": torch.randn(shape), **{f"noise.{i}": torch.randn(shape) for i in range(steps)}}


@contextlib.contextmanager
def given(noise, scheduler):
    """In here torch and diffusers draw x_T first, then the noise of one step after another."""
    start, steps = iter([noise["x_T"]]), iter(noise[f"noise.{i}"] for i in range(len(noise) - 1))
    modules = [importlib.import_module(f"diffusers.pipelines.{name}.pipeline_{name}") for name in ("ddpm", "ddim")]
    with contextlib.ExitStack() as patches:
        for module in modules:
            patches.enter_context(mock.patch.object(module, "randn_tensor", lambda *a, **k: next(start).clone()))
        patches.enter_context(mock.patch.object(torch, "randn", lambda *a, **k: next(start).clone()))
        module = importlib.import_module(type(scheduler).__module__)
        if hasattr(module, "randn_tensor"):
            patches.enter_context(mock.patch.object(module, "randn_tensor", lambda *a, **k: next(steps)))
        yield


def draw(pipeline, noise, steps, **how):
    """What the pipeline draws, unedited, as a tensor [N, C, H, W] in [-1, 1]."""
    pipeline.set_progress_bar_config(disable=True)
    with given(noise, pipeline.scheduler):
        images = pipeline(batch_size=len(noise["x_T"]), num_inference_steps=steps, output_type="np", **how).images
    return torch.from_numpy(images).permute(0, 3, 1, 2) * 2 - 1
