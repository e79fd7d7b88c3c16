"""Trains on a data set of 6 GiB: memory, equal bits after a kill, and how long steps wait. By hand, on Linux; nothing but Python's
own library.

    python3 tests/data/streamed.py [--gib 6] [--steps 60] [--diffuse "wrapper target/release/diffuse"] [--directory DIR]

With `--gib 0.23 --compare` images are held on the device as well, in turns, and the steps of both are timed: software drivers
bind 256 MiB at the most, GPUs more.
"""

import argparse
import hashlib
import os
import pathlib
import random
import shutil
import signal
import statistics
import struct
import subprocess
import time

SIDE = 28
LIMIT = 1 << 30


def write_set(place, gib):
    """IDX files of random images: the last ones may not be like the first, whatever is read ahead."""
    count = int(gib * (1 << 30)) // (SIDE * SIDE) + 1
    draw = random.Random(1)
    with open(place / "train-images-idx3-ubyte", "wb") as file:
        file.write(struct.pack(">4B3I", 0, 0, 8, 3, count, SIDE, SIDE))
        left = count * SIDE * SIDE
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


def train(options, out, flags, kill_after=None):
    """The most anonymous memory, and what was said; killed `kill_after` seconds behind its first checkpoint."""
    line = options.diffuse.split() + ["train", "--preset", "mnist", "--out", str(out), "--batch", "16", "--sample-every", "0"] + flags
    run = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=options.environment)
    most = 0
    while run.poll() is None:
        most = max(most, anonymous(run.pid))
        if kill_after and (out / "checkpoint" / "trainer.json").exists():
            time.sleep(kill_after)
            run.send_signal(signal.SIGKILL)
            kill_after = None
        time.sleep(0.05)
    text = run.stdout.read()
    if run.returncode not in (0, -signal.SIGKILL):
        raise SystemExit(text)
    return most, text


def digest(out):
    return hashlib.sha256((out / "checkpoint" / "trainer.safetensors").read_bytes()).hexdigest()


def said(text, word):
    return next((line.strip() for line in text.splitlines() if word in line), "nothing of " + word)


def compare(options, data, work):
    """Seconds of the same steps, streamed and held, in turns."""
    times = {"true": [], "false": []}
    digests = set()
    for turn in range(options.rounds):
        for stream in times if turn % 2 else reversed(times):
            out = work / f"turn-{turn}-{stream}"
            _, text = train(options, out, ["--data", str(data), "--steps", str(options.steps), "--stream", stream])
            rows = (out / "metrics.csv").read_text().splitlines()
            column = rows[0].split(",").index("images_per_s")
            times[stream].append(float(rows[-1].split(",")[column]))
            digests.add(digest(out))
            print(f"turn {turn}, --stream {stream}: {times[stream][-1]:.2f} images/s; {said(text, 'waited')}", flush=True)
            shutil.rmtree(out)
    ratios = [streamed / held for streamed, held in zip(times["true"], times["false"])]
    print(f"streamed {statistics.median(ratios):.3f} times as fast as held ({min(ratios):.3f} to {max(ratios):.3f})")
    print("equal bits" if len(digests) == 1 else "DIFFERENT BITS")
    return len(digests) == 1


def kill_and_resume(options, data, work):
    flags = ["--data", str(data), "--steps", str(options.steps), "--checkpoint-every", str(options.steps // 3)]
    whole, text = train(options, work / "whole", flags)
    print(said(text, "read as they come"), said(text, "waited"), sep="\n")
    killed, _ = train(options, work / "killed", flags, kill_after=1.0)
    resumed, text = train(options, work / "killed", flags + ["--resume"])
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
    parser.add_argument("--compare", action="store_true")
    parser.add_argument("--diffuse", default="target/release/diffuse")
    parser.add_argument("--directory", default="/var/tmp")
    options = parser.parse_args()
    work = pathlib.Path(options.directory) / f"diffuse-streamed-{os.getpid()}"
    data = work / "data"
    data.mkdir(parents=True)
    options.environment = {**os.environ, "DIFFUSE_CACHE_DIR": str(work / "cache")}
    try:
        count = write_set(data, options.gib)
        print(f"{count} images of {SIDE}x{SIDE}, {count * SIDE * SIDE / 2**30:.2f} GiB", flush=True)
        right = (compare if options.compare else kill_and_resume)(options, data, work)
    finally:
        shutil.rmtree(work)
    raise SystemExit(0 if right else 1)


main()
