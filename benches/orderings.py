#!/usr/bin/env python3
"""Orderings that the papers report, looked for on the embedded digits: trains small models, judges what they draw, and
prints markdown tables.

  python3 benches/orderings.py [--out DIR] [--steps 2500] [--count 1000] [--images 64] [--only PART ...]

Parts: eta, variance, bound, flow, guidance, classifier, samplers. A model or figure that DIR already holds is not made again.

  DIFFUSE   the command that runs diffuse, a driver's wrapper before it    [default: target/release/diffuse]
"""
import argparse
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

DIFFUSE = shlex.split(os.environ.get("DIFFUSE", "target/release/diffuse"))
DENOISER = "train --data digits --batch 32 --lr 3e-3 --ema-decay 0.995 --sample-every 0 --checkpoint-every 0 --schedule linear"
CLASSIFIER = "train-classifier --data digits --steps 1500 --lr 3e-3 --schedule linear"
MODELS = {
    "simple": DENOISER,
    "variational": DENOISER + " --loss-weight variational",
    "hybrid": DENOISER + " --learned-variance",
    # One steers, the other judges.
    "guide": CLASSIFIER,
    "judge": CLASSIFIER + " --seed 1",
}
# Evaluations of the network that each sampler is given in turn.
BUDGETS = [10, 20, 50]
# Name, evaluations a step, evaluations that the last step saves.
SAMPLERS = [
    ("ddpm", 1, 0), ("ddim", 1, 0), ("euler", 1, 0), ("euler-ancestral", 1, 0), ("heun", 2, 1), ("dpm++", 1, 0),
    ("dpm++-sde", 1, 0), ("unipc", 1, 0), ("reverse-sde", 1, 0), ("pc", 2, 0),
]


def diffuse(arguments):
    print("+ diffuse", arguments, file=sys.stderr)
    done = subprocess.run(DIFFUSE + shlex.split(arguments), stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"diffuse {arguments}: exit code {done.returncode}")
    return done.stdout


class Bench:
    def __init__(self, arguments):
        self.out, self.steps = Path(arguments.out), arguments.steps
        self.count, self.images = arguments.count, arguments.images
        self.out.mkdir(parents=True, exist_ok=True)

    def model(self, name):
        """The run directory of a model, which is trained if it isn't there."""
        path = self.out / name
        if not (path / "checkpoint").exists():
            steps = "" if MODELS[name].startswith(CLASSIFIER) else f" --steps {self.steps}"
            diffuse(f"{MODELS[name]}{steps} --out {path}")
        return path

    def evaluate(self, name, flags):
        """What `evaluate --json` says, kept in a file."""
        path = self.out / "figures" / (f"{name} {flags}".replace("/", "_").replace(" ", "_") + ".json")
        if not path.exists():
            text = diffuse(f"evaluate {self.model(name)} --data digits --out {self.out / 'pictures'} --json {flags}")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        return json.loads(path.read_text())

    def judged(self, flags):
        return f"--quality --judge {self.model('judge')} --count {self.count} --batch 100 {flags}"

    def quality(self, flags, name="simple"):
        return self.evaluate(name, self.judged(flags))["quality_on_classifier_features"]

    def bound(self, name, flags=""):
        return self.evaluate(name, f"--likelihood vlb --count {self.images} --batch 64 {flags}")["variational_bound"]["total"]


def measured(figure, digits=2):
    return f"{figure['value']:.{digits}f} ± {figure['margin']:.{digits}f}"


def frechet(report):
    return measured(report["samples"]["frechet_distance"])


def bits(estimate):
    return f"{estimate['mean']:.3f} ± {estimate['standard_error']:.3f}"


def accuracy(report):
    return f"{100 * report['samples']['accuracy']:.1f} %"


def nearest(report):
    """The median distance to the nearest training image: noise that the classifier doesn't mind shows in it."""
    return f"{report['nearest']['quantiles'][1]:.3f}"


