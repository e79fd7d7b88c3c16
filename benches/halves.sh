#!/usr/bin/env bash
# Training in half precision beside single precision: three seeds each, the mean loss of the last 200 steps.
#
#   benches/halves.sh NAME DATA STEPS BATCH [FLAGS OF TRAIN...]
#   benches/halves.sh digits digits 2000 16
#   benches/halves.sh cifar10 PATH/TO/cifar10 1000 8 --model FILE.json
#
#   DIFFUSE   the command that runs diffuse, a driver's wrapper before it   [default: target/release/diffuse]
#
# Exit status 1 if the means of the two differ by more than the standard deviation over seeds of single precision.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
read -ra diffuse <<<"${DIFFUSE:-$here/target/release/diffuse}"
name=$1 data=$2 steps=$3 batch=$4
shift 4
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
for seed in 0 1 2; do
    for precision in f32 f16; do
        out=$place/$name-$precision-$seed
        "${diffuse[@]}" train --data "$data" --steps "$steps" --batch "$batch" --seed "$seed" --precision "$precision" \
            --sample-every 0 --checkpoint-every 0 --out "$out" "$@" 2>"$out.err" >/dev/null || { cat "$out.err"; exit 1; }
        skipped=$(awk -F, 'NR > 1 && $3 !~ /^[0-9.e+-]+$/' "$out/metrics.csv" | wc -l)
        tail -200 "$out/metrics.csv" | awk -F, -v n="$name" -v p="$precision" -v s="$seed" -v k="$skipped" \
            '{ sum += $2 } END { printf "%s %s seed %d: %.6f, %d steps skipped\n", n, p, s, sum / NR, k }' | tee -a "$place/all"
    done
done
awk '{ x = $5 + 0; s[$2] += x; q[$2] += x * x }
    END {
        a = s["f32"] / 3; b = s["f16"] / 3; d = sqrt((q["f32"] - 3 * a * a) / 2)
        printf "%s: f32 %.6f, f16 %.6f, apart by %.6f; over seeds f32 spreads by %.6f\n", $1, a, b, b - a, d
        exit (b - a > d || a - b > d)
    }' "$place/all"
