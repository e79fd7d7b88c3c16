#!/usr/bin/env bash
# What one graphics card does with diffuse, in eight minutes: a report to read, and the same as JSON.
#
#   benches/card.sh [--minutes 8] [--out DIR] [--device INDEX|NAME-PART] [--again]
#   benches/card.sh --build [FILE.tar.gz]
#
# The first form needs a built `diffuse`, bash, coreutils and awk; no network and no compiler. It writes ADAPTER.md,
# ADAPTER.json and ADAPTER.png into DIR [default: cards/ beside this script]. Each part has its share of the time and may
# crash or hang without harm to the others; what there is of a report is written after each. Run again, it keeps what was
# measured with this adapter, driver and binary, and spends its time on the rest; --again measures everything anew.
# Exit status: 0 with every part done, 1 if some are missing, 2 for wrong arguments.
#
# The second form packs a binary for that machine, with this script, into FILE [default: diffuse-card.tar.gz]. There:
#   tar xf diffuse-card.tar.gz && bash diffuse-card/card.sh
#
#   DIFFUSE   the command that runs diffuse, a driver's wrapper before it
#             [default: diffuse beside this script, else target/release/diffuse]
#   PYTHON    an interpreter which may have torch and diffusers, for the comparison with PyTorch       [default: python3]
set -uo pipefail
export LC_ALL=C
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

# In order of worth: what was never tried goes first, in this order, then what was cut off or failed. Models and batches
# are in the order of their work.
PARTS="verify profile-mnist-16-f32 profile-base-16-f32 profile-cifar10-16-f32 train-1 train-2 train-3 samples tune-f32
    torch-eager profile-base-16-f16 profile-base-64-f32 profile-cifar10-64-f32 profile-mnist-64-f32 profile-base-64-f16
    profile-cifar10-64-f16 profile-cifar10-16-f16 profile-mnist-16-f16 profile-mnist-64-f16 torch-compile tune-f16"
MODELS="mnist base cifar10"
BATCHES="16 64"
TRAIN_STEPS=200
# share() gives seconds of so many.
SHARED=480

# share PART: seconds that it may take when it is first tried, of SHARED.
share() {
    case "$1" in
        verify) echo 110 ;;
        profile-*) echo 45 ;;
        train-*) echo 60 ;;
        samples) echo 20 ;;
        tune-*) echo 60 ;;
        torch-eager) echo 75 ;;
        torch-compile) echo 150 ;;
    esac
}

die() {
    echo "card.sh: $1" >&2
    exit 2
}

say() { echo "$1" >&2; }

# --- What runs -------------------------------------------------------------------------------------------------------

# prepare PART: puts into `command` what runs it, or into `skip` why it can't run now.
prepare() {
    local name="$1" model batch precision modes
    skip=
    case "$name" in
        verify) command=("${diffuse[@]}" verify --json=parts/verify/json) ;;
        profile-*)
            IFS=- read -r _ model batch precision <<<"$name"
            command=("${diffuse[@]}" profile --preset "$model" --batch "$batch" --precision "$precision"
                --steps "$profile_steps" "--json=parts/$name/json")
            ;;
        tune-*)
            command=("${diffuse[@]}" tune --preset "$tuned" --batch 16 --precision "${name#tune-}" "--json=parts/$name/json")
            ;;
        train-3)
            needs train-1 && needs train-2 && [ "$(bits_same_kernels)" != null ] && skip="not needed: the first two runs say enough"
            train "$name" cache
            ;;
        train-2) train "$name" cache-2 ;;
        train-1) train "$name" cache ;;
        samples)
            needs train-1
            command=("${diffuse[@]}" sample train-1 --count 40 --steps 20 --sampler ddim --json --out parts/samples/samples.png)
            ;;
        torch-*)
            find_torch
            skip="$no_torch"
            modes=cuda-tf32,cuda-amp
            [ "$name" = torch-eager ] || modes=cuda-compile-amp,cuda-compile
            command=(env "TORCHINDUCTOR_CACHE_DIR=$PWD/cache/torch" "TRITON_CACHE_DIR=$PWD/cache/triton" "$python"
                "$unet" "base,mnist,cifar10" "${BATCHES// /,}" 20 "$modes")
            ;;
    esac
}

# train PART CACHE: prepares a run of that name, which tunes its kernels with that cache.
train() {
    command=(env "DIFFUSE_CACHE_DIR=$2" "${diffuse[@]}" train --data digits --steps "$TRAIN_STEPS" --batch 16 --lr 3e-3
        --warmup 50 --schedule cosine --ema-decay 0.97 --seed 0 --sample-every 0 --checkpoint-every 0 --json --out "$1")
}

needs() {
    [ "$(status "$1")" = done ] || { skip="it needs the part $1"; false; }
}

