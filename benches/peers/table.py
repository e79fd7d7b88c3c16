"""Makes the table of peers.sh out of its records: one JSON object a line.

usage: table.py RECORDS.jsonl
Medians over the rounds. In a round every peer runs once, so that what else the machine does meets all of them alike; the
ratio is the median of the ratios within the rounds, not the ratio of the medians.
"""
import json
import statistics
import sys


def main():
    with open(sys.argv[1]) as file:
        records = [json.loads(line) for line in file if line.strip()]
    models = list(dict.fromkeys((record["model"], record["batch"]) for record in records))
    print("| model, batch | peer | hardware | step, ms (least to most) | images/s | first step, s | diffuse is |")
    print("|---|---|---|---|---|---|---|")
    warnings = []
    for model, batch in models:
        rows = [record for record in records if (record["model"], record["batch"]) == (model, batch)]
        counts = {record["peer"]: record["parameters"] for record in rows}
        if len(set(counts.values())) > 1:
            warnings.append(f"{model}: not the same model, parameters {counts}")
        own = {record["round"]: record["step_ms"] for record in rows if record["peer"].startswith("diffuse")}
        for peer in counts:
            runs = {record["round"]: record for record in rows if record["peer"] == peer}
            times = [run["step_ms"] for run in runs.values()]
            median = statistics.median(times)
            ratios = [run["step_ms"] / own[number] for number, run in runs.items() if number in own]
            same = peer.startswith("diffuse") or not ratios
            ratio = "" if same else f"{statistics.median(ratios):.2f} times as fast"
            first = [run["first_ms"] for run in runs.values() if run.get("first_ms")]
            first = f"{statistics.median(first) / 1e3:.1f}" if first else ""
            hardware = next(iter(runs.values())).get("hardware", "")
            spread = f"{median:.1f} ({min(times):.1f} to {max(times):.1f})"
            print(f"| {model}, {batch} | {peer} | {hardware} | {spread} | {batch * 1e3 / median:.2f} | {first} | {ratio} |")
    for warning in warnings:
        print(f"\n**{warning}**")


if __name__ == "__main__":
    main()
