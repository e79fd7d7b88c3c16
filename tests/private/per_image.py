"""The gradient of each image, as a private step takes it (an ordinary backward pass over the draws of one image), against
PyTorch's per-example gradients: `vmap` of `grad` over images, for five small U-Nets of random weights, in f64.

usage: python per_image.py DIFFUSE       (needs torch, diffusers, safetensors)

DIFFUSE is the program; it runs on its usual adapter (`DIFFUSE_RUN`: words in front of it, such as a wrapper). Not part of
`cargo test`. Prints the largest error of each network as `diffuse verify` has it, and fails above 1e-3.
"""
import os
import shlex
import subprocess
import sys
import tempfile

import torch
from diffusers import UNet2DModel
from safetensors.torch import save_file
from torch.func import functional_call, grad, vmap

PROGRAM, IMAGES, DRAWS, BOUND = os.path.abspath(sys.argv[1]), 3, 2, 1e-3
DOWN, ATTENTION_DOWN, UP, ATTENTION_UP = "DownBlock2D", "AttnDownBlock2D", "UpBlock2D", "AttnUpBlock2D"
# Two channels a group and more: alone in a group, the bias of a convolution before it has no gradient but rounding.
USUAL = dict(in_channels=1, out_channels=1, layers_per_block=1, norm_num_groups=2, attention_head_dim=8)
NETWORKS = {
    "grey, classes": dict(USUAL, sample_size=16, block_out_channels=(8, 16), num_class_embeds=11,
                          down_block_types=(DOWN, ATTENTION_DOWN), up_block_types=(ATTENTION_UP, UP)),
    "colour, two layers": dict(USUAL, sample_size=8, in_channels=3, out_channels=3, layers_per_block=2, block_out_channels=(8, 12),
                               down_block_types=(DOWN, DOWN), up_block_types=(UP, UP)),
    "scale and shift": dict(USUAL, sample_size=8, block_out_channels=(8, 8), resnet_time_scale_shift="scale_shift",
                            down_block_types=(ATTENTION_DOWN, DOWN), up_block_types=(UP, ATTENTION_UP)),
    "learned variance": dict(USUAL, sample_size=[8, 12], out_channels=2, block_out_channels=(4, 8), num_class_embeds=3,
                             down_block_types=(DOWN, ATTENTION_DOWN), up_block_types=(ATTENTION_UP, UP)),
    "three levels": dict(USUAL, sample_size=16, block_out_channels=(4, 8, 8),
                         down_block_types=(DOWN, DOWN, ATTENTION_DOWN), up_block_types=(ATTENTION_UP, UP, UP)),
}


def per_image_gradients(model, sample, timestep, target, labels):
    """Of images stacked in the first dimension, their draws in the second; with the outputs and losses."""
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def loss(parameters, sample, timestep, target, labels):
        output = functional_call(model, parameters, (sample, timestep), {"class_labels": labels}).sample
        value = ((output - target) ** 2).mean()
        return value, (output, value)

    over = (None, 0, 0, 0, None if labels is None else 0)
    return vmap(grad(loss, has_aux=True), in_dims=over)(parameters, sample, timestep, target, labels)


def worst_error(model, reference):
    line = [*shlex.split(os.environ.get("DIFFUSE_RUN", "")), PROGRAM, "verify", "--model", model, "--reference", reference, "--tune", "off"]
    run = subprocess.run(line, capture_output=True, text=True)
    errors = [float(words[-2]) for words in map(str.split, run.stdout.splitlines()) if words and words[-1] == "ok"]
    if run.returncode != 0 or not errors:
        sys.exit(f"{shlex.join(line)}: {run.returncode}\n{run.stdout}\n{run.stderr}")
    return max(errors), len(errors)


for seed, (name, config) in enumerate(NETWORKS.items()):
    torch.manual_seed(seed)
    model = UNet2DModel(**config)
    with torch.no_grad():  # norms start at 1 and 0, where a forgotten scale or shift wouldn't show
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.2 * torch.randn_like(parameter)
    sides = config["sample_size"] if isinstance(config["sample_size"], list) else 2 * [config["sample_size"]]
    rows = (IMAGES, DRAWS)
    sample = torch.randn(*rows, config["in_channels"], *sides)
    target = torch.randn(*rows, config["out_channels"], *sides)
    timestep = torch.randint(0, 1000, rows)
    classes = config.get("num_class_embeds")
    labels = None if classes is None else torch.randint(0, classes, rows)
    with tempfile.TemporaryDirectory() as place:
        model.save_pretrained(place)
        model.double()
        gradients, (outputs, losses) = per_image_gradients(model, sample.double(), timestep, target.double(), labels)
        errors = []
        for image in range(IMAGES):
            given = {"sample": sample[image], "timestep": timestep[image], "target": target[image]}
            if labels is not None:
                given["class_labels"] = labels[image]
            computed = {"output": outputs[image], "loss": losses[image].reshape(1)}
            computed |= {f"grad.{key}": value[image] for key, value in gradients.items()}
            computed = {key: value.float().contiguous() for key, value in computed.items()}
            reference = os.path.join(place, f"image_{image}.safetensors")
            save_file(given | computed, reference)
            errors.append(worst_error(place, reference))
    print(f"{name}: {IMAGES} images, {errors[0][1]} tensors each, largest error {max(error for error, _ in errors):.1e}", flush=True)
    if max(error for error, _ in errors) > BOUND:
        sys.exit(f"{name}: above {BOUND}")
