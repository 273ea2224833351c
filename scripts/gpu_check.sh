#!/usr/bin/env bash
# Checks an NVIDIA GPU in one call: versions, kernels, goldens, a video, speed. Needs the program, built
# with `cargo build --release -p anyid-cli --features cuda`, and nothing else; flags go to `gpu-check`.
#
#   scripts/gpu_check.sh [--kernels|--goldens|--speed] [--json OUT]
#
# ANYID_RT names the program, ANYID_NVRTC the folder of NVRTC; both are looked for otherwise. At most nine
# minutes; the table has at most 60 lines, and what was found until then is kept if it is ended before.
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

program=${ANYID_RT:-}
own=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
for at in "$own/anyid-rt" "$here/target/release/anyid-rt" "$here/anyid-rt" "$(command -v anyid-rt)"; do
    [ -z "$program" ] && [ -f "$at" ] && [ -x "$at" ] && program=$at
done
if [ -z "$program" ]; then
    echo "there is no anyid-rt: build it, lay it beside this script, or name it in ANYID_RT" >&2
    exit 1
fi
if ! { [ -f "$program" ] && [ -x "$program" ]; } && ! command -v "$program" >/dev/null; then
    echo "ANYID_RT names $program, which is no program" >&2
    exit 1
fi

# NVRTC of a Python package, where the system and /usr/local/cuda have none.
if [ -z "${ANYID_NVRTC:-}" ] && ! ldconfig -p 2>/dev/null | grep -q 'libnvrtc\.so\.1[23]' &&
    [ ! -e /usr/local/cuda/lib64/libnvrtc.so ]; then
    folder=$(python3 - 2>/dev/null <<'PYTHON'
import glob, os, sysconfig
for root in {sysconfig.get_paths()[key] for key in ("purelib", "platlib")}:
    for found in sorted(glob.glob(os.path.join(root, "nvidia", "*", "lib", "libnvrtc.so.1*"))):
        print(os.path.dirname(found))
        raise SystemExit
PYTHON
    )
    [ -n "$folder" ] && export ANYID_NVRTC=$folder
fi

nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm,clocks.mem --format=csv 2>/dev/null ||
    echo "nvidia-smi is not here"
fixtures=()
[ -d "$here/tests/fixtures" ] && fixtures=(--fixtures "$here/tests/fixtures")
exec timeout --foreground --kill-after=10 540 "$program" gpu-check ${fixtures[@]+"${fixtures[@]}"} "$@"
