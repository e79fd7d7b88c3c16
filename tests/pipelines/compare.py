"""Pipelines in both directions: those that diffusers saved, drawn by this program, and those that `diffuse export` wrote,
loaded by `DDPMPipeline.from_pretrained` and drawn by diffusers unedited. Each pair starts from one noise.

usage: python compare.py DIFFUSE       (needs torch, diffusers 0.42.1, safetensors)

DIFFUSE is the program; it runs on its usual adapter (`DIFFUSE_RUN`: words in front of it, such as a wrapper). Not part of
`cargo test`. Equal images are off by no more than 1e-3 anywhere, of [-1, 1]; the script fails at the first that aren't, and
where something is written that should have been refused.
"""
import json
import os
import shlex
import subprocess
import sys
import tempfile

import diffusers
import torch
from drawing import draw, given, noise_of
from safetensors.torch import load_file, save_file

PROGRAM, STEPS = os.path.abspath(sys.argv[1]), 6
WEIGHTS, MODEL = "diffusion_pytorch_model.safetensors", dict(layers_per_block=1, block_out_channels=(8, 16), norm_num_groups=4, attention_head_dim=8,
             down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"))


def network(channels=3, size=16, **more):
    """A U-Net of random weights, which half precision has, too."""
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(sample_size=size, in_channels=channels, **{"out_channels": channels, **MODEL, **more})
    return unet.half().float().eval()


def diffuse(*words, fails=False):
    line = [*shlex.split(os.environ.get("DIFFUSE_RUN", "")), PROGRAM, *map(str, words), "--tune", "off"]
    run = subprocess.run(line, capture_output=True, text=True)
    if (run.returncode != 0) != fails:
        sys.exit(f"{shlex.join(line)}: {run.returncode}\n{run.stderr}")
    return run.stderr.strip().splitlines()[-1] if fails else run.stdout


def sampled(checkpoint, noise, *flags, steps=STEPS):
    """What this program draws, clamped as pipelines clamp."""
    save_file(noise, "noise.st")
    diffuse("sample", checkpoint, "--count", len(noise["x_T"]), "--steps", steps, "--noise", "noise.st", "--out", "s.png", "--tensor", "s.st", *flags)
    return load_file("s.st")["samples"].clamp(-1, 1)


def equal(name, ours, theirs):
    off = float((ours - theirs).abs().max())
    print(f"{name}: off by {off:.1e}", flush=True)
    if not off <= 1e-3 or theirs.abs().max() < 0.1:
        sys.exit(f"{name}: not the same images")


def of_diffusers():
    """What diffusers saved is drawn here."""
    classes = {"ddpm": (diffusers.DDPMPipeline, diffusers.DDPMScheduler), "ddim": (diffusers.DDIMPipeline, diffusers.DDIMScheduler)}
    for size, channels in ((16, 3), ((8, 12), 1)):
        shape = (2, channels, size if isinstance(size, int) else size[0], size if isinstance(size, int) else size[1])
        noise = noise_of(shape, STEPS)
        for name, (pipeline_class, scheduler_class) in classes.items():
            for prediction in ("epsilon", "v_prediction", "sample"):
                pipeline = pipeline_class(network(channels, size), scheduler_class(prediction_type=prediction))
                pipeline.save_pretrained("pipe")
                equal(f"{name} of diffusers, {prediction}, {size}", sampled("pipe", noise), draw(pipeline, noise, STEPS))
    noise = noise_of((2, 3, 16, 16), STEPS)
    for eta in (0.0, 0.7):
        for threshold in (False, True):
            scheduler = diffusers.DDIMScheduler(thresholding=threshold, dynamic_thresholding_ratio=0.9)
            pipeline = diffusers.DDIMPipeline(network(), scheduler)
            pipeline.save_pretrained("ddim")
            drawn = [draw(pipeline, noise, STEPS, eta=eta, use_clipped_model_output=clipped) for clipped in (None, False, True)]
            if not torch.equal(drawn[0], drawn[1]) or (drawn[1] - drawn[2]).abs().max() < 0.01:
                sys.exit("use_clipped_model_output: false is the default of DDIMPipeline no more, or changes nothing")
            flags = ["--use-clipped-model-output"]
            for said, want in (([], drawn[0]), ([*flags, "false"], drawn[1]), ([*flags, "true"], drawn[2])):
                equal(f"ddim, eta {eta}, thresholding {threshold}, {' '.join(said)}", sampled("ddim", noise, "--eta", eta, *said), want)


def layouts():
    """One network in every layout draws the same."""
    unet, scheduler, noise = network(), diffusers.DDPMScheduler(), noise_of((2, 3, 16, 16), STEPS)
    want = draw(diffusers.DDPMPipeline(unet, scheduler), noise, STEPS)
    place = lambda name: (unet.save_pretrained(name), scheduler.save_pretrained(name))
    place("plain")
    plain = sampled("plain", noise)
    equal("plain", plain, want)
    pipeline = lambda unet: diffusers.DDPMPipeline(unet, scheduler)
    pipeline(unet).save_pretrained("pipeline")
    pipeline(unet).save_pretrained("sharded", max_shard_size="40KB")
    pipeline(network().half()).save_pretrained("half", variant="fp16")
    pipeline(network().half()).save_pretrained("half_sharded", variant="fp16", max_shard_size="20KB")
    pipeline(unet).save_pretrained("non_ema", variant="non_ema")
    os.makedirs("accelerate", exist_ok=True)
    unet.save_pretrained("accelerate/unet_ema")
    scheduler.save_pretrained("accelerate/scheduler")
    broken = network()
    broken.conv_in.weight.data.zero_()
    broken.save_pretrained("accelerate/unet")
    for prefix in ("module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod."):
        name = prefix.strip(".")
        place(name)
        file = f"{name}/{WEIGHTS}"
        save_file({prefix + key: tensor for key, tensor in load_file(file).items()}, file, metadata={"format": "pt"})
    place("dropout")
    config = json.load(open("dropout/config.json"))
    json.dump({**config, "dropout": 0.3}, open("dropout/config.json", "w"))
    shards = [name for name in os.listdir("sharded/unet") if "-of-" in name]
    if len(shards) < 2 or not any("-of-" in name and "fp16" in name for name in os.listdir("half_sharded/unet")):
        sys.exit("not sharded")
    paths = ["pipeline", "pipeline/unet", f"plain/{WEIGHTS}", "sharded", "half", "half/unet", "half/unet/diffusion_pytorch_model.fp16.safetensors",
             "half_sharded", "non_ema", "accelerate", "module", "_orig_mod", "_orig_mod.module", "module._orig_mod", "dropout"]
    for path in paths:
        drawn = sampled(path, noise)
        if not torch.equal(drawn, plain):
            sys.exit(f"{path}: off from the plain layout by {float((drawn - plain).abs().max()):.1e}")
        print(f"{path}: the same picture", flush=True)
    place("nosize")
    config = json.load(open("nosize/config.json"))
    json.dump({**config, "sample_size": None}, open("nosize/config.json", "w"))
    equal("a size that is typed", sampled("nosize", noise, "--size", "16"), want)
    wide = noise_of((2, 3, 8, 24), STEPS)
    net = diffusers.UNet2DModel.from_pretrained("nosize").eval()
    net.register_to_config(sample_size=(8, 24))
    equal("a size that is typed, not square", sampled("nosize", wide, "--size", "8x24"), draw(pipeline(net), wide, STEPS))


def exported(name, checkpoint, shape, *flags):
    """The pipeline that `export` writes draws what `sample` draws, here and in diffusers; in diffusers by the lines that are printed if some are."""
    place = f"exported_{name}"
    lines = diffuse("export", checkpoint, "--pipeline", place, *flags)
    steps = 50 if lines else STEPS
    noise = noise_of(shape, steps)
    pipeline = diffusers.DDPMPipeline.from_pretrained(place)
    if lines:
        said = {}
        with given(noise, pipeline.scheduler):
            exec(lines, said)
        theirs = said["x"].clamp(-1, 1)
    else:
        theirs = draw(pipeline, noise, steps)
    ours = sampled(checkpoint, noise, steps=steps)
    equal(f"exported {name}{f', by the {len(lines.splitlines())} lines' if lines else ''}", ours, theirs)
    if not torch.equal(sampled(place, noise, steps=steps), ours):
        sys.exit(f"{place}: drawn otherwise here than what it was made of")
    refused = diffuse("export", checkpoint, "--pipeline", place, fails=True)
    if "--replace" not in refused:
        sys.exit(refused)
    diffuse("export", checkpoint, "--pipeline", place, "--replace", *flags)
    return pipeline


def exports():
    with open("rgb.json", "w") as f:
        json.dump({"_class_name": "UNet2DModel", "sample_size": 16, "in_channels": 1, "out_channels": 1, **MODEL}, f)
    train = lambda out, *flags: diffuse("train", "--data", "digits", "--steps", 12, "--batch", 8, "--lr", "4e-3", "--warmup", 0, "--sample-every", 0, "--out", out, *flags)
    for target in ("epsilon", "v", "x0"):
        for schedule in ("linear", "cosine"):
            train(f"run_{target}_{schedule}", "--model", "rgb.json", "--target", target, "--schedule", schedule)
            exported(f"{target}_{schedule}", f"run_{target}_{schedule}", (2, 1, 16, 16))
    train("run_sigmoid", "--model", "rgb.json", "--schedule", "sigmoid")
    exported("sigmoid", "run_sigmoid", (2, 1, 16, 16))
    train("run_digits")
    exported("conditional", "run_digits", (10, 1, 16, 16))
    # As diffusers' users train them: a class an embedding.
    unet = network(3, 16, num_class_embeds=4)
    unet.save_pretrained("four")
    diffusers.DDPMScheduler().save_pretrained("four")
    exported("four_classes", "four", (4, 3, 16, 16))
    for name in ("DDIM", "EulerDiscrete", "HeunDiscrete", "DPMSolverMultistep", "UniPCMultistep"):
        network().save_pretrained(name)
        getattr(diffusers, f"{name}Scheduler")(beta_schedule="scaled_linear", steps_offset=1).save_pretrained(name)
        exported(name, name, (4, 3, 16, 16))
    if diffusers.DiffusionPipeline.from_pretrained("exported_DDIM").__class__.__name__ != "DDIMPipeline":
        sys.exit("exported_DDIM is no DDIMPipeline")
    trained = network()
    trained.save_pretrained("betas")
    diffusers.DDPMScheduler(trained_betas=torch.linspace(1e-3, 0.03, 300).tolist(), num_train_timesteps=300, timestep_spacing="trailing",
                            variance_type="fixed_large", clip_sample_range=2.0).save_pretrained("betas")
    exported("betas", "betas", (2, 3, 16, 16))
    # Its noise can't be given here: ddim draws with the half of the output that isn't the variance.
    train("run_learned", "--model", "rgb.json", "--learned-variance")
    diffuse("export", "run_learned", "--pipeline", "exported_learned")
    pipeline, noise = diffusers.DDPMPipeline.from_pretrained("exported_learned"), noise_of((2, 1, 16, 16), STEPS)
    if not torch.isfinite(draw(pipeline, noise, STEPS)).all() or pipeline.scheduler.config.variance_type != "learned_range":
        sys.exit("exported_learned: not drawn")
    ddim, x = diffusers.DDIMScheduler.from_config(pipeline.scheduler.config), noise["x_T"]
    ddim.set_timesteps(STEPS)
    with torch.no_grad():
        for t in ddim.timesteps:
            x = ddim.step(pipeline.unet(x, t).sample[:, :1], t, x, use_clipped_model_output=True).prev_sample
    equal("exported learned variance, by ddim", sampled("run_learned", noise, "--sampler", "ddim", "--use-clipped-model-output", "true"), x.clamp(-1, 1))
    for flags in ("--target score", "--target edm", "--target flow", "--schedule vp", "--schedule sub-vp", "--schedule ve --sigma-max 20", "--schedule edm --target edm",
                  "--schedule flow --target flow"):
        out = "run_" + flags.replace(" ", "_")
        train(out, "--model", "rgb.json", *flags.split())
        line = diffuse("export", out, "--pipeline", f"exported_{out}", fails=True)
        print(f"{flags}: {line}", flush=True)
        if os.path.exists(f"exported_{out}") or not line.startswith("error: diffusers' schedulers have no "):
            sys.exit(f"{flags}: not refused")


def main():
    diffusers.utils.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        of_diffusers()
        layouts()
        exports()
    print(f"diffusers {diffusers.__version__}, torch {torch.__version__}: all the same")


if __name__ == "__main__":
    main()
