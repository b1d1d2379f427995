#!/usr/bin/env bash
# Everything that awaits a GPU, in two commands: one where Rust is, one where the device is.
#
#   benches/device.sh build               binaries into target/device (stripped)
#   benches/device.sh run target/device OUT [PEERS]
#
# `run` needs neither Rust nor a toolkit; where compute-sanitizer, ncu and PyTorch are there, it uses them. PEERS is a
# script that times other libraries on the same shapes. OUT gets a file for each part, and `summary.txt`.
set -euo pipefail
cd "$(dirname "$0")/.."

build() {
    local place=target/device
    mkdir -p "$place"
    cargo test --release --features cuda --test twins --no-run --message-format json |
        sed -n 's/.*"executable":"\([^"]*twins-[^"]*\)".*/\1/p' | tail -1 | xargs -I{} cp {} "$place/twins"
    cargo build --release --features cuda --example speed
    cp target/release/examples/speed "$place/speed"
    strip "$place/twins" "$place/speed"
    git rev-parse HEAD >"$place/commit"
    ls -l "$place"
}

run() {
    local place=$1 out=$2 peers=${3:-}
    mkdir -p "$out"
    { date -u; cat "$place/commit"; nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem --format=csv; } >"$out/device.txt" 2>&1 || true
    # -- the same case table as on the virtual machine, one after the other as they share the device
    VQ_KERNELS_DEVICE=0 "$place/twins" --test-threads 1 >"$out/twins.txt" 2>&1 || echo "twins: FAILED" >>"$out/summary.txt"
    tail -1 "$out/twins.txt" >>"$out/summary.txt"
    # -- speed, interleaved with the peers
    for round in 1 2 3; do
        for dim in 8 32 256; do
            "$place/speed" --device cuda:0 --op search --rows 65536 --dim "$dim" --repeat 51
        done
        "$place/speed" --device cuda:0 --op search --rows 65536 --dim 32 --metric l2 --repeat 51
        "$place/speed" --device cuda:0 --op search --rows 65536 --dim 8 --search f32 --repeat 21
        "$place/speed" --device cuda:0 --op ema --rows 65536 --dim 32 --repeat 51
        "$place/speed" --device cuda:0 --op ema --rows 65536 --codes 1 --dim 32 --repeat 51
        "$place/speed" --device cuda:0 --op project --rows 65536 --dim 32 --repeat 51
        "$place/speed" --device cuda:0 --op step --rows 65536 --dim 32 --repeat 51
        if [ -n "$peers" ]; then python3 "$peers" --rows 65536 --codes 100000 --dim 8 32 256; fi
    done >"$out/speed.jsonl" 2>"$out/speed.err" || echo "speed: FAILED" >>"$out/summary.txt"
    cat "$out/speed.jsonl" >>"$out/summary.txt"
    # -- sanitizers on the case table's smaller half
    if command -v compute-sanitizer >/dev/null; then
        for tool in memcheck racecheck initcheck synccheck; do
            VQ_KERNELS_DEVICE=0 timeout 120 compute-sanitizer --tool "$tool" "$place/twins" --test-threads 1 \
                same_ ties_ best_few >"$out/$tool.txt" 2>&1 || true
            echo "$tool: $(grep -E 'ERROR SUMMARY|RACECHECK SUMMARY' "$out/$tool.txt" || echo 'no summary: see the file')" >>"$out/summary.txt"
        done
    fi
    # -- where the time goes
    if command -v ncu >/dev/null; then
        for dim in 8 32 256; do
            timeout 100 ncu --clock-control none --kernel-name regex:search_ --launch-count 6 --set full \
                "$place/speed" --device cuda:0 --op search --rows 65536 --dim "$dim" --repeat 3 >"$out/ncu_$dim.txt" 2>&1 || true
        done
    fi
    cat "$out/summary.txt"
}

case "${1:-}" in
    build) build ;;
    run) run "${@:2}" ;;
    *) sed -n '2,9p' "$0"; exit 2 ;;
esac
