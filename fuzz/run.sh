#!/usr/bin/env bash
# Fuzzes what reads other people's files, with a stable compiler:
#
#     fuzz/run.sh [MINUTES] [TARGET...]       10 minutes of each target, one behind the other
#     fuzz/run.sh 0 [TARGET...]               the stored inputs alone, once, without counters: built beside the program
#
# What is found goes to fuzz/found/TARGET, new inputs to fuzz/grown/TARGET; git sees neither.
set -euo pipefail
cd "$(dirname "$0")"

minutes=10
if [[ "${1:-}" =~ ^[0-9]+$ ]]; then
    minutes=$1
    shift
fi
targets=("$@")
if [ ${#targets[@]} = 0 ]; then
    for path in fuzz_targets/*.rs; do targets+=("$(basename "$path" .rs)"); done
fi

if [ "$minutes" = 0 ]; then
    built=../target
else
    built=target
    export RUSTC_WRAPPER="$PWD/instrument.sh"
fi
cargo build --release --target-dir "$built" "${targets[@]/#/--bin=}"

failed=()
for target in "${targets[@]}"; do
    mkdir -p "found/$target" "grown/$target"
    options=(-timeout=5 -rss_limit_mb=1024 "-artifact_prefix=found/$target/")
    if [ "$minutes" = 0 ]; then
        inputs=("corpus/$target"/*)
    else
        options+=("-max_total_time=$((minutes * 60))" -max_len=16384 -print_final_stats=1)
        inputs=("grown/$target" "corpus/$target")
    fi
    log=found/$target.log
    if "$built/release/$target" "${options[@]}" "${inputs[@]}" >"$log" 2>&1; then
        echo "$target: nothing, $(grep -cE '^Executed' "$log" || true) inputs$(grep -E '^stat::number_of_exec' "$log" | sed 's/.*:/ of/' || true)"
    else
        failed+=("$target")
        echo "$target: found something"
        grep -E 'SUMMARY|panicked|bytes are live|Test unit written' "$log" || tail -5 "$log"
    fi
done
if [ ${#failed[@]} != 0 ]; then
    echo "found something: ${failed[*]}; see fuzz/found/"
    exit 1
fi
