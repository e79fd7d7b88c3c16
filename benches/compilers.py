"""Writes the table of benches/compilers.sh: compilers.py FILE.md FOLDER CHIP..., FOLDER/CHIP.json of `profile --compiler --all --json`.

With --check in the place of FILE.md it writes nothing: it says what spills though it suits, and what has a lower occupancy than
occupancy.txt says."""
import json
import os
import sys


def spills(pipeline):
    return any((pipeline[count] or 0) > 0 for count in ("spills", "scratch"))


def variant(pipeline):
    parts = pipeline["entry"].split(".")
    if len(parts) < 3:
        return "other"
    return parts[1]


def name(pipeline):
    return f"{pipeline['entry']} {pipeline['constants']}".strip()


def least_occupancies(path):
    """The lines of occupancy.txt: (way, precision) with a number for each chip."""
    for line in open(path):
        way, colon, counts = line.partition(":")
        if not line.startswith("#") and colon and way != "chips":
            entry, *constants, precision = way.split()
            yield " ".join([entry, *constants]), precision, [None if count == "-" else float(count) for count in counts.split()]


def check(runs):
    wrong = [f"{chip}: {name(p)} {p['precision']} spills" for chip, run in runs.items() for p in run["pipelines"] if p["suits"] and spills(p)]
    for way, precision, counts in least_occupancies(os.path.join(os.path.dirname(os.path.abspath(__file__)), "occupancy.txt")):
        for (chip, run), least in zip(runs.items(), counts, strict=True):
            found = [p["occupancy"] for p in run["pipelines"] if (name(p), p["precision"]) == (way, precision) and p["suits"]]
            if least is not None and not (found and found[0] is not None and found[0] >= least):
                wrong.append(f"{chip}: occupancy of {way} {precision} is {found[0] if found else 'no more there'}, occupancy.txt says {least:g}")
    print("\n".join(wrong + [f"{sum(len(run['pipelines']) for run in runs.values())} pipelines of {len(runs)} chips, {len(wrong)} worse than they may be"]))
    return 1 if wrong else 0


def main(path, folder, chips):
    runs = {chip: json.load(open(os.path.join(folder, f"{chip}.json"))) for chip in chips}
    if path == "--check":
        return check(runs)
    lines = [
        "# What compilers make of the kernels",
        "",
        "Written by `benches/compilers.sh`: each way to run each entry point, f32 and, where the chip has it, f16. A pipeline spills",
        "if its compiler moves registers to memory or keeps an array there. Ways for drivers that compute on the CPU run nowhere else;",
        "large tiles don't suit a GPU of few registers (Apple's): it neither times nor chooses them.",
        "",
        "| chip | driver | pipelines | spill: `register` | `tiled` | matrix units and the rest | of those that suit |",
        "|---|---|---|---|---|---|---|",
    ]
    for chip, run in runs.items():
        of = lambda kinds: sum(spills(p) for p in run["pipelines"] if variant(p) in kinds)
        rest = {variant(p) for p in run["pipelines"]} - {"register", "tiled"}
        suited = sum(spills(p) and p["suits"] for p in run["pipelines"])
        lines.append(
            f"| {chip} | {run['driver']} | {len(run['pipelines'])} | {of({'register'})} | {of({'tiled'})} | {of(rest)} | "
            f"{suited} |"
        )
    lines += ["", "## Suited ways that spill", "", "| chip | way | stored | registers | spills | scratch bytes | occupancy |", "|---|---|---|---|---|---|---|"]
    number = lambda value: "" if value is None else f"{value:g}"
    for chip, run in runs.items():
        for p in run["pipelines"]:
            if spills(p) and p["suits"]:
                counts = " | ".join(number(p[count]) for count in ("registers", "spills", "scratch", "occupancy"))
                lines.append(f"| {chip} | `{name(p)}` | {p['precision']} | {counts} |")
    lines += ["", "## Hot kernels", "", "f32: registers / occupancy (subgroups a SIMD; warps an SM; threads; waves a core) / instructions.", ""]
    hot = ("conv2d.register", "conv2d.tiled", "linear.register", "linear.tiled", "attention.register", "attention.tiled")
    names = list(dict.fromkeys(name(p) for run in runs.values() for p in run["pipelines"] if p["entry"].startswith(hot)))
    lines += ["| way | " + " | ".join(chips) + " |", "|---" * (len(chips) + 1) + "|"]
    for own in names:
        cells = []
        for run in runs.values():
            found = [p for p in run["pipelines"] if name(p) == own and p["precision"] == "f32"]
            cells.append(" / ".join(number(found[0][c]) for c in ("registers", "occupancy", "instructions")) if found else "")
        lines.append(f"| `{own}` | " + " | ".join(cells) + " |")
    with open(path, "w") as f:
        f.write("\n".join(lines) + "\n")
    chosen = [(chip, name(p)) for chip, run in runs.items() for p in run["pipelines"] if spills(p) and p["suits"]]
    print(f"{path}: {sum(len(run['pipelines']) for run in runs.values())} pipelines, {len(chosen)} suited ones spill")
    return 1 if chosen else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
