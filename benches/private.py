#!/usr/bin/env python3
"""What differential privacy costs on the embedded digits: trains one small U-Net plainly and under several budgets, with as
many steps, judges all alike, and prints markdown tables.

  python3 benches/private.py MNIST [--out DIR] [--steps 360] [--batch 256] [--count 1000] [--jobs N] [--only NAME ...]

MNIST is a directory with MNIST's 60,000 training images: from them learns the judge. The embedded digits are 10,000 others, of
which the networks see all: errors by noise level are those of images trained on. A model or figure that DIR already holds is not
made again, and what was interrupted goes on. Each training has a core of its own, --jobs of them at a time. Private runs draw
their noise from the operating system: none gives the same figures twice.

  DIFFUSE   the command that runs diffuse, a driver's wrapper before it    [default: target/release/diffuse]
"""
import argparse
import json
import os
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

DIFFUSE = shlex.split(os.environ.get("DIFFUSE", "target/release/diffuse"))
# The `digits` preset with fewer channels: 173,561 parameters.
MODEL = {
    "_class_name": "UNet2DModel", "sample_size": 16, "in_channels": 1, "out_channels": 1, "block_out_channels": [8, 16, 32],
    "down_block_types": ["DownBlock2D", "DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D", "UpBlock2D"], "layers_per_block": 1, "norm_num_groups": 8,
    "norm_eps": 1e-5, "attention_head_dim": 8, "num_class_embeds": 11, "_null_class": 10,
}
TRAIN = "train --resume --data digits --lr 2e-3 --sample-every 0 --checkpoint-every 40 --keep 0 --audit-every 0 --json"
PRIVATE = "--dp-delta 1e-5 --dp-draws 1 --dp-epsilon"
MODELS = {
    "plain": "--schedule edm --target edm --timestep-draw edm --ema-decay 0.999 --weight-decay 0",
    "epsilon 10": f"{PRIVATE} 10",
    "epsilon 1": f"{PRIVATE} 1",
    "epsilon 10, even": f"{PRIVATE} 10 --timestep-draw even",
    "epsilon 10, high": f"{PRIVATE} 10 --timestep-draw high",
}
JUDGE = "train-classifier --resume --size 16 --schedule edm --steps 1500 --lr 3e-3 --json"


def diffuse(arguments, log=None, **environment):
    print("+ diffuse", shlex.join(arguments), file=sys.stderr)
    done = subprocess.run(DIFFUSE + arguments, stdout=subprocess.PIPE, stderr=log, text=True, env={**os.environ, **environment})
    if done.returncode != 0:
        raise SystemExit(f"diffuse {shlex.join(arguments)}: exit code {done.returncode}")
    return done.stdout


class Bench:
    def __init__(self, arguments):
        self.arguments = arguments
        self.out = Path(arguments.out) / f"{arguments.steps}x{arguments.batch}"
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / "model.json").write_text(json.dumps(MODEL))

    def path(self, name, suffix=""):
        return self.out / (name.replace(", ", "-").replace(" ", "-") + suffix)

    def train(self, name):
        """On the core of this thread, where lavapipe makes none of its own."""
        figures = self.path(name, ".json")
        if figures.exists():
            return
        size = ["--steps", str(self.arguments.steps), "--batch", str(self.arguments.batch)]
        model = ["--model", str(self.out / "model.json"), "--out", str(self.path(name))]
        with open(self.path(name, ".log"), "a") as log:
            said = diffuse(TRAIN.split() + size + model + MODELS[name].split(), log, LP_NUM_THREADS="0")
        if not json.loads(said)["done"]:
            raise SystemExit(f"{name}: interrupted")
        figures.write_text(said)

    def train_all(self, names):
        cores = SimpleQueue()
        for core in sorted(os.sched_getaffinity(0)):
            cores.put(core)
        jobs = min(self.arguments.jobs, cores.qsize())
        with ThreadPoolExecutor(jobs, initializer=lambda: os.sched_setaffinity(0, {cores.get()})) as pool:
            list(pool.map(self.train, names))

    def judge(self):
        path = Path(self.arguments.out) / "judge"
        figures = path.with_suffix(".json")
        if not figures.exists():
            said = diffuse(JUDGE.split() + ["--data", self.arguments.mnist, "--out", str(path)])
            if not said:
                raise SystemExit("judge: interrupted")
            figures.write_text(said)
        return path

    def evaluate(self, name):
        figures = self.path(name, f".{self.arguments.count}.json")
        if not figures.exists():
            quality = ["--quality", "--judge", str(self.judge()), "--count", str(self.arguments.count), "--batch", "100"]
            drawn = "--sampler ddpm --steps 50 --guidance 1 --levels --json".split()
            pictures = ["--out", str(self.path(name, ".pictures"))]
            figures.write_text(diffuse(["evaluate", str(self.path(name)), "--data", "digits"] + quality + drawn + pictures))
        return json.loads(figures.read_text())


def table(head, rows):
    print("\n| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)


def measured(figure):
    return f"{figure['value']:.2f} ± {figure['margin']:.2f}"


def quality(name, parts, structure):
    energies = " / ".join(f"{energy:.2f}" for energy in structure["energies"])
    shares = [measured(parts[key]) for key in ("frechet_distance", "precision", "recall")]
    return [name, f"{100 * parts['accuracy']:.1f} %", *shares, f"{structure['halves']:.2f}", energies, f"{structure['patches']:.3f}"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mnist")
    parser.add_argument("--out", default="runs/private")
    parser.add_argument("--steps", type=int, default=360)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--only", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--train", action="store_true", help="train, and judge another time")
    arguments = parser.parse_args()
    bench = Bench(arguments)
    bench.train_all(arguments.only)
    if arguments.train:
        return
    reports = {name: bench.evaluate(name) for name in arguments.only}

    found = {name: report["quality_on_classifier_features"] for name, report in reports.items()}
    head = ["", "class accuracy", "Fréchet", "precision", "recall", "halves", "energies, low / middle / high", "patches"]
    rows = [quality(name, of["samples"], of["structure"][0]) for name, of in found.items()]
    first = next(iter(found.values()))
    rows.append(quality("images trained on", first["floor"], first["structure"][1]))
    table(head, rows)

    rows = []
    for levels in zip(*(report["levels"] for report in reports.values())):
        errors = [" / ".join(f"{level[band]:.2g}" for band in ("low", "middle", "high")) for level in levels]
        rows.append([str(levels[0]["timestep"])] + errors)
    table(["timestep"] + list(reports), rows)


main()
