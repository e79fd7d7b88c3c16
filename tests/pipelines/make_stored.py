"""Makes stored/, which tests/cli/pipelines.rs reads: a pipeline of diffusers, as small as they come, and what it draws.

usage: python make_stored.py      (needs torch, diffusers 0.42.1, safetensors; writes beside itself)

stored/ is a DDPMPipeline as `save_pretrained` writes it, the fp16 variant alone, of weights that half precision has.
images.safetensors: x_T and noise.i of deviation 1, and what the pipeline draws of them (`ddpm`), and a DDIMPipeline of the
same network with eta 0 (`ddim`) and 0.7, without and with `use_clipped_model_output` (`ddim_eta`, `ddim_eta_clipped`).
"""
import os

import diffusers
import torch
from drawing import draw, noise_of
from safetensors.torch import save_file

HERE, STEPS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "stored"), 4


def main():
    diffusers.utils.logging.set_verbosity_error()
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(sample_size=(8, 6), in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(4, 4), norm_num_groups=2,
                                 add_attention=False, down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D")).eval()
    with torch.no_grad():  # an output of about the size of noise
        unet.conv_out.weight *= 2
    unet = unet.half().float()
    noise = noise_of((2, 1, 8, 6), STEPS)
    scheduler = diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")
    images = {"ddpm": draw(diffusers.DDPMPipeline(unet, scheduler), noise, STEPS)}
    ddim = diffusers.DDIMPipeline(unet, scheduler)
    images["ddim"] = draw(ddim, noise, STEPS)
    images["ddim_eta"] = draw(ddim, noise, STEPS, eta=0.7)
    images["ddim_eta_clipped"] = draw(ddim, noise, STEPS, eta=0.7, use_clipped_model_output=True)
    save_file({name: tensor.contiguous() for name, tensor in {**noise, **images}.items()}, os.path.join(HERE, "images.safetensors"))
    diffusers.DDPMPipeline(unet.half(), scheduler).save_pretrained(HERE, variant="fp16")


if __name__ == "__main__":
    os.makedirs(HERE, exist_ok=True)
    main()