# Puts into `no_torch` why PyTorch can't be measured, or nothing; asked once.
find_torch() {
    [ -z "${torch_asked:-}" ] || return 0
    torch_asked=yes no_torch=
    local ask='import torch, diffusers; print("gpu" if torch.cuda.is_available() else "no GPU that PyTorch sees")' answer
    if [ ! -f "$unet" ]; then
        no_torch="unet.py is not beside this script"
    elif ! command -v "$python" >/dev/null; then
        no_torch="there is no ${python##*/}"
    else
        limited 60 "$python" -c "$ask" >probe 2>&1
        answer="$(tail -n 1 probe | ascii)"
        [ "$answer" = gpu ] || no_torch="${python##*/}: ${answer:-no answer}"
    fi
}

# limited SECONDS COMMAND...: its exit status; 124 or 137 where it was ended. What not even KILL ends (a process that
# waits for a hung driver) is left behind.
limited() {
    local limit="$1" deadline=$((SECONDS + $1 + 8))
    shift
    timeout -k 5 "$limit" "$@" </dev/null &
    child=$!
    while kill -0 "$child" 2>/dev/null; do
        [ "$SECONDS" -lt "$deadline" ] || { child=; return 124; }
        sleep 0.1
    done
    wait "$child"
    set -- $?
    child=
    return "$1"
}

# --- What came of it -------------------------------------------------------------------------------------------------

# Each part has a directory in parts/: out, err, json, scalars, and `status`: STATUS EXIT SECONDS LIMIT DATE, where
# STATUS is done, failed, cut (off) or skipped.

# status PART [FIELD]
status() {
    local line="new - - - -"
    [ ! -s "parts/$1/status" ] || read -r line <"parts/$1/status"
    # shellcheck disable=SC2086
    set -- "${2:-1}" $line
    shift "$1"
    echo "$1"
}

# equal RUN RUN: whether weights and losses have the same bits; equal RUN RUN choices: whether the same kernels ran.
equal() { cmp -s "parts/$1/${3:-digests}" "parts/$2/${3:-digests}"; }

# Whether stdin is one JSON value; prints the members of an object that are no objects or arrays: NAME tab VALUE.
check_json() {
    head -c 8000000 | tr -d '\000' | awk '
        function skip_space() { while (substr(text, at, 1) ~ /[ \t\r\n]/) at++ }
        function take(pattern,    width) {
            for (width = 64; ; width *= 4) {
                if (match(substr(text, at, width), pattern) && (RLENGTH < width || at + width > length(text))) {
                    at += RLENGTH
                    return 1
                }
                if (at + width > length(text)) return 0
            }
        }
        function list(close_with, named, depth,    name, from, first) {
            at++
            skip_space()
            if (substr(text, at, 1) == close_with) { at++; return 1 }
            for (;;) {
                skip_space()
                from = at
                if (named) {
                    if (!take(STRING)) return 0
                    name = substr(text, from + 1, at - from - 2)
                    skip_space()
                    if (substr(text, at++, 1) != ":") return 0
                    skip_space()
                    from = at
                }
                first = substr(text, at, 1)
                if (!value(depth + 1)) return 0
                if (named && depth == 0 && first !~ /[\[{]/) scalars = scalars name "\t" substr(text, from, at - from) "\n"
                skip_space()
                first = substr(text, at++, 1)
                if (first == close_with) return 1
                if (first != ",") return 0
            }
        }
        function value(depth,    first) {
            first = substr(text, at, 1)
            if (depth > 100) return 0
            if (first == "{") return list("}", 1, depth)
            if (first == "[") return list("]", 0, depth)
            return take(first == "\"" ? STRING : SIMPLE)
        }
        BEGIN {
            hex = "[0-9a-fA-F]"
            STRING = "^\"([^\"\\\\\001-\037]|\\\\[\"\\\\/bfnrt]|\\\\u" hex hex hex hex ")*\""
            SIMPLE = "^(-?(0|[1-9][0-9]*)([.][0-9]+)?([eE][-+]?[0-9]+)?|true|false|null)"
        }
        { text = text $0 "\n" }
        END {
            at = 1
            skip_space()
            good = value(0)
            skip_space()
            if (!good || at <= length(text)) exit 1
            printf "%s", scalars
        }'
}

# gather PART: puts into json what it left of it that is whole, and into scalars the members that are read here.
gather() {
    local directory="parts/$1"
    case "$1" in
        torch-*) keep_lines <"$directory/out" >"$directory/json" ;;
        train-* | samples) cp "$directory/out" "$directory/json" ;;
    esac
    [ -e "$directory/json" ] || : >"$directory/json"
    tr -d '\000' <"$directory/json" | no_paths >"$directory/whole"
    rm -f "$directory/json"
    case "$1" in torch-*) test -s "$directory/whole" ;; *) check_json <"$directory/whole" >"$directory/scalars" ;; esac &&
        mv "$directory/whole" "$directory/json"
}

