"""Makes the U-Net fixtures: tiny diffusers U-Nets with random weights, and what PyTorch computes with them.

usage: python make_unet.py DIR      (needs torch, diffusers, safetensors)

Writes DIR/CASE/ with config.json and diffusion_pytorch_model.safetensors (a diffusers checkpoint) and
reference.safetensors:
    sample [N,C,H,W], timestep [N], class_labels [N] (if the model has classes), target [N,C,H,W]     given
    output [N,C,H,W], loss [1] (mean squared error against target), grad.<parameter name>             computed

The model runs in f64 and its results are stored as f32, so that the references carry no rounding of PyTorch's own. The
sinusoidal timestep embedding is f32 in diffusers whatever the model's precision.
"""
import sys

import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from safetensors.torch import save_file

CASES = {
    # Groups of 3 and 5 channels, heads of 4 in 10 channels (2 heads, so an inner width of 8), classes, a sample that isn't square.
    "unet_default": dict(
        sample_size=[8, 12],
        in_channels=1,
        out_channels=1,
        block_out_channels=(6, 10),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=2,
        attention_head_dim=4,
        num_class_embeds=5,
    ),
    # Scale and shift by time, attention at both levels, 3 channels in and 6 out, asymmetric padding before the stride of 2.
    "unet_scale_shift": dict(
        sample_size=8,
        in_channels=3,
        out_channels=6,
        block_out_channels=(4, 6),
        down_block_types=("AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D"),
        layers_per_block=2,
        norm_num_groups=2,
        attention_head_dim=3,
        resnet_time_scale_shift="scale_shift",
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
        norm_eps=1e-6,
        mid_block_scale_factor=1.4142,
    ),
}


def make(directory, config):
    model = UNet2DModel(**config)
    with torch.no_grad():  # norms start at 1 and 0, where a forgotten scale or shift wouldn't show
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.2 * torch.randn_like(parameter)
    model.save_pretrained(directory)

    size = config["sample_size"]
    height, width = (size, size) if isinstance(size, int) else size
    given = {
        "sample": torch.randn(3, config["in_channels"], height, width),
        "timestep": torch.tensor([3, 471, 998]),
        "target": torch.randn(3, config["out_channels"], height, width),
    }
    if "num_class_embeds" in config:
        given["class_labels"] = torch.tensor([4, 0, 4])  # one label twice: its gradients add up

    model.double()
    output = model(given["sample"].double(), given["timestep"], given.get("class_labels")).sample
    loss = F.mse_loss(output, given["target"].double())
    loss.backward()
    computed = {"output": output.detach(), "loss": loss.detach().reshape(1)}
    computed |= {f"grad.{name}": parameter.grad for name, parameter in model.named_parameters()}
    computed = {name: tensor.float().contiguous() for name, tensor in computed.items()}
    save_file(given | computed, f"{directory}/reference.safetensors")


for seed, (name, config) in enumerate(CASES.items()):
    torch.manual_seed(seed)
    make(f"{sys.argv[1]}/{name}", config)
