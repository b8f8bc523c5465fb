#!/usr/bin/env bash
# One training leg on a GPU, detached, so that its log can be read meanwhile:
#
#     benchmarks/leg.sh DATA SECONDS [options of stbn train ...]
#
# DATA holds train/ and stills/. Everything ends within SECONDS, start and last validation included. The run lies in
# runs/leg, its log is runs/leg.log, whose last line is FINISHED. Steps that can be recorded are compiled; if that fails,
# the leg begins again without --compile in what time is left.
set -u
cd "$(dirname "$0")/.."
data=$1 end=$(($(date +%s) + $2))
shift 2
mkdir -p runs && : >runs/leg.log
export PYTHONUNBUFFERED=1

leg() {
    local minutes
    minutes=$(python3 -c "import sys; print((int(sys.argv[1]) - 15) / 60)" $((end - $(date +%s))))
    python3 -m stbn_cli train -o runs/leg --train-dir "$data/train" --still-dir "$data/stills" \
        --hold-out goat --hold-out kite-surf --hold-out soapbox --hold-out tennis --hold-out teddy \
        --device cuda --precision bf16 --batch-size 16 --patch-size 96 --train-length 8 --lr 8e-4 --schedule timed \
        --warmup-steps 150 --patches-per-epoch 16000 --epochs 100 --validate-every 1000 --save-every 2 --log-every 100 \
        --flow weights/flow-light.safetensors --max-minutes "$minutes" "$@"
}

# Compiled and not recorded, a step takes longer than as it is (docs/experiments/gpu.md).
case " $* " in
*" --distill "* | *" --noise "* | *" flow-light "*) compile= ;;
*) compile=--compile ;;
esac
export -f leg
export data end compile
setsid nohup bash -c '
    rm -rf runs/leg
    leg $compile "$@" || { echo "AGAIN, WITHOUT --compile"; rm -rf runs/leg; leg "$@"; }
    echo FINISHED
' leg "$@" >runs/leg.log 2>&1 </dev/null &