# judge PART EXIT SECONDS LIMIT: the part's status.
judge() {
    local name="$1" code="$2"
    gather "$name"
    if [ "$code" = 124 ] || { [ "$code" = 137 ] && [ "$3" -ge "$4" ]; }; then
        echo cut
    elif { [ "$code" = 0 ] || { [ "$name" = verify ] && [ "$code" = 1 ]; }; } && whole "$name"; then
        # verify ends with 1 where a kernel is wrong: a finding, if all the findings are there.
        echo done
    else
        echo failed
    fi
}

# Of lines, those that are JSON.
keep_lines() {
    local line
    while IFS= read -r line; do
        check_json <<<"$line" >/dev/null && printf '%s\n' "$line"
    done
}

# whole PART: whether it left all that it should.
whole() {
    [ -s "parts/$1/json" ] || return 1
    case "$1" in
        samples) [ -s parts/samples/samples.png ] ;;
        train-*) digest "$1" ;;
    esac
}

# digest RUN: keeps digests of weights and of the columns of metrics.csv that are no times, and the variants that ran.
digest() {
    local weights="$1/checkpoint/diffusion_pytorch_model.safetensors"
    [ -s "$weights" ] && [ "$(wc -l <"$1/metrics.csv")" -gt "$TRAIN_STEPS" ] || return 1
    { sha256sum <"$weights"; cut -d, -f1-4 "$1/metrics.csv" | sha256sum; } | cut -c1-64 >"parts/$1/digests"
    awk '/"choices": /, /^  \]/' "$1/checkpoint/trainer.json" >"parts/$1/choices"
}

# scalar PART NAME: a member of the part's object, as JSON writes it; nothing where it is not done.
scalar() {
    [ "$(status "$1")" = done ] || return 0
    awk -F '\t' -v name="$2" '$1 == name { print $2; exit }' "parts/$1/scalars"
}

# losses RUN: mean loss of the first and of the last 20 steps.
losses() {
    awk -F, -v steps="$TRAIN_STEPS" 'NR > 1 && $1 <= 20 { first += $2 } NR > 1 && $1 > steps - 20 { last += $2 }
        END { printf "%.4f %.4f\n", first / 20, last / 20 }' "$1/metrics.csv"
}

# lighter PART: where steps are slow, one of a smaller model or batch that was cut off: this one would be as well.
lighter() {
    local model batch precision other count name
    case "$type $1" in '"Cpu" profile-'*) ;; *) return 1 ;; esac
    IFS=- read -r _ model batch precision <<<"$1"
    for other in $MODELS; do
        for count in $BATCHES; do
            for name in "profile-$other-$count-f32" "profile-$other-$count-$precision"; do
                if [ "$name" != "$1" ] && [ "$count" -le "$batch" ] && [ "$(status "$name")" = cut ]; then
                    echo "$name"
                    return
                fi
            done
        done
        [ "$other" != "$model" ] || break
    done
    false
}

# attempt PART: runs it if there is time enough; whether it ran.
attempt() {
    local name="$1" directory="parts/$1" limit left before
    prepare "$name"
    if [ -n "$skip" ]; then
        rm -rf "$directory"
        mkdir -p "$directory"
        echo "skipped - 0 0 $(date -u +%Y-%m-%d)" >"$directory/status"
        echo "$skip" >"$directory/reason"
        return 1
    fi
    ! lighter "$name" >/dev/null || return 1
    limit=$(($(share "$name") * total / SHARED)) left=$((total - SECONDS)) before=0
    [ "$limit" -ge 2 ] || limit=2
    if [ "$(status "$name")" = cut ]; then
        before="$(status "$name" 4)"
        [ "$limit" -ge $((2 * before)) ] || limit=$((2 * before))
    fi
    [ "$limit" -le "$left" ] || limit="$left"
    # As little as was too little before is not worth it.
    [ "$left" -ge 2 ] && [ "$limit" -gt $((before * 5 / 4)) ] || return 1
    start_afresh "$name"
    say "$name: at most $limit s"
    started="$SECONDS"
    limited "$limit" "${command[@]}" >"$directory/out" 2>"$directory/err"
    record "$name" $? "$limit"
    return 0
}

