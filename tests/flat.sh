#!/usr/bin/env bash
# Memory of a run that saves as it goes, at a tenth of it and at its end.
#
#   tests/flat.sh [STEPS]      [default: 10000]
#
#   DIFFUSE   the command that runs diffuse, a driver's wrapper before it   [default: target/release/diffuse]
#
# Exit status 1 if more came between the two than 1 MiB and 64 bytes a step: each step's loss is kept for the picture of all, in 16
# bytes, half of them room to grow, and copied while it is drawn. On a driver that computes on the CPU this is the device's memory, too.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
steps=${1:-10000}
read -ra diffuse <<<"${DIFFUSE:-$here/target/release/diffuse}"
place=$(mktemp -d)
trap 'kill "$run" 2>/dev/null || true; rm -rf "$place"' EXIT
cd "$place"
cp "$here/tests/checkpoints/model.json" model.json
"${diffuse[@]}" train --data digits --model model.json --steps "$steps" --batch 2 --checkpoint-every "$((steps / 20))" --sample-every 0 \
    --tune off --out run 2>err &
run=$!
saved() { sed -n 's/^ *"step": *\([0-9]*\).*/\1/p' run/checkpoint/trainer.json 2>/dev/null | head -1; }
resident() { awk '/^VmRSS|^RssAnon/ { printf "%s %d KiB  ", $1, $2 }' "/proc/$run/status"; }
anonymous() { awk '/^RssAnon/ { print $2 }' "/proc/$run/status"; }
early= late=
while kill -0 "$run" 2>/dev/null; do
    step=$(saved || true)
    if [ -z "$early" ] && [ "${step:-0}" -ge "$((steps / 10))" ]; then
        early=$(anonymous) || true
        echo "step $step: $(resident)"
    fi
    if [ "${step:-0}" -ge "$((steps * 9 / 10))" ]; then
        late=$(anonymous) || true
        last="step $step: $(resident)" || true
    fi
    sleep 0.2
done
wait "$run" || { cat err; exit 1; }
echo "$last"
[ "$late" -le "$((early + 1024 + steps / 16))" ] || { echo "$((late - early)) KiB came with 9 of 10 steps"; exit 1; }
