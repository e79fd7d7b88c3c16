"""Trains on a data set of 6 GiB: memory, equal bits after a kill, and how long steps wait. By hand, on Linux; nothing but Python's
own library.

    python3 tests/data/streamed.py [--gib 6] [--steps 60] [--diffuse "wrapper target/release/diffuse"] [--directory DIR]

With `--compare` images are held on the device as well, in turns, and the steps of both are timed: by the clock, and in seconds of the
CPU behind the first two, which other work on the machine changes less. `diffuse devices` says what a device can bind: twice that it holds.
Of lavapipe that is 256 MiB (`--gib 0.23`); SwiftShader's 1 GiB are `--gib 0.99 --preset digits`, whose steps are short.
"""

import argparse
import hashlib
import os
import pathlib
import random
import resource
import shutil
import signal
import statistics
import struct
import subprocess
import time

SIDES = {"mnist": 28, "digits": 16}
LIMIT = 1 << 30


def write_set(place, gib, side):
    """IDX files of random images: the last ones may not be like the first, whatever is read ahead."""
    count = int(gib * (1 << 30)) // (side * side) + 1
    draw = random.Random(1)
    with open(place / "train-images-idx3-ubyte", "wb") as file:
        file.write(struct.pack(">4B3I", 0, 0, 8, 3, count, side, side))
        left = count * side * side
        while left:
            piece = min(left, 1 << 24)
            file.write(draw.randbytes(piece))
            left -= piece
    with open(place / "train-labels-idx1-ubyte", "wb") as file:
        file.write(struct.pack(">4BI", 0, 0, 8, 1, count))
        file.write(bytes(i % 10 for i in range(count)))
    return count


def anonymous(pid):
    """Bytes of memory that no file stands behind."""
    try:
        lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return max((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")), default=0)


def processor(pid):
    """Seconds of the CPU that a process has taken."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def steps(out):
    """How many steps are logged."""
    log = out / "metrics.csv"
    return max(len(log.read_text().splitlines()) - 1, 0) if log.exists() else 0


def train(options, out, flags, kill_after=None):
    """The most anonymous memory, what was said, and seconds for a step behind the first two, by the clock and of the CPU; killed
    `kill_after` seconds behind its first checkpoint."""
    line = options.diffuse.split() + ["train", "--preset", options.preset, "--out", str(out), "--batch", str(options.batch), "--sample-every", "0"] + flags
    run = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=options.environment)
    most, begun, ended, before = 0, None, None, resource.getrusage(resource.RUSAGE_CHILDREN)
    while run.poll() is None:
        most = max(most, anonymous(run.pid))
        if not begun and steps(out) >= 2:
            begun = steps(out), processor(run.pid), time.monotonic()
        if not ended and begun and steps(out) >= options.steps:
            ended = time.monotonic()
        if kill_after and (out / "checkpoint" / "trainer.json").exists():
            time.sleep(kill_after)
            run.send_signal(signal.SIGKILL)
            kill_after = None
        time.sleep(0.05)
    text = run.stdout.read()
    if run.returncode not in (0, -signal.SIGKILL):
        raise SystemExit(text)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    taken = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    if not begun:
        return most, text, None
    count = max(steps(out) - begun[0], 1)
    return most, text, ((ended or time.monotonic()) - begun[2], taken - begun[1], count)


def digest(out):
    return hashlib.sha256((out / "checkpoint" / "trainer.safetensors").read_bytes()).hexdigest()


def said(text, word):
    return next((line.strip() for line in text.splitlines() if word in line), "nothing of " + word)


def compare(options, data, work):
    """Seconds of the same steps, streamed and held, in turns."""
    taken = {"true": [], "false": []}
    digests = set()
    for turn in range(options.rounds):
        for stream in taken if turn % 2 else reversed(taken):
            out = work / f"turn-{turn}-{stream}"
            flags = ["--data", str(data), "--steps", str(options.steps), "--stream", stream]
            _, text, (clock, processor, count) = train(options, out, flags)
            taken[stream].append((clock / count, processor / count))
            digests.add(digest(out))
            own = f"{clock / count:.3f} s a step, {processor / count:.3f} s of the CPU"
            print(f"turn {turn}, --stream {stream}: {own}; {said(text, 'waited')}", flush=True)
            shutil.rmtree(out)
    for at, what in enumerate(["seconds a step", "seconds of the CPU a step"]):
        streamed, held = ([own[at] for own in taken[stream]] for stream in ["true", "false"])
        ratios = [one / other for one, other in zip(streamed, held)]
        medians = statistics.median(streamed) / statistics.median(held)
        print(f"{what}, streamed to held: medians {medians:.3f}; by turns {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")
    print("equal bits" if len(digests) == 1 else "DIFFERENT BITS")
    return len(digests) == 1


def kill_and_resume(options, data, work):
    flags = ["--data", str(data), "--steps", str(options.steps), "--checkpoint-every", str(options.steps // 3)]
    whole, text, _ = train(options, work / "whole", flags)
    print(said(text, "read as they come"), said(text, "waited"), sep="\n")
    killed, *_ = train(options, work / "killed", flags, kill_after=1.0)
    resumed, text, _ = train(options, work / "killed", flags + ["--resume"])
    print(said(text, "from step"))
    same = digest(work / "whole") == digest(work / "killed")
    print(f"anonymous memory: {whole / 2**20:.0f} MiB; killed {killed / 2**20:.0f}, resumed {resumed / 2**20:.0f} MiB")
    print("equal bits" if same else "DIFFERENT BITS")
    return same and max(whole, killed, resumed) < LIMIT


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=6)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--preset", choices=SIDES, default="mnist")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--compare", action="store_true")
    parser.add_argument("--diffuse", default="target/release/diffuse")
    parser.add_argument("--directory", default="/var/tmp")
    options = parser.parse_args()
    work = pathlib.Path(options.directory) / f"diffuse-streamed-{os.getpid()}"
    data = work / "data"
    data.mkdir(parents=True)
    options.environment = {**os.environ, "DIFFUSE_CACHE_DIR": str(work / "cache")}
    try:
        side = SIDES[options.preset]
        count = write_set(data, options.gib, side)
        print(f"{count} images of {side}x{side}, {count * side * side / 2**30:.2f} GiB", flush=True)
        right = (compare if options.compare else kill_and_resume)(options, data, work)
    finally:
        shutil.rmtree(work)
    raise SystemExit(0 if right else 1)


main()
