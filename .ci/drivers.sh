#!/bin/sh
# Writes DIR/swiftshader and DIR/mesa-forky: each runs the program given as its arguments on that software Vulkan driver
# alone. And DIR/compiler CHIP PROGRAM...: the program sees that chip (navi31, nv172, m1, adreno740, ...), whose driver compiles while
# nothing is executed. Debian packages only: SwiftShader comes with chromium-common, the others with Debian forky.
#   usage: drivers.sh DIR
set -eu
mkdir -p "$1"
out=$(cd "$1" && pwd)
root=
[ "$(id -u)" = 0 ] || root=sudo

# runner NAME ICD [PREFIX]: a script that runs its arguments on the driver of ICD alone.
runner() {
    printf '#!/bin/sh\nexport VK_DRIVER_FILES=%s VK_ICD_FILENAMES=%s\nexec %s"$@"\n' "$2" "$2" "${3:-}" >"$out/$1"
    chmod +x "$out/$1"
}

if [ ! -x "$out/swiftshader" ]; then
    work=$(mktemp -d)
    chmod 755 "$work"
    $root apt-get update -qq
    (cd "$work" && apt-get download -qq chromium-common chromium && for package in *.deb; do dpkg -x "$package" .; done)
    mkdir -p "$out/swiftshader-lib"
    cp "$work/usr/lib/chromium/libvk_swiftshader.so" "$out/swiftshader-lib/"
    rm -rf "$work"
    icd="$out/swiftshader-lib/icd.json"
    printf '{"file_format_version":"1.0.0","ICD":{"library_path":"%s","api_version":"1.1.0"}}\n' \
        "$out/swiftshader-lib/libvk_swiftshader.so" >"$icd"
    runner swiftshader "$icd"
fi

if [ ! -x "$out/mesa-forky" ]; then
    command -v debootstrap >/dev/null || $root apt-get install -y -qq debootstrap >/dev/null
    mirror=$(awk '/^URIs:/ {print $2; exit}' /etc/apt/sources.list.d/debian.sources)
    eval "$(apt-config shell proxy Acquire::http::Proxy)"
    [ -z "${proxy:-}" ] || export http_proxy="$proxy"
    tree="$out/mesa-forky-root"
    $root rm -rf "$tree"
    $root env ${http_proxy:+http_proxy="$http_proxy"} debootstrap --foreign --variant=minbase --no-check-gpg \
        --include=mesa-vulkan-drivers,mesa-drm-shim,libvulkan1 forky "$tree" "$mirror" /usr/share/debootstrap/scripts/sid \
        >"$out/debootstrap.log" 2>&1
    for package in "$tree"/var/cache/apt/archives/*.deb; do $root dpkg -x "$package" "$tree"; done
    $root rm -rf "$tree/var/cache/apt"
    libraries="$tree/usr/lib/x86_64-linux-gnu"
    sed "s#\"library_path\": *\"[^\"]*\"#\"library_path\": \"$libraries/libvulkan_lvp.so\"#" \
        "$tree/usr/share/vulkan/icd.d/lvp_icd.json" >"$out/mesa-forky.json"
    runner mesa-forky "$out/mesa-forky.json" "$libraries/ld-linux-x86-64.so.2 --library-path $libraries "
fi

if [ ! -x "$out/compiler" ]; then
    tree="$out/mesa-forky-root"
    libraries="$tree/usr/lib/x86_64-linux-gnu"
    if [ ! -e "$libraries/libamdgpu_noop_drm_shim.so" ]; then
        echo "drivers.sh: $tree lacks mesa-drm-shim; remove $out/mesa-forky and run this again" >&2
        exit 1
    fi
    for driver in radeon nouveau asahi freedreno; do
        sed "s#\"library_path\": *\"[^\"]*\"#\"library_path\": \"$libraries/libvulkan_$driver.so\"#" \
            "$tree/usr/share/vulkan/icd.d/${driver}_icd.json" >"$out/$driver.json"
    done
    cat >"$out/compiler" <<END
#!/bin/sh
chip=\$1
shift
case \$chip in
nv*) driver=nouveau shim=nouveau; export NOUVEAU_CHIPSET=\${chip#nv} ;;
m1) driver=asahi shim=asahi ;;
adreno740) driver=freedreno shim=freedreno; export FD_GPU_ID=740 ;;
*) driver=radeon shim=amdgpu; export AMDGPU_GPU_ID=\$chip ;;
esac
export VK_DRIVER_FILES=$out/\$driver.json VK_ICD_FILENAMES=$out/\$driver.json NODEVICE_SELECT=1 MESA_SHADER_CACHE_DISABLE=true
exec $libraries/ld-linux-x86-64.so.2 --library-path $libraries --preload $libraries/lib\${shim}_noop_drm_shim.so "\$@"
END
    chmod +x "$out/compiler"
fi
