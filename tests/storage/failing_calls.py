"""Every call of a save on files fails once, and the process is killed before every one. By hand, on Linux.

    python3 tests/storage/failing_calls.py [--saves 3,5] [--diffuse "wrapper target/release/diffuse"]

A call that fails (EIO, ENOSPC, EINTR, half of the bytes) may cost one line, and a checkpoint if it is of the save; what stands under
final names is whole, training goes on and ends with the bits of a run that nothing befell. Only if the last save fails the run ends
with that one line; typed again, like one that was killed, it ends with these bits, too. Exit status 1 if anything else happens."""

import argparse
import collections
import errno
import shutil
import sys

import calls
from calls import Runs

# A system interrupts only what may take long.
LONG = ["create", "open", "read", "write", "sync"]
GROWS = ["create", "mkdir", "rename", "write", "sync"]
CHANGES = ["create", "mkdir", "rename", "rmdir", "sync", "unlink", "write"]
EXPECTED = ("digits: ", "training ", "trained ", "2977 parameters")


def errors(name):
    """What befalls a call."""
    found = [str(errno.EIO)]
    found += [str(errno.ENOSPC)] if name in GROWS else []
    found += [str(errno.EINTR)] if name in LONG else []
    found += ["short"] if name in ("read", "write") else []
    return found + (["kill"] if name in CHANGES else [])


def saves(recorded):
    """The first call of each save, and the one behind the last."""
    ends = [at + 1 for at, call in enumerate(recorded) if call.name == "rename" and call.other.endswith("/loss.png")]
    begin = next(at for at, call in enumerate(recorded) if "/checkpoint.new" in call.path and call.name == "mkdir")
    return [begin] + ends


def torn(runs, run):
    """What stands under final names and is not whole."""
    verified = runs.diffuse(["verify", str(run)])
    return [line for line in verified.stdout.splitlines() if not line.startswith(("ok ", "best "))] + (
        ["panicked"] if "panicked" in verified.stderr else []
    )


def problems(runs, run, undisturbed, number, error, is_last):
    """What is wrong with a run of which a call fails, and whether it cost a line."""
    log = runs.place / "log"
    log.unlink(missing_ok=True)
    done = runs.train(run, below=run.parent, log=log, at=number, error=error)
    said = [line for line in done.said if not line.startswith(EXPECTED)]
    yield said
    if len(said) > 1 or any("panicked" in line for line in said):
        yield f"says {said}"
    if done.returncode == (-9 if error == "kill" else 1) and (is_last or error == "kill"):
        yield from torn(runs, run)
        done = runs.train(run)
    if done.returncode != 0:
        yield f"exit status {done.returncode}: {done.said[-1:]}"
        return
    yield from torn(runs, run)
    yield from (f"{name} differs" for name in calls.differences(run, undisturbed))
    # What a killed process leaves under a hidden name is removed ten minutes later.
    names = sorted(path.name for path in run.iterdir() if error != "kill" or not path.name.startswith(".diffuse-"))
    # Behind the last save nothing is left to do that would put the one before it, which is whole, among the others.
    names = [name for name in names if not (is_last and name == "checkpoint.old")]
    if names != ["checkpoint", "checkpoints", "config.json", "data.json", "loss.png", "metrics.csv", "report.html"]:
        yield f"leaves {names}"
    kept = sorted(path.name for path in (run / "checkpoints").iterdir())
    # The best may be an older one.
    if len([name for name in kept if name.startswith("step_")]) not in (calls.KEEP, calls.KEEP + 1) and not is_last:
        yield f"keeps {kept}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--saves", default="3,5")
    parser.add_argument("--diffuse", default=str(calls.ROOT / "target/release/diffuse"))
    arguments = parser.parse_args()
    runs = Runs(arguments.diffuse)
    undisturbed, run = runs.place / "undisturbed/run", runs.place / "trial/run"
    undisturbed.parent.mkdir()
    runs.record(undisturbed, runs.place / "whole")
    recorded = calls.read(runs.place / "whole")
    bounds = saves(recorded)
    counts, wrong, done = collections.Counter(), 0, 0
    for save in map(int, arguments.saves.split(",")):
        for call in recorded[bounds[save - 1] : bounds[save]]:
            for error in errors(call.name):
                shutil.rmtree(run.parent, ignore_errors=True)
                run.parent.mkdir()
                said, *found = problems(runs, run, undisturbed, call.number, error, save == len(bounds) - 1)
                counts[len(said)] += 1
                what = "killed before" if error == "kill" else errno.errorcode.get(error.isdigit() and int(error), error)
                path = call.path.removeprefix(str(undisturbed))
                for problem in found:
                    print(f"save {save}, call {call.number}, {what} {call.name} {path or '.'}: {problem}", file=sys.stderr)
                wrong, done = wrong + bool(found), done + 1
                if done % 100 == 0:
                    print(f"{done} times, {wrong} not as it should be", flush=True)
    befell = f"{done} times a call of saves {arguments.saves} failed or was the last"
    print(f"{befell}: {counts[1]} times with a line, {counts[0]} without; {wrong} not as it should be")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
