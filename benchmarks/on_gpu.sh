#!/usr/bin/env bash
# On a machine with a GPU, within 6 minutes: sets up, runs the CUDA tests, measures (see benchmarks/gpu.py).
#
#     benchmarks/on_gpu.sh
#     PYTHON=/path/to/python benchmarks/on_gpu.sh    # an interpreter that has torch for CUDA and what requirements/dev.txt
#                                                    # names: nothing is installed
#     MODELS_DIR=models benchmarks/on_gpu.sh         # a model of your own instead of a made one of the size of ViT-B/32
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${PYTHON:-}" ]; then
    python3 -m venv .venv-gpu
    PYTHON=$PWD/.venv-gpu/bin/python
    # The package index serves torch for CUDA; requirements/install.py would take that for a CPU.
    "$PYTHON" -m pip install --quiet -r requirements/dev.txt
fi
"$PYTHON" -c "import torch; print('torch', torch.__version__, 'on', torch.cuda.get_device_name(0))"
timeout 120 "$PYTHON" -m pytest -q -p no:cacheprovider tests/families/test_cuda.py tests/engines
models=${MODELS_DIR:-benchmarks/.cache/model}
[ -n "${MODELS_DIR:-}" ] || "$PYTHON" -m benchmarks.make_model "$models"
timeout 200 "$PYTHON" -m benchmarks.gpu --models "$models" --seconds "${SECONDS_EACH:-5}" --precisions float16