# start_afresh PART: drops what an earlier attempt left, but for the time that was too little, which is there at every moment: this
# script may be killed.
start_afresh() {
    local directory="parts/$1" left
    mkdir -p "$directory"
    [ "$(status "$1")" = cut ] || rm -f "$directory/status"
    for left in "$directory"/*; do
        [ "$left" = "$directory/status" ] || rm -rf "$left"
    done
    case "$1" in train-*) rm -rf "$1" ;; esac
    case "$1" in train-2) rm -rf cache-2 ;; esac
}

# record PART EXIT LIMIT: keeps what came of it and writes the report.
record() {
    local now seconds=$((SECONDS - started))
    now="$(judge "$1" "$2" "$seconds" "$3")"
    echo "$now $2 $seconds $3 $(date -u +%Y-%m-%d)" >"parts/$1/status.new"
    mv "parts/$1/status.new" "parts/$1/status"
    tried="$tried $1"
    say "$1: $now after $seconds s$([ "$now" = failed ] && echo ", exit status $2")"
    write_reports
}

# Every part that was never tried, then what is not done, as often as there is time.
measure() {
    local name progress=yes
    for name in $PARTS; do
        [ "$(status "$name")" != new ] || attempt "$name"
    done
    while [ -n "$progress" ]; do
        progress=
        for name in $PARTS; do
            case "$(status "$name") $tried " in
                done* | "failed"*" $name "*) ;;
                *) attempt "$name" && progress=yes ;;
            esac
        done
    done
}

# Ctrl-C, or a machine that is taken back.
interrupt() {
    trap '' INT TERM HUP
    [ -z "$child" ] || kill -TERM "$child" 2>/dev/null
    [ -z "$file" ] || write_reports
    exit 130
}

# --- What is written -------------------------------------------------------------------------------------------------

ascii() { tr -cd '\11\12\40-\176'; }

# Directories of this machine are nobody's business: of a path that begins at the root the last name is left.
no_paths() {
    awk '{
        kept = ""
        while (match($0, /(^|[^A-Za-z0-9._\/-])\/[A-Za-z0-9._+@-]+\/([A-Za-z0-9._+@-]+\/)*/)) {
            lead = substr($0, RSTART, 1)
            kept = kept substr($0, 1, RSTART - 1) (lead == "/" ? "" : lead)
            $0 = substr($0, RSTART + RLENGTH)
        }
        print kept $0
    }'
}

# last_lines PART: of what it said last.
last_lines() {
    cat "parts/$1/out" "parts/$1/err" 2>/dev/null | tail -n 5 | ascii | no_paths | cut -c1-300
}

# A JSON string of stdin.
quoted() {
    ascii | awk '{ gsub(/[\\"]/, "\\\\&"); gsub(/\t/, "\\t"); text = text (NR > 1 ? "\\n" : "") $0 }
        END { printf "\"%s\"", text }'
}

# plain: of a JSON string on stdin, the text.
plain() { awk '{ sub(/^"/, ""); sub(/"$/, ""); gsub(/\\"/, "\""); gsub(/\\\\/, "\\"); print }'; }

# replace FILE: stdin, as a whole or not at all.
replace() { cat >"$1.new" && mv "$1.new" "$1"; }

# part_json PART: one member of `parts`.
part_json() {
    local name="$1" now exit_status
    now="$(status "$name")" exit_status="$(status "$name" 2)"
    printf '{"name":"%s","status":"%s"' "$name" "${now/#new/not run}"
    case "$now" in
        new) ;;
        skipped) printf ',"reason":%s' "$(quoted <"parts/$name/reason")" ;;
        *)
            printf ',"exit":%s,"seconds":%s,"limit_s":%s' "${exit_status/#-/null}" "$(status "$name" 3)" "$(status "$name" 4)"
            printf ',"date":"%s","last_lines":%s' "$(status "$name" 5)" "$(last_lines "$name" | quoted)"
            output_json "$name"
            ;;
    esac
    printf '}'
}

# section PART KIND: part_text or part_json of it, made once: what is done doesn't change.
section() {
    if [ "$(status "$1")" = new ]; then "$2" "$1"; return; fi
    [ -e "parts/$1/$2" ] || "$2" "$1" | replace "parts/$1/$2"
    cat "parts/$1/$2"
}

# output_json PART: what it found.
output_json() {
    local file="parts/$1/json" first last
    [ -s "$file" ] || return 0
    case "$1" in
        torch-*) printf ',"output":[%s]' "$(paste -sd, "$file")" ;;
        *) printf ',"output":%s' "$(cat "$file")" ;;
    esac
    case "$1 $(status "$1")" in
        train-*" done")
            read -r first last <<<"$(losses "$1")"
            # A loss that is no number any more is null in JSON.
            case "$first$last" in *[!0-9.]*) first=null last=null ;; esac
            printf ',"loss_of_first_20":%s,"loss_of_last_20":%s' "$first" "$last"
            printf ',"sha256":["%s"]' "$(paste -sd, "parts/$1/digests" | sed 's/,/","/')"
            ;;
    esac
}

# Whether two runs gave equal bits: true, false or null. same_kernels: with the variants of kernels of the first run.
bits() {
    [ "$(status train-1) $(status train-2)" = "done done" ] || { echo null; return; }
    equal train-1 train-2 && echo true || echo false
}
bits_same_kernels() {
    [ "$(bits)" != true ] || { echo true; return; }
    if [ "$(bits)" = false ] && equal train-1 train-2 choices; then echo false; return; fi
    [ "$(status train-1) $(status train-3)" = "done done" ] || { echo null; return; }
    equal train-1 train-3 && echo true || echo false
}

