"""Writes src/checkpoint/scheduler/defaults.json: the defaults of the constructors of diffusers' schedulers that are read here.

usage: python make_defaults.py      (needs torch and diffusers 0.42.1)
"""
import inspect
import json
import math
import os

import diffusers

CLASSES = ["DDPM", "DDIM", "PNDM", "EulerDiscrete", "EulerAncestralDiscrete", "HeunDiscrete", "LMSDiscrete", "KDPM2Discrete",
           "KDPM2AncestralDiscrete", "DEISMultistep", "DPMSolverSinglestep", "DPMSolverMultistep", "UniPCMultistep"]


def defaults(name):
    parameters = inspect.signature(getattr(diffusers, name).__init__).parameters
    written = lambda value: "-Infinity" if value == -math.inf else value
    return {key: written(parameter.default) for key, parameter in parameters.items() if key != "self"}


def main():
    root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
    lines = [f'  "{name}Scheduler": {json.dumps(defaults(name + "Scheduler"))}' for name in CLASSES]
    with open(os.path.join(root, "src", "checkpoint", "scheduler", "defaults.json"), "w") as f:
        f.write("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
