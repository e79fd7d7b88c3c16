#!/bin/sh
# Mesa's NIR makes a select of a product with select(0.0, 1.0, condition): where the condition is false, NaN and infinity become 0.
#
# The guess, before it was run: not a number. IEEE 754 has NaN * 0 = NaN and infinity * 0 = NaN, and no operand is a constant.
# Seen with lavapipe of Mesa 26.1.6-1 (Debian forky) through wgpu-py 0.31.0: x * select(0.0, 1.0, keep == 1u) is 0 for NaN and for
# infinity, while x * f32(keep), the same numbers, is NaN. Mesa 22.3.6 and SwiftShader give NaN for both. WGSL allows it: an
# implementation may assume that there are no NaNs.
# Why it matters: code that masks by multiplication looks safe there and isn't elsewhere; and a NaN put behind the end of a buffer, to
# show who reads it, shows nothing.
#
# Needs root (debootstrap), python3 with venv. Installs into a temporary folder. Exit status 0: as described.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
command -v debootstrap >/dev/null || apt-get install -y -qq debootstrap >/dev/null
mirror=$(awk '/^URIs:/ {print $2; exit}' /etc/apt/sources.list.d/debian.sources)
eval "$(apt-config shell proxy Acquire::http::Proxy)"
[ -z "${proxy:-}" ] || export http_proxy="$proxy"
tree="$work/forky"
debootstrap --foreign --variant=minbase --no-check-gpg --include=mesa-vulkan-drivers,libvulkan1 forky "$tree" "$mirror" \
    /usr/share/debootstrap/scripts/sid >"$work/log" 2>&1
for package in "$tree"/var/cache/apt/archives/*.deb; do dpkg -x "$package" "$tree"; done
libraries="$tree/usr/lib/x86_64-linux-gnu"
sed "s#\"library_path\": *\"[^\"]*\"#\"library_path\": \"$libraries/libvulkan_lvp.so\"#" \
    "$tree/usr/share/vulkan/icd.d/lvp_icd.json" >"$work/lvp.json"
python3 -m venv "$work/venv"
"$work/venv/bin/pip" -q install wgpu==0.31.0
cat >"$work/mask.py" <<'END'
import math
import struct

import wgpu
from wgpu.utils.compute import compute_with_buffers

WGSL = """
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> keep: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@compute @workgroup_size(1) fn main(@builtin(global_invocation_id) at: vec3<u32>) {
    let i = at.x;
    y[2u * i] = x[i] * select(0.0, 1.0, keep[i] == 1u);
    y[2u * i + 1u] = x[i] * f32(keep[i]);
}
"""
x, keep = [1.5, math.nan, math.inf, math.nan], [0, 0, 0, 1]
inputs = {0: struct.pack("4f", *x), 1: struct.pack("4I", *keep)}
y = list(compute_with_buffers(inputs, {2: (8, "f")}, WGSL, n=4)[2])
print(wgpu.gpu.request_adapter_sync().info["description"])
for i in range(4):
    print(f"x {x[i]}, kept {keep[i]}: by select {y[2 * i]}, by multiplication {y[2 * i + 1]}")
as_described = y[2] == 0.0 and y[4] == 0.0 and all(math.isnan(y[i]) for i in (3, 5, 6, 7))
raise SystemExit(0 if as_described else "not as described any more")
END
export VK_DRIVER_FILES="$work/lvp.json" VK_ICD_FILENAMES="$work/lvp.json" NODEVICE_SELECT=1 XDG_RUNTIME_DIR="$work"
"$libraries/ld-linux-x86-64.so.2" --library-path "$libraries" "$work/venv/bin/python" "$work/mask.py"
