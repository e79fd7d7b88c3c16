#!/bin/sh
# Every shader but those of matrix units through Dawn, the WebGPU of Chrome: unlike naga, its compiler refuses barriers and subgroup
# operations in control flow that it can't see to be uniform.
#   usage: dawn.sh [RUNNER...]   RUNNER PROGRAM runs a program on a Vulkan driver
set -eu
here=$(cd "$(dirname "$0")" && pwd)
place="$here/../target/dawn"
mkdir -p "$place/shaders"
cp "$here"/dawn/* "$place"
place=$(cd "$place" && pwd)
root=
[ "$(id -u)" = 0 ] || root=sudo
command -v npm >/dev/null || $root apt-get install -y -qq nodejs npm >/dev/null
npm ci --prefix "$place" --ignore-scripts --no-audit --no-fund --silent
rm -f "$place"/shaders/*
DIFFUSE_SHADERS="$place/shaders" cargo test --quiet --release --test shaders modules_are_written
[ $# -gt 0 ] || set -- env
for runner; do
    "$runner" "$(command -v node)" "$place/pipelines.mjs" "$place/shaders"
done
