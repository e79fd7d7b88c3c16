"""Which checkpoint a run goes on from when the power fails while it saves. By hand, on Linux.

    python3 tests/storage/power_cut.py [--states 2000] [--seed 1] [--diffuse "wrapper target/release/diffuse"] [--forget PATTERN]

A run of a few saves is recorded, call by call, and so is one that was killed in the middle of a save and went on. Then states are
made of what a disk may hold if the power fails behind a random call: of a file what was synced, and of the rest all, nothing, a
part, or blocks of zeros; of a directory the names that it had when it was synced, and of later changes none, those up to some
moment, or any. (Only a rename within a directory is one change.) In each state `diffuse verify` must find nothing torn, and
`train --resume` go on from the newest checkpoint whose save had ended, or from a later one, bit by bit as it was saved, with all
lines of metrics up to there; every tenth state is trained to its end, to the bits of a run that nothing befell.

--forget PATTERN: fsyncs of paths like that, relative to the run, are passed over, as if the program had none. This must fail of
`.`, `..`, `metrics.csv`, `checkpoint.new`, `checkpoint.new/.diffuse*`, and `checkpoints`.
Exit status 1 if a state is not as it should be."""

import argparse
import collections
import hashlib
import json
import os
import random
import re
import shutil
import sys

import calls
from calls import EVERY, STEPS, Runs


# The others leave a disk as it is.
CHANGES = ["create", "mkdir", "write", "sync", "rename", "unlink", "rmdir", "truncate"]


class File:
    def __init__(self):
        self.data, self.synced = bytearray(), b""


class Directory:
    def __init__(self):
        self.names, self.synced = {}, {}
        # What happened since: (when, change), a change being [(name, file, whether it is there from then on)].
        self.changes = []


class Disk:
    """Files as the program sees them, and which of it lasts."""

    def __init__(self, root):
        self.root, self.top, self.now = str(root), Directory(), 0

    def find(self, path):
        node = self.top
        for name in path[len(self.root) :].split("/"):
            if name:
                node = node.names.get(name) if isinstance(node, Directory) else None
        return node

    def above(self, path):
        directory, _, name = path.rpartition("/")
        return self.find(directory), name

    def change(self, directory, *change):
        directory.changes.append((self.now, change))
        apply(directory.names, change)

    def put(self, path, node):
        directory, name = self.above(path)
        if name not in directory.names:
            self.change(directory, (name, node, True))

    def remove(self, path):
        directory, name = self.above(path)
        if directory is not None and name in directory.names:
            self.change(directory, (name, directory.names[name], False))

    def rename(self, path, to):
        (source, old), (target, new) = self.above(path), self.above(to)
        node = source and source.names.get(old)
        if node is None:
            return
        gone, come = (old, node, False), (new, node, True)
        if source is target:
            self.change(source, gone, come)
        else:
            self.change(target, come)
            self.change(source, gone)

    def do(self, call):
        self.now += 1
        if call.name == "create":
            self.put(call.path, File())
        elif call.name == "mkdir":
            self.put(call.path, Directory())
        elif call.name == "write":
            self.find(call.path).data += call.data
        elif call.name == "sync":
            sync(self.find(call.path))
        elif call.name == "rename":
            self.rename(call.path, call.other)
        elif call.name in ("unlink", "rmdir"):
            self.remove(call.path)
        else:
            assert False, call


def apply(names, change):
    for name, node, is_there in change:
        if is_there:
            names[name] = node
        elif names.get(name) is node:
            del names[name]


def sync(node):
    if isinstance(node, File):
        node.synced = bytes(node.data)
    else:
        node.synced, node.changes = dict(node.names), []


def torn(file, draw):
    """What is left of a file."""
    synced, rest = file.synced, bytes(file.data[len(file.synced) :])
    kind = draw.choice(["all", "nothing", "part", 512, 4096])
    if kind == "nothing":
        rest = b""
    elif kind == "part":
        rest = rest[: draw.randrange(len(rest) + 1)]
    elif kind != "all":
        blocks = [rest[at : at + kind] for at in range(0, len(rest), kind)]
        rest = b"".join(block if draw.random() < 0.5 else bytes(len(block)) for block in blocks)
    return synced + rest


def left(directory, draw, lasts, path=""):
    """Files by path that a power failure leaves; None is a directory."""
    names = dict(directory.synced)
    for when, change in directory.changes:
        if lasts(when):
            apply(names, change)
    tree = {}
    for name, node in names.items():
        if isinstance(node, File):
            tree[f"{path}{name}"] = torn(node, draw)
        else:
            tree[f"{path}{name}"] = None
            tree.update(left(node, draw, lasts, f"{path}{name}/"))
    return tree


def cut(recorded, root, draw):
    """A disk at a random call, and what is left of it."""
    disk = Disk(root)
    at = draw.randrange(len(recorded) + 1)
    for call in recorded[:at]:
        disk.do(call)
    until = draw.randrange(disk.now + 1)
    lasts = draw.choice([lambda _: True, lambda _: False, lambda when: when <= until, lambda _: draw.random() < 0.5])
    return at, left(disk.top, draw, lasts)


def saves(recorded, root, run):
    """(call at which it was in place, call behind its end, step, its files) of each save."""
    disk, found = Disk(root), []
    for number, call in enumerate(recorded):
        disk.do(call)
        if call.name == "rename" and call.other == f"{run}/checkpoint":
            files = {name: bytes(file.data) for name, file in disk.find(call.other).names.items()}
            found.append([number, None, json.loads(files["trainer.json"])["step"], files])
        # The last that a save does.
        if call.name == "rename" and call.other == f"{run}/loss.png":
            found[-1][1] = number + 1
    return found


