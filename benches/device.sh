#!/usr/bin/env bash
# Everything that awaits a GPU, in a few commands: one where Rust is, the others where the device is.
#
#   benches/device.sh build [PEERS]               binaries into target/device (stripped), and a script that times other libraries on the same shapes
#   benches/device.sh run OUT tests               the twins' case table, then random cases for four minutes           about 6 minutes
#   benches/device.sh run OUT speed               all figures, three rounds with the peers between                     about 5 minutes
#   benches/device.sh run OUT sanitize            memcheck, racecheck, initcheck, synccheck                            at most 8 minutes
#   benches/device.sh run OUT ncu                 where the time of each op goes                                       at most 8 minutes
#
# `run` needs target/device, and neither Rust nor a toolkit; what is not installed there (compute-sanitizer, ncu, PyTorch) is said and left out.
# It prints as it goes, and leaves one file in OUT for each part: PART.txt (speed: speed.jsonl as well).
# ROWS=256 CODES=512 make `speed` small, for a trial on the virtual driver (LD_LIBRARY_PATH of `.ci/device`).
set -euo pipefail
cd "$(dirname "$0")/.."
place=target/device

build() {
    mkdir -p "$place"
    local built
    built=$(realpath -m "${CARGO_TARGET_DIR:-target}")
    cargo test --release --features cuda --test twins --no-run --message-format json |
        sed -n 's/.*"executable":"\([^"]*twins-[^"]*\)".*/\1/p' | tail -1 | xargs -I{} cp {} "$place/twins"
    cargo build --release --features cuda --example speed
    cp "$built/release/examples/speed" "$place/speed"
    strip "$place/twins" "$place/speed"
    git rev-parse HEAD >"$place/commit"
    if [ -n "${1:-}" ]; then cp "$1" "$place/peers.py"; fi
    ls -l "$place"
}

# What ran, where, on which commit.
about() {
    date -u
    cat "$place/commit"
    nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem --format=csv || true
}

tests() {
    VQ_KERNELS_DEVICE=0 "$place/twins" --test-threads 1 2>&1 | grep -E '^test |panicked|FAULT' || true
    echo "-- random cases, 240 s"
    VQ_KERNELS_DEVICE=0 VQ_KERNELS_SECONDS=240 timeout 300 "$place/twins" --exact random::shapes --nocapture 2>&1 | tail -5 ||
        echo "random cases: FAILED, or stopped after 300 s"
}

speed() {
    local rows=${ROWS:-65536} codes=${CODES:-100000}
    local run=("$place/speed" --device cuda:0 --rows "$rows" --codes "$codes")
    for round in 1 2 3; do
        for dim in 8 32 256; do "${run[@]}" --op search --dim "$dim" --repeat 51; done
        "${run[@]}" --op search --dim 32 --metric l2 --repeat 51
        "${run[@]}" --op search --dim 8 --search f32 --repeat 21
        "${run[@]}" --op ema --dim 32 --repeat 51
        "${run[@]}" --op ema --dim 32 --repeat 51 --collapsed
        "${run[@]}" --op project --dim 32 --repeat 51
        "${run[@]}" --op step --dim 32 --repeat 51
        # The peers last about a minute: once, in the middle.
        if [ "$round" = 2 ] && [ -e "$place/peers.py" ]; then python3 "$place/peers.py" --rows "$rows" --codes "$codes" --dim 8 32 256 || echo "peers: FAILED"; fi
    done | tee "$1/speed.jsonl"
}

sanitize() {
    command -v compute-sanitizer >/dev/null || { echo "no compute-sanitizer here" && return; }
    for tool in memcheck racecheck initcheck synccheck; do
        echo "-- $tool"
        # Buffers that nobody has written stay so, which is what initcheck looks for.
        VQ_KERNELS_DEVICE=0 VQ_KERNELS_UNWRITTEN=1 timeout 110 compute-sanitizer --tool "$tool" "$place/twins" --test-threads 1 \
            same_ ties_ best_few quantizer:: kmeans_pass:: 2>&1 | grep -E '^=========|^test ' | tail -40 || true
    done
}

profile() {
    command -v ncu >/dev/null || { echo "no ncu here" && return; }
    for what in "search 8" "search 32" "search 256" "ema 32" "project 32" "step 32"; do
        read -r op dim <<<"$what"
        echo "-- $what"
        timeout 75 ncu --clock-control none --launch-count 40 --section SpeedOfLight --section WarpStateStats --section LaunchStats \
            "$place/speed" --device cuda:0 --op "$op" --rows 65536 --dim "$dim" --repeat 1 2>&1 |
            grep -E '^  [a-z_]|Duration|Throughput|No Eligible|Registers|Executed Ipc' || true
    done
}

run() {
    local out=$1 part=$2
    mkdir -p "$out"
    { about; case "$part" in
        tests) tests ;;
        speed) speed "$out" ;;
        sanitize) sanitize ;;
        ncu) profile ;;
    esac; } 2>&1 | tee "$out/$part.txt"
}

case "${1:-}" in
    build) build "${2:-}" ;;
    run)
        case "${3:-}" in
            tests | speed | sanitize | ncu) ;;
            *) sed -n '2,12p' "$0"; exit 2 ;;
        esac
        [ -x "$place/twins" ] || { echo "no $place/twins: benches/device.sh build" && exit 2; }
        run "$2" "$3"
        ;;
    *) sed -n '2,12p' "$0"; exit 2 ;;
esac