report_json() {
    local name separator=
    printf '{"format":1,"date":"%s","adapter":%s,"driver":%s,"type":%s,' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$adapter" "$driver" "$type"
    printf '"diffuse":%s,"binary_sha256":"%s","host":%s,' "$(echo "$version" | quoted)" "$binary" "$(echo "$host" | quoted)"
    printf '"equal_bits":%s,"equal_bits_same_kernels":%s,' "$(bits)" "$(bits_same_kernels)"
    printf '"devices":%s,"parts":[' "$(if [ -s devices.json ]; then no_paths <devices.json; else echo null; fi)"
    for name in $PARTS; do
        printf '%s\n' "$separator"
        section "$name" part_json
        separator=,
    done
    printf '\n]}\n'
}

# number FORMAT VALUE: formatted; a dash where there is none.
number() { case "$2" in '' | null) echo "–" ;; *) awk -v format="$1" -v value="$2" 'BEGIN { printf format "\n", value }' ;; esac; }

# torch_rate MODEL BATCH MODE: images/s.
torch_rate() {
    local file
    [ -s parts/torch-eager/json ] || [ -s parts/torch-compile/json ] || return 0
    for file in parts/torch-*/json; do
        [ -s "$file" ] || continue
        grep "\"model\": \"$1\", \"batch\": $2, \"mode\": \"$3\"" "$file"
    done | awk -v batch="$2" 'match($0, /"step_ms": [0-9.]+/) { printf "%.1f\n", batch * 1000 / substr($0, RSTART + 11, RLENGTH - 11) }'
}

# rate PART: images/s, or why there is none.
rate() {
    case "$(status "$1")" in
        done) number %.1f "$(scalar "$1" images_per_s)" ;;
        new) echo "not run" ;;
        cut) echo "over $(status "$1" 4) s" ;;
        *) status "$1" ;;
    esac
}

rates_table() {
    local model batch mode line cell
    echo "| model, batch | diffuse f32 | diffuse f16 | PyTorch TF32 | PyTorch AMP | compiled TF32 | compiled AMP |"
    echo "|---|---|---|---|---|---|---|"
    for model in $MODELS; do
        for batch in $BATCHES; do
            line="| $model, $batch | $(rate "profile-$model-$batch-f32") | $(rate "profile-$model-$batch-f16") |"
            for mode in cuda-tf32 cuda-amp cuda-compile cuda-compile-amp; do
                cell="$(torch_rate "$model" "$batch" "$mode")"
                line="$line ${cell:-–} |"
            done
            echo "$line"
        done
    done
}

# gflops PART: GFLOP/s of a step.
gflops() {
    number %.1f "$(awk -v flops="$(scalar "$1" flops)" -v ms="$(scalar "$1" step_ms)" 'BEGIN { if (ms > 0) print flops / ms / 1e6 }')"
}

steps_table() {
    local name
    echo "| step | wall, ms | kernels, ms | dispatches | GFLOP/s | commands recorded in, ms |"
    echo "|---|---|---|---|---|---|"
    for name in $PARTS; do
        case "$name $(status "$name")" in profile-*" done") ;; *) continue ;; esac
        echo "| $(title "$name") | $(number %.2f "$(scalar "$name" step_ms)") | $(number %.2f "$(scalar "$name" profiled_ms)") |" \
            "$(scalar "$name" dispatches) | $(gflops "$name") | $(number %.2f "$(scalar "$name" encode_ms)") |"
    done
}

# title PART
title() {
    local model batch precision
    case "$1" in
        verify) echo "All kernels" ;;
        profile-*)
            IFS=- read -r _ model batch precision <<<"$1"
            echo "$model, $batch images, $precision"
            ;;
        train-1) echo "First run" ;;
        train-2) echo "Second run, its kernels tuned anew" ;;
        train-3) echo "Third run, with the first one's variants of kernels" ;;
        samples) echo "Samples" ;;
        tune-*) echo "Variants in ${1#tune-}" ;;
        torch-eager) echo "PyTorch, eager" ;;
        torch-compile) echo "PyTorch, compiled" ;;
    esac
}

# about KIND: heading of such parts and what they show.
about() {
    case "$1" in
        verify) chapter "Kernels against their twins" "Every kernel in every variant, in f32 and in f16, on the corners of its tiles and on shapes drawn by chance, compared with its twin: the same computation in f64 on the processor. The first column is the largest error as a share of what rounding may cause: above 1 is wrong." ;;
        profile) chapter "Training steps" "One step is forward, loss, backward, clipping and optimizer. The wall time is what counts; the kernels' is the sum over a profiled step's dispatches, each timed alone: where it is much less, the card waited for its driver or the CPU. Each folded table shows where that time goes, by kernel and by layer, as shares of the ceilings that were measured on this card." ;;
        train) chapter "Training on digits" "$TRAIN_STEPS steps of 16 images of handwritten digits. The loss is the mean squared error of the noise that the network predicts: about 1 for one that knows nothing. Equal digests of two runs mean that all weights and losses have the same bits." ;;
        samples) chapter "Samples" "The picture at the top shows what the network drew after those $TRAIN_STEPS steps, each digit in turn. After so few, strokes are all that can be expected; noise alone would mean that training or sampling went wrong." ;;
        tune) chapter "Variants of kernels" "Every variant of a kernel, timed on the shapes of a training step of \`$tuned\` with 16 images: the fastest first, then how many times as long the others took. WRONG strays too far from the plain variant \`register\` and is not used." ;;
        torch) chapter "PyTorch" "Training steps of the same U-Nets in PyTorch on the same machine. TF32 is on; AMP is bf16 with channels_last." ;;
    esac
}

