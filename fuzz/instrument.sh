#!/bin/sh
# RUSTC_WRAPPER of run.sh: counters for libFuzzer in what reads files, in nothing else, so that inputs don't wait for a
# megabyte of counters of the GPU's crates. The flags are those of cargo-fuzz; they need no nightly compiler.
case "$CARGO_CRATE_NAME" in
diffuse | diffuse_fuzz | image | png | gif | tiff | image_webp | zune_jpeg | zune_core | weezl | fdeflate | flate2 | miniz_oxide \
    | zip | snap | ruzstd | brotli_decompressor | lz4_flex | safetensors | serde_json | half)
    set -- "$@" -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
        -Cllvm-args=-sanitizer-coverage-trace-compares -Cllvm-args=-simplifycfg-branch-fold-threshold=0 --cfg fuzzing
    ;;
esac
exec "$@"
