"""What power_cut.py and failing_calls.py share: a small run of `diffuse train` whose calls on files are recorded, or of which one
fails (calls.c). Linux, a C compiler, nothing but Python's own library."""

import collections
import os
import pathlib
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
STEPS, EVERY, KEEP = 15, 3, 2
WEIGHTS = ["diffusion_pytorch_model.safetensors", "trainer.safetensors"]

Call = collections.namedtuple("Call", "number name path other data")


class Runs:
    """Runs in a directory of their own, which is in memory where the system has such a place."""

    def __init__(self, command):
        shm = pathlib.Path("/dev/shm")
        self.kept = tempfile.TemporaryDirectory(dir=shm if shm.is_dir() else None)
        self.place = pathlib.Path(self.kept.name).resolve()
        self.command = command.split()
        self.library = self.place / "calls.so"
        source = pathlib.Path(__file__).with_name("calls.c")
        compiler = ["cc", "-O1", "-shared", "-fPIC", "-Wall", "-o", self.library, source, "-ldl"]
        subprocess.run(compiler, check=True)
        (self.place / "model.json").write_bytes((ROOT / "tests/checkpoints/model.json").read_bytes())

    def diffuse(self, line, **calls):
        """Runs a line; `below`, `log`, `at`, `error`, `forget` as calls.c says."""
        environment = dict(os.environ)
        if calls:
            environment["LD_PRELOAD"] = str(self.library)
            environment.update({f"CALLS_{name.upper()}": str(value) for name, value in calls.items()})
        done = subprocess.run(self.command + line, cwd=self.place, env=environment, capture_output=True, text=True)
        # What a library says of the environment is no word of ours.
        done.said = [line for line in done.stderr.split("\n") if line and "XDG_RUNTIME_DIR" not in line]
        return done

    def train(self, out, steps=STEPS, keep=KEEP, **calls):
        line = f"train --resume --data digits --model model.json --batch 2 --checkpoint-every {EVERY} --sample-every 0 --tune off"
        return self.diffuse(line.split() + ["--steps", str(steps), "--keep", str(keep), "--out", str(out)], **calls)

    def record(self, out, log, **calls):
        """Trains and adds what it did to `log`, in the directory above `out`, too."""
        return self.train(out, below=out.parent, log=log, **calls)


def read(log):
    """The calls of a log."""
    calls = []
    for line in pathlib.Path(log).read_text().splitlines():
        number, name, path, other, data = line.split("\t")
        calls.append(Call(int(number), name, path, other, bytes.fromhex(data)))
    return calls


def metrics(run):
    """What a run's metrics say, without the time it took."""
    path = run / "metrics.csv"
    text = path.read_text(errors="replace") if path.is_file() else ""
    return [line.split(",")[:4] for line in text.splitlines()]


def differences(run, other):
    """Which files of two finished runs differ that must not."""
    differ = [name for name in WEIGHTS if read_bytes(run, name) != read_bytes(other, name)]
    return differ + (["metrics.csv"] if metrics(run) != metrics(other) else [])


def read_bytes(run, name):
    path = run / "checkpoint" / name
    return path.read_bytes() if path.is_file() else None
