#!/usr/bin/env python3
"""Whether TensorBoard's own reader finds in a run's event files what metrics.csv and samples/ say: read.py RUN (pip install tensorboard).

Every scalar of every step, every grid byte for byte, histograms that count what they should. Exits with 1 if something differs."""

import csv
import math
import pathlib
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

COLUMNS = {"loss": "loss", "grad_norm": "gradient_norm", "lr": "learning_rate", "images_per_s": "images_per_second"}
COLUMNS |= {f"loss_{level}": f"loss_by_level/{level}" for level in range(8)}


def scalars(found, rows):
    for column, tag in COLUMNS.items():
        want = {int(row["step"]): float(row[column]) for row in rows if row[column]}
        have = {event.step: event.value for event in found.Scalars(tag)} if tag in found.Tags()["scalars"] else {}
        if sorted(want) != sorted(have) or (have and len(found.Scalars(tag)) != len(have)):
            yield f"{tag}: {len(have)} steps, {len(want)} in metrics.csv"
        # What metrics.csv rounds to two decimals.
        slack = 6e-3 if column == "images_per_s" else 0
        near = lambda a, b: math.isclose(a, b, rel_tol=2e-6, abs_tol=slack) or (math.isnan(a) and math.isnan(b))
        yield from (f"{tag}: {have[step]} at step {step}, {want[step]} in metrics.csv"
                    for step in sorted(set(want) & set(have)) if not near(have[step], want[step]))


def grids(found, place):
    want = {int(path.stem[5:]): path.read_bytes() for path in (place / "samples").glob("step_*.png")}
    have = {event.step: event.encoded_image_string for event in found.Images("samples")} if want else {}
    yield from (f"the grid of step {step} differs" for step in sorted(set(want) | set(have)) if want.get(step) != have.get(step))


def histograms(found):
    for tag in found.Tags()["histograms"]:
        for event in found.Histograms(tag):
            value = event.histogram_value
            if sum(value.bucket) != value.num or not value.min <= value.max == value.bucket_limit[-1]:
                yield f"{tag}: {value.num} numbers, {sum(value.bucket)} in buckets up to {value.bucket_limit[-1]}"


def main():
    run = pathlib.Path(sys.argv[1])
    place = run / "private" if (run / "private").is_dir() else run
    found = EventAccumulator(str(place), size_guidance=dict.fromkeys(("scalars", "images", "histograms", "tensors"), 0))
    found.Reload()
    with open(place / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    wrong = [*scalars(found, rows), *grids(found, place), *histograms(found)]
    tags = {kind: len(found.Tags()[kind]) for kind in ("scalars", "images", "histograms")}
    print("\n".join(wrong) or f"ok: {len(rows)} steps, {tags}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
