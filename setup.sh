#!/bin/sh
# Makes sure that there is a Vulkan loader and a driver. On Linux without one it installs Mesa's, lavapipe among them;
# macOS and Windows bring Metal and DX12 themselves.
set -eu

[ "$(uname -s)" = Linux ] || exit 0

have_loader() {
    ldconfig -p 2>/dev/null | grep -q 'libvulkan\.so\.1' || ls /usr/lib/*/libvulkan.so.1 /usr/lib*/libvulkan.so.1 >/dev/null 2>&1
}

have_driver() {
    [ -n "${VK_DRIVER_FILES:-}${VK_ICD_FILENAMES:-}" ] && return 0
    for directory in /usr/share/vulkan/icd.d /etc/vulkan/icd.d /usr/local/share/vulkan/icd.d "$HOME/.local/share/vulkan/icd.d"; do
        ls "$directory"/*.json >/dev/null 2>&1 && return 0
    done
    return 1
}

have_linker() { command -v cc >/dev/null 2>&1; }

if have_loader && have_driver && have_linker; then exit 0; fi

root=
if [ "$(id -u)" != 0 ]; then
    if command -v sudo >/dev/null 2>&1; then root=sudo; else
        echo "setup.sh: a Vulkan loader, a driver and cc are needed; as root: apt-get install libvulkan1 mesa-vulkan-drivers gcc" >&2
        exit 1
    fi
fi
if ! command -v apt-get >/dev/null 2>&1; then
    echo "setup.sh: no apt-get here; install a Vulkan loader and Mesa's Vulkan drivers (lavapipe) with your package manager" >&2
    exit 1
fi

packages=
have_loader || packages="libvulkan1"
have_driver || packages="$packages mesa-vulkan-drivers"
have_linker || packages="$packages gcc libc6-dev"
export DEBIAN_FRONTEND=noninteractive
$root apt-get update -qq
# shellcheck disable=SC2086
$root apt-get install -y -qq --no-install-recommends $packages >/dev/null
