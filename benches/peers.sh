#!/usr/bin/env bash
# diffuse beside PyTorch and Burn: a training step of the same models on this machine, as a markdown table.
#
#   benches/peers.sh [--models mnist,base] [--batch 16] [--steps 5] [--rounds 3] [--peers diffuse,torch,burn] [--out F.md]
#
# In each round every peer runs once, one after the other, and the table holds medians over the rounds. A peer that is
# not there is skipped with a line that says so.
#
#   PYTHON           an interpreter with torch and diffusers                                    [default: python3]
#   DIFFUSE          the command that runs diffuse, a driver's wrapper before it           [default: target/release/diffuse]
#   DIFFUSE_DEVICE   adapter, as --device takes it
#   BURN             the command that runs benches/peers/burn; `none` skips it    [default: built with cargo, if that works]
#   BURN_DEVICE      gpu: Burn's first discrete GPU; else the driver that computes on the CPU
set -uo pipefail
cd "$(dirname "$0")/.."

models=mnist,base batch=16 steps=5 rounds=3 peers=diffuse,torch,burn out=
while [ $# -gt 0 ]; do
    case "$1" in
        --models | --batch | --steps | --rounds | --peers | --out)
            [ $# -ge 2 ] || { echo "peers.sh: $1 needs a value" >&2; exit 2; }
            declare "${1#--}=$2"
            shift 2
            ;;
        *)
            sed -n '2,14s/^# \{0,1\}//p' "$0" >&2
            exit 2
            ;;
    esac
done
for number in "$batch" "$steps" "$rounds"; do
    case "$number" in '' | *[!0-9]* | 0) echo "peers.sh: $number is no number of 1 or more" >&2; exit 2 ;; esac
done
for model in ${models//,/ }; do
    case "$model" in mnist | base | cifar10) ;; *) echo "peers.sh: no model $model; there are mnist, base, cifar10" >&2; exit 2 ;; esac
done

python="${PYTHON:-python3}"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
has() { case ",$peers," in *",$1,"*) true ;; *) false ;; esac; }

# Which peers there are: one line each, a name and what runs it.
modes=
if has torch; then
    if ! "$python" -c 'import torch, diffusers' 2>/dev/null; then
        echo "skipped: PyTorch ($python has no torch and diffusers; set PYTHON)" >&2
    else
        modes=cpu
        if "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
            modes="cpu cuda-eager cuda-tf32 cuda-compile-amp"
        else
            echo "skipped: PyTorch on CUDA (no CUDA device)" >&2
        fi
    fi
fi
burn=
if has burn; then
    if [ "${BURN:-}" = none ]; then
        echo "skipped: Burn (BURN=none)" >&2
    elif [ -n "${BURN:-}" ]; then
        burn="$BURN"
    elif cargo build --release --quiet --manifest-path benches/peers/burn/Cargo.toml --target-dir target/peers/burn; then
        burn=target/peers/burn/release/burn-peer
    else
        echo "skipped: Burn (benches/peers/burn can't be built here)" >&2
    fi
fi
diffuse=
if has diffuse; then
    if [ -z "${DIFFUSE:-}" ] && ! cargo build --release --quiet --bin diffuse; then
        echo "skipped: diffuse (it can't be built here)" >&2
    else
        diffuse="${DIFFUSE:-target/release/diffuse}"
    fi
fi

# record MODEL ROUND COMMAND...: runs it; the last line of its output is a JSON object, which gets model, batch, round.
record() {
    local model="$1" round="$2"
    shift 2
    if ! "$@" >"$work/out" 2>"$work/err"; then
        echo "skipped: $model with $* ($(tail -n 1 "$work/err"))" >&2
        return
    fi
    tail -n 1 "$work/out" | "$python" -c '
import json, sys
model, batch, number = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
record = json.loads(sys.stdin.read())
if "adapter" in record:
    # diffuse profile: the peers know no first step of its kind, planning and tuning apart.
    keep = {"parameters": record["parameters"], "step_ms": record["step_ms"]}
    record = {"peer": "diffuse, f32", "hardware": record["adapter"] + ", " + record["driver"], **keep}
print(json.dumps({"model": model, "batch": batch, "round": number, **record}))
' "$model" "$batch" "$round" >>"$work/records"
}

: >"$work/records"
for model in ${models//,/ }; do
    for round in $(seq "$rounds"); do
        if [ -n "$diffuse" ]; then
            # shellcheck disable=SC2086
            record "$model" "$round" $diffuse ${DIFFUSE_DEVICE:+--device "$DIFFUSE_DEVICE"} \
                profile --preset "$model" --batch "$batch" --steps "$steps" --json
        fi
        for mode in $modes; do
            record "$model" "$round" "$python" benches/peers/unet.py "$model" "$batch" "$steps" "$mode"
        done
        if [ -n "$burn" ]; then
            # shellcheck disable=SC2086
            record "$model" "$round" $burn "$model" "$batch" "$steps"
        fi
    done
done
[ -s "$work/records" ] || { echo "peers.sh: no peer ran" >&2; exit 1; }

processor="$( (lscpu 2>/dev/null || sysctl -n machdep.cpu.brand_string 2>/dev/null) | sed -n 's/^Model name: *//p;1{/:/!p}')"
{
    echo "Training steps, $(date -u +%Y-%m-%d), $(uname -sm), ${processor:-unknown processor}, $(getconf _NPROCESSORS_ONLN) cores;"
    echo "medians of $rounds paired rounds of $steps steps: \`benches/peers.sh --models $models --batch $batch --steps $steps --rounds $rounds\`"
    echo
    "$python" benches/peers/table.py "$work/records"
} >"$work/table"
cat "$work/table"
if [ -n "$out" ]; then
    mkdir -p "$(dirname "$out")"
    cp "$work/table" "$out"
fi
