#!/usr/bin/env bash
# A run that is killed at random moments, and goes on by the same command line each time, ends with the bits of one that nothing befell.
#
#   tests/soak.sh [KILLS]      [default: 100]
#
#   DIFFUSE   the command that runs diffuse, a driver's wrapper before it   [default: target/release/diffuse]
#   SEED      of the moments                                                [default: 1]
#
# Exit status 1 if a bit differs, a life says something that it should not, or a checkpoint is not as it was saved.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
kills=${1:-100}
read -ra diffuse <<<"${DIFFUSE:-$here/target/release/diffuse}"
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cd "$place"
RANDOM=${SEED:-1}
cp "$here/tests/checkpoints/model.json" model.json
steps=$((kills * 100))
line=(train --resume --data digits --model model.json --steps "$steps" --batch 2 --checkpoint-every 3 --sample-every 0 --tune off --audit-every 100)

"${diffuse[@]}" "${line[@]}" --out undisturbed 2>undisturbed.err
killed=0
until [ "$killed" -ge "$kills" ]; do
    "${diffuse[@]}" "${line[@]}" --out run 2>err &
    sleep "$((RANDOM % 3)).$((RANDOM % 900 + 100))"
    if kill -KILL $! 2>/dev/null; then
        killed=$((killed + 1))
    fi
    wait $! 2>/dev/null && break
    # What a library says of the environment is no error of ours.
    if grep -v XDG_RUNTIME_DIR err | grep -E "panicked|^error:"; then
        exit 1
    fi
done
"${diffuse[@]}" "${line[@]}" --out run 2>err || { cat err; exit 1; }
"${diffuse[@]}" verify run >/dev/null || exit 1
for file in diffusion_pytorch_model.safetensors trainer.safetensors; do
    cmp "run/checkpoint/$file" "undisturbed/checkpoint/$file" || exit 1
done
cmp <(cut -d, -f1-4 run/metrics.csv) <(cut -d, -f1-4 undisturbed/metrics.csv) || exit 1
echo "killed $killed times, $steps steps: the bits of a run that nothing befell"