chapter() { printf '\n## %s\n\n%s\n' "$1" "$2"; }

# why PART: why it is not done, in a few words.
why() {
    local code
    code="$(status "$1" 2)"
    case "$(status "$1")" in
        new) lighter "$1" >/dev/null && echo "not run: more work than \`$(lighter "$1")\`" || echo "not run yet" ;;
        cut) echo "cut off after $(status "$1" 4) s" ;;
        failed)
            if [ "$code" = 0 ]; then echo "failed: exit status 0, but not the output it should have"; else echo "failed: exit status $code"; fi
            ;;
        skipped) cat "parts/$1/reason" ;;
    esac
}

# settled PART: whether there is nothing left to do.
settled() {
    case "$(status "$1")" in
        done) true ;;
        skipped) [[ "$(why "$1")" == "not needed"* ]] ;;
        *) false ;;
    esac
}

verified() {
    case "$(status verify) $(status verify 2)" in
        "done 0") echo "yes: each agrees with its twin" ;;
        "done 1") echo "**no**: $(tail -n 1 parts/verify/err | ascii | no_paths)" ;;
        *) echo "not known: $(why verify)" ;;
    esac
}

equal_bits() {
    case "$(bits) $(bits_same_kernels)" in
        true*) echo "yes: two runs of $TRAIN_STEPS steps, the second with kernels tuned anew, gave the same weights and losses" ;;
        "false true") echo "yes with the same variants of kernels; a run that tuned anew chose others, which round otherwise" ;;
        "false false") echo "**no**: two runs of $TRAIN_STEPS steps with the same variants of kernels differ" ;;
        false*) echo "no between runs that each tuned their kernels; not known with the same variants: $(why train-3)" ;;
        *) echo "not known: $(settled train-1 && why train-2 || why train-1)" ;;
    esac
}

loss() {
    local first last
    [ "$(status train-1)" = done ] || { echo "not known: $(why train-1)"; return; }
    read -r first last <<<"$(losses train-1)"
    echo "$first over the first 20 steps, $last over the last 20 of $TRAIN_STEPS"
}

missing() {
    local name
    for name in $PARTS; do settled "$name" || echo "- \`$name\` ($(title "$name")): $(why "$name")"; done
}

# Ways that the tuner refused, as warnings name them: `NAME computes WAY wrongly (N times what rounding allows): not used`.
refused() {
    local found
    found="$(cat parts/*/err 2>/dev/null | ascii | sed -n 's/.* computes \(.*\) wrongly.*/\1/p' | sort -u | paste -sd';' - | sed 's/;/; /g')"
    echo "${found:-none so far}"
}

kind_of_adapter() {
    case "$type" in
        '"Cpu"') echo "no GPU: a driver that computes on the processor" ;;
        *) echo "$type" | plain | sed 's/Gpu$/ GPU/' ;;
    esac
}

summary() {
    local missing
    missing="$(missing)"
    echo "# $(echo "$adapter" | plain)"
    echo
    echo "What this card does with diffuse, which trains and samples diffusion models with GPU kernels of its own, through"
    echo "Vulkan. Measured by \`benches/card.sh\`; [all figures]($file.json) are beside this page as JSON."
    echo
    echo "| | |"
    echo "|---|---|"
    echo "| adapter | $(echo "$adapter" | plain) ($(kind_of_adapter)) |"
    echo "| driver | $(echo "$driver" | plain) |"
    echo "| date | $(date -u +%Y-%m-%d) |"
    echo "| binary | $version |"
    echo "| host | $host |"
    echo "| kernels verified | $(verified) |"
    echo "| variants that the tuner refused | $(refused) |"
    echo "| equal bits | $(equal_bits) |"
    echo "| loss on digits | $(loss) |"
    if [ -n "$missing" ]; then echo "| missing | $(echo "$missing" | wc -l) of $(echo "$PARTS" | wc -w) parts, see [below](#missing) |"; fi
    echo
    echo "**Images per second in training** (more is better):"
    echo
    rates_table
    echo
    echo "The models are U-Nets for images of 28x28 (\`mnist\`) and 32x32 pixels (\`base\`, \`cifar10\`), the batch is in images. f16 keeps"
    echo "activations in half precision. – is not measured; *over 45 s* was cut off then, without a result."
    if [ -s parts/samples/samples.png ]; then
        printf '\n![samples](%s.png)\n\n*Drawn after %s training steps on this card.*\n' "$file" "$TRAIN_STEPS"
    fi
    if [ -n "$missing" ]; then
        printf '\n## Missing\n\n%s\n\n' "$missing"
        echo "The same command again keeps what is here and spends its time on these, in this order, those first that were not run;"
        echo "what was cut off gets twice the time. \`--minutes\` gives it more."
    fi
}

