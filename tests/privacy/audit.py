"""Lower bounds on epsilon out of guesses about canaries, by scipy: the right values of tests/privacy.rs.

By hand: python -m venv V && V/bin/pip install scipy==1.17.1 && V/bin/python tests/privacy/audit.py > tests/privacy/audit.csv

Steinke, Nasr & Jagielski 2023, "Privacy Auditing with One (1) Training Run", theorem 5.2 as it stands, solved by Brent's method. Where
2 m delta is above 1 the program is a little more careful, so that no such case stands here.
"""

import math
import random

import numpy
from scipy.optimize import brentq
from scipy.special import expit
from scipy.stats import binom


def chance(canaries, guesses, right, delta, epsilon):
    def at_least(count):
        return binom.sf(count - 1, guesses, expit(epsilon))

    less = numpy.arange(1, right + 1)
    steepest = numpy.max((at_least(right - less) - at_least(right)) / less) if right else 0.0
    return at_least(right) + 2 * canaries * delta * steepest


def bound(canaries, guesses, right, delta, confidence):
    def excess(epsilon):
        return chance(canaries, guesses, right, delta, epsilon) - (1 - confidence)

    return brentq(excess, 0, 40, xtol=1e-12, rtol=1e-13) if excess(0) < 0 else 0.0


def drawn():
    canaries = int(10 ** random.uniform(0.5, 4))
    guesses = random.randint(1, canaries)
    right = guesses - int(guesses * random.choice([0, random.uniform(0, 0.1), random.uniform(0, 0.6)]))
    delta = random.choice([0.0, float(f"{10 ** random.uniform(-9, 0) / (2 * canaries):.3g}")])
    return canaries, guesses, right, delta, random.choice([0.9, 0.95, 0.99, 0.9875])


random.seed(1)
print("canaries,guesses,right,delta,confidence,epsilon")
for case in (drawn() for _ in range(60)):
    epsilon = bound(*case)
    assert math.isfinite(epsilon)
    print(*case, epsilon, sep=",")
