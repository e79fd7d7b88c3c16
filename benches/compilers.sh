#!/bin/sh
# What real shader compilers make of every way to run every kernel, without their hardware: benches/compilers.md.
#
#   benches/compilers.sh COMPILER [CHIP...]
#   benches/compilers.sh --check COMPILER    writes nothing: holds the chips of benches/occupancy.txt to that table
#
# COMPILER CHIP PROGRAM runs a program on the Vulkan driver of that chip, whose compiler works while nothing is executed (Mesa's
# drm-shim). DIFFUSE names the binary [default: target/release/diffuse]. Exit status 1 if a way spills that the chip
# would choose, or has a lower occupancy than the table says.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
output=$here/compilers.md
[ "${1:-}" != --check ] || { output=--check; shift; }
compiler=${1:?usage: benches/compilers.sh [--check] COMPILER [CHIP...]}; shift
[ "$output" != --check ] || set -- $(sed -n 's/^chips: //p' "$here/occupancy.txt")
[ $# -gt 0 ] || set -- navi21 navi31 gfx1201 nv172 m1 adreno740
diffuse=$(realpath "${DIFFUSE:-$here/../target/release/diffuse}")
place=$(mktemp -d); trap 'rm -rf "$place"' EXIT
for chip; do
    "$compiler" "$chip" "$diffuse" profile --compiler --all --json="$place/$chip.json" >/dev/null 2>"$place/err" ||
        { cat "$place/err" >&2; exit 2; }
done
python3 "$here/compilers.py" "$output" "$place" "$@"
