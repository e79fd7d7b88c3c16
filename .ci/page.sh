#!/bin/sh
# An exported page through Dawn, the WebGPU of Chrome: what its script draws with the four samplers is what `diffuse sample` draws with
# the same rounded weights, to one grey level. Trains a model of 8x8 digits for that, in ten seconds.
#   usage: page.sh [RUNNER...]   RUNNER PROGRAM runs a program on a Vulkan driver; DIFFUSE=BINARY takes that one instead of building it
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root="$here/.."
place="$root/target/page"
mkdir -p "$place"
cp "$here"/page/*.mjs "$here"/page/*.json "$place"
place=$(cd "$place" && pwd)
install=
[ "$(id -u)" = 0 ] || install=sudo
command -v npm >/dev/null || $install apt-get install -y -qq nodejs npm >/dev/null
npm ci --prefix "$place" --omit=dev --ignore-scripts --no-audit --no-fund --silent
if [ -z "${DIFFUSE:-}" ]; then
    (cd "$root" && cargo build --quiet --release)
    DIFFUSE="$root/target/release/diffuse"
fi
node=$(command -v node)
[ $# -gt 0 ] || set -- env

# What stands behind # in the page's address. Each is the flags of `diffuse sample`, too.
drawings="
sampler=ddim&steps=20&count=10&guidance=2&seed=0
sampler=dpm++&steps=20&count=10&guidance=2&seed=1
sampler=ddpm&steps=20&count=10&guidance=2&seed=2
sampler=euler&steps=20&count=10&guidance=2&seed=4294967295
sampler=ddim&steps=20&count=19&guidance=1&seed=3
sampler=ddpm&steps=20&count=3&guidance=-1.5&seed=4&class=7"

# Runs a command, and shows what it said if it fails.
quietly() {
    "$@" >"$place/log" 2>&1 || { cat "$place/log" >&2; exit 1; }
}

run="$place/run"
rm -rf "$run"
quietly "$1" "$DIFFUSE" train --data digits --model "$root/tests/common/tiny.json" --steps 60 --batch 32 --warmup 10 --lr 0.003 \
    --tune off --sample-every 0 --checkpoint-every 0 --audit-every 0 --out "$run"
quietly "$DIFFUSE" export "$run" --page "$place/digits.html" --replace
"$node" "$place/halve.mjs" "$run/checkpoint" "$place/halved"
for runner; do
    echo "== $runner"
    work="$place/$(basename "$runner")"
    rm -rf "$work"
    mkdir "$work"
    for drawing in $drawings; do
        flags=$(printf %s "--$drawing" | sed 's/&/ --/g')
        folder="$work/$(printf %s "$drawing" | tr -c 'a-z0-9.\n-' _)"
        quietly "$runner" "$DIFFUSE" sample "$place/halved" $flags --tune off --images "$folder" --out "$work/samples.png"
        printf '%s\n%s\n' "$drawing" "$folder" >>"$work/drawings"
    done
    xargs -d '\n' "$runner" "$node" "$place/compare.mjs" "$place/digits.html" <"$work/drawings"
done