def write(tree, place):
    for path, data in tree.items():
        at = place / path
        if data is None:
            at.mkdir(parents=True, exist_ok=True)
        else:
            at.parent.mkdir(parents=True, exist_ok=True)
            at.write_bytes(data)


class Judge:
    def __init__(self, runs, undisturbed):
        self.runs, self.undisturbed = runs, undisturbed
        self.lines = calls.metrics(undisturbed)
        self.beside = [(undisturbed / name).read_bytes() for name in ["config.json", "data.json"]]

    def problems(self, state, tree, allowed, whole, is_sampled):
        """What is wrong with a state, and the step that is loaded."""
        run = state / "run"
        write(tree, state)
        verified = self.runs.diffuse(["verify", str(run)])
        if "panicked" in verified.stderr or "WRONG" in verified.stdout:
            yield f"verify: {verified.stdout} {verified.stderr}"
        # Fewer steps than are done: it says where it would go on.
        probe = self.runs.train(run, steps=1)
        said = re.search(r"step (\d+) is done already", probe.stderr)
        # Of a run that wasn't saved the first step is all that was asked for.
        step = int(said[1]) if said else None if probe.returncode == 0 else "none"
        yield step
        if step not in allowed:
            yield f"loads step {step}, must be in {allowed}: {probe.stderr}"
        if isinstance(step, int):
            yield from self.wrong_bits(run, tree, step, whole[step])
        if is_sampled:
            yield from self.resumed(state, tree)

    def wrong_bits(self, run, tree, step, files):
        places = ["checkpoint", "checkpoint.old", f"checkpoints/step_{step:06}"]
        if not any(all(tree.get(f"run/{place}/{name}") == data for name, data in files.items()) for place in places):
            yield f"step {step} is not as it was saved"
        if calls.metrics(run)[: step + 1] != self.lines[: step + 1]:
            yield f"metrics up to step {step} are not whole"
        for name in ["config.json", "data.json"]:
            if tree.get(f"run/{name}") not in self.beside:
                yield f"{name} is not whole"

    def resumed(self, state, tree):
        shutil.rmtree(state)
        write(tree, state)
        again = self.runs.train(state / "run")
        if again.returncode != 0 or "panicked" in again.stderr:
            yield f"can't be gone on with: {again.stderr}"
        else:
            yield from (f"{name} differs at the end" for name in calls.differences(state / "run", self.undisturbed))


def recordings(runs, forget):
    """A run that nothing befell, and one that was killed between the two renames of its third save."""
    root = runs.place / "disk"
    run = root / "run"
    told = {"forget": os.path.normpath(run / forget)} if forget else {}
    for name in ["undisturbed", "killed"]:
        root.mkdir()
        log = runs.place / f"{name}.log"
        if name == "killed":
            found = [call.number for call in whole if call.other == f"{run}/checkpoint.old"]
            runs.record(run, log, at=found[1] + 1, error="kill", **told)
        done = runs.record(run, log, **told)
        assert done.returncode == 0, done.stderr
        whole = calls.read(log)
        root.rename(runs.place / name)
        # What is above the run was there before, and its own name is what must last.
        changes = [call for call in whole if call.name in CHANGES]
        yield name, changes, saves(changes, root, str(run)), root


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--states", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--diffuse", default=str(calls.ROOT / "target/release/diffuse"))
    parser.add_argument("--forget")
    arguments = parser.parse_args()
    runs = Runs(arguments.diffuse)
    recorded = list(recordings(runs, arguments.forget))
    for name, whole, saved, _ in recorded:
        print(f"{name}: {len(whole)} calls that change something, {len(saved)} saves of steps {[step for _, _, step, _ in saved]}")
    judge = Judge(runs, runs.place / "undisturbed/run")
    draw = random.Random(arguments.seed)
    seen, loaded, wrong = set(), collections.Counter(), 0
    for number in range(arguments.states):
        name, whole, saved, root = recorded[number % 2]
        at, tree = cut(whole, root, draw)
        ended = max((save[2] for save in saved if save[1] and save[1] <= at), default=None)
        allowed = [ended] + [save[2] for save in saved if save[0] < at and (ended is None or save[2] > ended)]
        files = {step: files for _, _, step, files in saved}
        state = runs.place / "state"
        found = list(judge.problems(state, tree, allowed, files, number % 10 == 0))
        seen.add(hashlib.sha256(repr(sorted(tree.items())).encode()).digest())
        steps = [step for step in found if not isinstance(step, str) or step == "none"]
        loaded[steps[0] if steps else "none"] += 1
        for problem in (text for text in found if isinstance(text, str) and text != "none"):
            wrong += 1
            print(f"state {number} ({name}, cut behind call {at}, {whole[at - 1][1:4]}): {problem}", file=sys.stderr)
        shutil.rmtree(state, ignore_errors=True)
        if (number + 1) % 200 == 0:
            print(f"{number + 1} states, {wrong} problems", flush=True)
    by_step = ", ".join(f"{step}: {count}" for step, count in sorted(loaded.items(), key=str))
    print(f"{arguments.states} states, {len(seen)} of them different; the step that each goes on from: {by_step}; {wrong} problems")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