# fenced FILE...: as it is, without control characters and paths.
fenced() {
    echo '````'
    cat "$@" | tr -d '\000-\010\013-\037\177' | no_paths
    echo '````'
}

folded() {
    echo "<details><summary>$1</summary>"
    echo
    shift
    fenced "$@"
    echo
    echo "</details>"
}

# part_text PART: what came of it, for its chapter.
part_text() {
    local name="$1" head
    head="$(title "$name") ($(status "$name" 5), $(status "$name" 3) s)"
    echo
    case "$name $(status "$name")" in
        *" new") return ;;
        train-*" done")
            echo "- $head: loss $(losses "$name" | awk '{ print $1 " over the first 20 steps, " $2 " over the last 20" }');"
            echo "  SHA-256 of weights and losses begin with $(cut -c1-16 "parts/$name/digests" | paste -sd' ' - | sed 's/ / and /')"
            ;;
        samples*) ;;
        torch-*) torch_table "$name" ;;
        *" done") folded "$head" "parts/$name/out" ;;
    esac
    [ "$(status "$name")" != done ] || return 0
    echo "**$(title "$name")**: $(why "$name")"
    case "$(status "$name")" in
        cut | failed)
            last_lines "$name" >last
            if [ -s last ]; then printf '\nIts last lines:\n\n'; fenced last; fi
            ;;
    esac
}

torch_table() {
    [ -s "parts/$1/json" ] || return
    awk 'function text(name) { return match($0, "\"" name "\": \"[^\"]*\"") ? substr($0, RSTART + length(name) + 5, RLENGTH - length(name) - 6) : "" }
        function number(name) { return match($0, "\"" name "\": [0-9.]+") ? substr($0, RSTART + length(name) + 4, RLENGTH - length(name) - 4) : 0 }
        BEGIN { print "| model, batch | how | on | step, ms | images/s | first step, s |\n|---|---|---|---|---|---|" }
        {
            model = "| " text("model") ", " number("batch") " | "
            if (text("error") != "") print model text("mode") " | | " text("error") " | | |"
            else printf "%s%s | %s | %.2f | %.1f | %.1f |\n", model, text("peer"), text("hardware"), number("step_ms"), number("batch") * 1000 / number("step_ms"), number("first_ms") / 1000
        }' "parts/$1/json"
    echo
}

report_text() {
    local kind name
    summary
    chapter "Adapter and driver" "What Vulkan says of this machine's adapters; the one that was measured is named at the top."
    echo
    if [ -s devices.txt ]; then fenced devices.txt; else echo "**No answer** (exit status $devices_exit):"; echo; fenced devices.err; fi
    for kind in verify profile train samples tune torch; do
        about "$kind"
        if [ "$kind" = profile ]; then echo; steps_table; fi
        for name in $PARTS; do
            case "$name" in "$kind"*) section "$name" part_text ;; esac
        done
    done
}

# Markdown, JSON and picture; each whole, whatever comes next.
write_reports() {
    report_text | replace "../$file.md"
    report_json | replace "../$file.json"
    if [ -s parts/samples/samples.png ]; then replace "../$file.png" <parts/samples/samples.png; fi
}

# --- How it is put together --------------------------------------------------------------------------------------------

# Packs a binary that runs where glibc is 2.34 or newer, with this script.
build() {
    local archive="${1:-diffuse-card.tar.gz}" commit newest work
    cd "$here/.." || exit 1
    commit="$(git describe --always --dirty --exclude '*')" || die "--build needs git's checkout, for the commit"
    DIFFUSE_COMMIT="$commit" cargo build --release --bin diffuse || die "diffuse can't be built; see above"
    command -v objdump >/dev/null || die "--build needs objdump (binutils), to see which glibc the binary wants"
    newest="$(objdump -T target/release/diffuse | grep -o 'GLIBC_[0-9.]*' | sort -uV | tail -n 1)"
    if [ "$(printf '%s\nGLIBC_2.34\n' "$newest" | sort -V | tail -n 1)" != GLIBC_2.34 ]; then
        objdump -T target/release/diffuse | grep "$newest" >&2
        die "the binary wants $newest, above 2.34: build it on an older system (Debian 12 will do), or see src/glibc.rs"
    fi
    work="$(mktemp -d)" && mkdir "$work/diffuse-card" || exit 1
    cp benches/card.sh benches/peers/unet.py "$work/diffuse-card/"
    strip -o "$work/diffuse-card/diffuse" target/release/diffuse
    tar -C "$work" -czf "$archive" diffuse-card
    rm -rf "$work"
    say "$archive: diffuse $commit, which wants $newest at the most; where it goes: tar xf ${archive##*/} && bash diffuse-card/card.sh"
}

