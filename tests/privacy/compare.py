"""Random runs of DP-SGD accounted by this program and by dp-accounting 0.6.

By hand: python -m venv V && V/bin/pip install dp-accounting==0.6.0 && V/bin/python tests/privacy/compare.py target/release/diffuse
[--count 200] [--write tests/privacy/dp_accounting.csv]. Takes some seconds a run. `--write` stores every third as the right
values of tests/privacy.rs. dp-accounting's PLD is itself an upper bound: its grid, of 1e-4 by default, is made as fine as a
twentieth of a step's deviation, which adds some 2e-4 of epsilon.
"""

import argparse
import json
import math
import random
import subprocess

import dp_accounting
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant

parser = argparse.ArgumentParser()
parser.add_argument("binary")
parser.add_argument("--count", type=int, default=200)
parser.add_argument("--seed", type=int, default=1)
parser.add_argument("--write")
arguments = parser.parse_args()


def between(low, high):
    return math.exp(random.uniform(math.log(low), math.log(high)))


def deviation(images, batch, noise):
    """Of a step's privacy loss, nearly."""
    return batch / images * math.sqrt(math.expm1(1 / noise**2))


def drawn():
    """A run whose sum of losses deviates by neither nothing nor too much."""
    while True:
        noise, steps = round(between(0.4, 30), 3), int(between(1, 1e5))
        images = int(between(100, 1e6))
        batch = max(1, int(images * between(1e-5, 1)))
        delta = between(1e-9, 1 / images)
        if 0.05 < deviation(images, batch, noise) * math.sqrt(steps) < 3:
            return images, batch, noise, steps, float(f"{delta:.3g}")


def epsilon(accountant, images, batch, noise, steps, delta):
    step = dp_accounting.PoissonSampledDpEvent(batch / images, dp_accounting.GaussianDpEvent(noise))
    return float(accountant.compose(dp_accounting.SelfComposedDpEvent(step, steps)).get_epsilon(delta))


random.seed(arguments.seed)
stored, worst = [], {"rdp": 0, "pld above": 0, "pld below": 0}
for number in range(arguments.count):
    run = drawn()
    flags = zip(("--images", "--batch", "--noise", "--steps", "--delta"), map(str, run))
    said = subprocess.run([arguments.binary, "privacy", "--json", *sum(flags, ())], capture_output=True, text=True, check=True)
    ours = json.loads(said.stdout)["epsilon"]
    fine = PLDAccountant(value_discretization_interval=min(1e-4, 0.05 * deviation(*run[:3])))
    theirs = {"rdp": epsilon(RdpAccountant(), *run), "pld": epsilon(fine, *run)}
    worst["rdp"] = max(worst["rdp"], abs(ours["rdp"] - theirs["rdp"]))
    worst["pld above"] = max(worst["pld above"], ours["pld"] - theirs["pld"])
    worst["pld below"] = max(worst["pld below"], theirs["pld"] - ours["pld"])
    print(number, *run, f"rdp {ours['rdp']:.6f} {theirs['rdp']:.6f}", f"pld {ours['pld']:.6f} {theirs['pld']:.6f}", flush=True)
    if number % 3 == 0:
        stored.append(",".join(map(str, (*run, theirs["rdp"], theirs["pld"]))))
    if arguments.write:
        with open(arguments.write, "w") as file:
            file.write("\n".join(["images,batch,noise,steps,delta,rdp,pld", *stored]) + "\n")
print("largest differences:", worst)