def table(head, rows):
    print("\n| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)


def eta(bench):
    rows = []
    for steps in [5, 10, 20, 50]:
        reports = [bench.quality(f"--guidance 1 --sampler ddim --eta {eta} --steps {steps}") for eta in [0, 1]]
        rows.append([str(steps)] + [text(report) for report in reports for text in (frechet, accuracy)])
    table(["ddim steps", "Fréchet, eta 0", "accuracy", "Fréchet, eta 1", "accuracy"], rows)


def variance(bench):
    rows = []
    for steps in [10, 20, 50]:
        flags = f"--guidance 1 --sampler ddpm --steps {steps} --variance"
        reports = [bench.quality(f"{flags} {name}") for name in ["fixed-small", "fixed-large"]]
        reports.append(bench.quality(f"{flags} learned", "hybrid"))
        rows.append([str(steps)] + [text(report) for report in reports for text in (frechet, accuracy, nearest)])
    columns = lambda name: (f"Fréchet, {name}", "accuracy", "nearest")
    head = ["ddpm steps"] + [column for name in ["beta-tilde", "beta", "learned"] for column in columns(name)]
    table(head, rows)


def bound(bench):
    rows = []
    for name, variances in [("simple", ["fixed-small", "fixed-large"]), ("variational", ["fixed-small", "fixed-large"]),
                            ("hybrid", ["fixed-small", "fixed-large", "learned"])]:
        report = bench.quality("--guidance 1 --sampler ddim --steps 50", name)
        for variance in variances:
            found = bits(bench.bound(name, f"--variance {variance}"))
            rows.append([name, variance, found, frechet(report), accuracy(report)])
    table(["training", "variance of the bound", "bits per dimension", "Fréchet, ddim 50", "accuracy"], rows)


def flow(bench):
    rows = []
    for name, variance in [("simple", "fixed-small"), ("variational", "fixed-small"), ("hybrid", "learned")]:
        rows.append([name, bits(bench.bound(name, f"--variance {variance}"))])
        for dequantization in ["gaussian", "uniform"]:
            flags = f"--likelihood ode --count {bench.images} --batch 64 --dequantize {dequantization}"
            rows[-1].append(bits(bench.evaluate(name, flags)["probability_flow"]["total"]))
    table(["training", "bound", "flow and the bound's decoder", "flow, uniformly dequantized"], rows)


def guided(bench, head, settings):
    rows = []
    for name, flags in settings:
        report = bench.quality(f"--sampler ddim --steps 20 {flags}")
        samples = report["samples"]
        rows.append([name, accuracy(report), frechet(report), measured(samples["precision"]), measured(samples["recall"])])
    floor = report["floor"]
    rows.append(["test images", f"{100 * floor['accuracy']:.1f} %", measured(floor["frechet_distance"]),
                 measured(floor["precision"]), measured(floor["recall"])])
    table([head, "accuracy", "Fréchet", "precision", "recall"], rows)


def guidance(bench):
    guided(bench, "classifier-free S", [(str(scale), f"--guidance {scale}") for scale in [0, 1, 2, 4, 8]])


def classifier(bench):
    guide = bench.model("guide")
    settings = [(str(scale), f"--guidance 0 --classifier {guide} --classifier-scale {scale}") for scale in [0, 1, 2, 4, 8]]
    guided(bench, "classifier s, no class told", settings)


def samplers(bench):
    rows = []
    for name, each, saved in SAMPLERS:
        reports = [bench.quality(f"--guidance 1 --sampler {name} --steps {(budget + saved) // each}") for budget in BUDGETS]
        rows.append([f"`{name}`"] + [frechet(report) for report in reports])
    settings = bench.evaluate("simple", bench.judged("--guidance 1 --sampler rk45"))
    report = settings["quality_on_classifier_features"]
    evaluations = settings["drawn"]["evaluations_per_sample"]
    rows.append(["`rk45`", "", "", f"{frechet(report)} in {evaluations:.0f} evaluations"])
    floor = measured(report["floor"]["frechet_distance"])
    rows.append(["test images", floor, floor, floor])
    table(["sampler"] + [f"{budget} evaluations" for budget in BUDGETS], rows)


PARTS = {part.__name__: part for part in [eta, variance, bound, flow, guidance, classifier, samplers]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="runs/orderings", help="where models and figures are kept")
    parser.add_argument("--steps", type=int, default=2500, help="training steps of the U-Nets")
    parser.add_argument("--count", type=int, default=1000, help="samples judged")
    parser.add_argument("--images", type=int, default=64, help="images whose bound is computed")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    arguments = parser.parse_args()
    bench = Bench(arguments)
    for part in arguments.only:
        PARTS[part](bench)


if __name__ == "__main__":
    main()