# Puts into `diffuse` the command, files in it by their whole path, and into `binary` the digest of these.
find_diffuse() {
    local default="$here/diffuse" word
    [ -x "$default" ] || default="$here/../target/release/diffuse"
    diffuse=()
    if [ -n "${DIFFUSE:-}" ]; then
        for word in $DIFFUSE; do
            [ ! -f "$word" ] || word="$(cd "$(dirname "$word")" && pwd)/${word##*/}"
            diffuse+=("$word")
        done
    else
        diffuse=("$default")
    fi
    word="${diffuse[${#diffuse[@]} - 1]}"
    command -v "$word" >/dev/null || die "there is no ${DIFFUSE:-$default}: build it (cargo build --release) or set DIFFUSE"
    binary="$(for word in "${diffuse[@]}"; do [ ! -f "$word" ] || cat "$word"; done | sha256sum | cut -c1-64)"
    [ -z "$device" ] || diffuse+=(--device "$device")
}

# Asks for adapter, driver and type; all are known to be unknown if nothing answers.
ask_devices() {
    local limit=$((30 * total / SHARED))
    [ "$limit" -ge 5 ] || limit=5
    adapter= driver= type=
    limited "$limit" "${diffuse[@]}" devices --json=devices.json >devices.txt 2>devices.err
    devices_exit=$?
    if [ -s devices.json ] && check_json <devices.json >scalars; then
        adapter="$(awk -F '\t' '$1 == "adapter" { print $2 }' scalars)"
        driver="$(awk -F '\t' '$1 == "driver" { print $2 }' scalars)"
        type="$(awk -F '\t' '$1 == "type" { print $2 }' scalars)"
    else
        rm -f devices.json devices.txt
    fi
    case "$adapter" in '"'*) ;; *) adapter='"unknown adapter"' driver='"unknown"' type='"unknown"' ;; esac
    version="$(limited 10 "${diffuse[@]}" --version 2>/dev/null | head -n 1 | ascii)"
    case "$version" in *"("*) ;; *) version="${version:-diffuse of unknown version}, commit not known (not built by \`card.sh --build\`)" ;; esac
    host="$(uname -srm), $(awk -F ': *' '/^model name/ { print $2; exit }' /proc/cpuinfo 2>/dev/null), $(nproc) CPU threads"
    # A driver that computes on the CPU takes seconds for a step.
    profile_steps=20 tuned=base
    [ "$type" != '"Cpu"' ] || profile_steps=3 tuned=mnist
}

# Goes to the directory of what is known of this adapter; empties it where driver or binary are others.
enter_state() {
    local key="$driver $binary" fresh="$PWD"
    file="$(echo "$adapter" | plain | tr -c 'A-Za-z0-9\n' '-' | tr -s - | cut -c1-80)"
    file="${file#-}" file="${file%-}"
    if [ -n "$again" ] || [ "$(cat "$out/$file.state/key" 2>/dev/null)" != "$key" ]; then rm -rf "$out/$file.state"; fi
    mkdir -p "$out/$file.state/parts" && cd "$out/$file.state" || die "$out: no place for files"
    echo "$key" >key
    rm -f devices.*
    mv "$fresh"/devices.* . && rm -rf "$fresh"
}

main() {
    minutes=8 out="$here/cards" device='' again='' tried='' child='' file=''
    while [ $# -gt 0 ]; do
        case "$1" in
            --minutes | --out | --device)
                [ $# -ge 2 ] || die "$1 needs a value"
                declare -g "${1#--}=$2"
                shift 2
                ;;
            --again) again=yes; shift ;;
            --build) build "${2:-}"; exit ;;
            *) sed -n '2,22s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
        esac
    done
    total="$(awk -v minutes="$minutes" 'BEGIN { if (minutes ~ /^[0-9]+([.][0-9]+)?$/) print int(minutes * 60) }')"
    [ "${total:-0}" -ge 5 ] || die "--minutes $minutes is no number of at least 0.1"
    python="${PYTHON:-python3}" unet="$here/unet.py"
    [ -f "$unet" ] || unet="$here/peers/unet.py"
    find_diffuse
    mkdir -p "$out" && out="$(cd "$out" && pwd)" || die "$out can't be written"
    cd "$(mktemp -d "$out/.card.XXXXXX")" || die "$out can't be written"
    # Relative, so that no output names this machine's directories.
    export DIFFUSE_CACHE_DIR=cache NODEVICE_SELECT=1 RUST_BACKTRACE=0
    unset RUST_LOG
    trap interrupt INT TERM HUP
    ask_devices
    enter_state
    say "$(echo "$adapter" | plain): $total s"
    write_reports
    measure
    write_reports
    say "$out/$file.md"
    [ -z "$(missing)" ]
}

SECONDS=0
main "$@"; exit
