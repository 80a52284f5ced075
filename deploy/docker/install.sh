#!/bin/sh
# install.sh serve | bake | bake-without-cuda: fill /opt/venv, then remove what nobody uses.
#
#   serve               what serves a compiled model on a CPU: no torch
#   bake                everything: bakes, and serves with torch; FAMILIES names further requirement files
#   bake-without-cuda   the same, and refuses a torch that brings CUDA
#
# Environment: TORCH_INDEX, a further package index that offers the wanted build of torch; FAMILIES.
set -eu
kind=$1
python -m venv --without-pip /opt/venv
packages=/opt/venv/lib/python3.11/site-packages
install() { pip --python /opt/venv/bin/python install ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} "$@"; }

if [ "$kind" = serve ]; then
  install -r requirements/serve.txt
  # tokenizers names the hub's client, with which it only downloads.
  pip --python /opt/venv/bin/python uninstall --quiet --yes \
    huggingface_hub hf-xet httpx2 httpcore2 truststore fsspec filelock tqdm pyyaml
  # The model is OpenVINO's own format, on the CPU: no other frontend, no converter.
  find "$packages/openvino/libs" -name 'libopenvino_*_frontend.so.*' ! -name 'libopenvino_ir_*' -delete
  rm -rf "$packages/openvino/tools"
else
  set -- -r requirements.txt
  for family in ${FAMILIES:-}; do
    [ -f "requirements/$family.txt" ] || {
      echo "error: FAMILIES=$family: there is no requirements/$family.txt" >&2
      exit 1
    }
    set -- "$@" -r "requirements/$family.txt"
  done
  if [ "$kind" = bake-without-cuda ]; then
    # Only the metadata is read here, so that a refusal costs no download of several GB.
    install --quiet --dry-run --ignore-installed --no-deps --report /tmp/torch.json torch -c requirements.txt
    python - <<'PYTHON'
import json
import sys

torch = json.load(open("/tmp/torch.json"))["install"][0]["metadata"]
if any(name.startswith(("nvidia", "cuda", "triton")) for name in torch.get("requires_dist", [])):
    sys.exit(
        f"error: DEVICE=cpu, but the package index gives a CUDA build of torch {torch['version']}; pass "
        "--build-arg TORCH_INDEX=ADDRESS of PyTorch's CPU wheel index (docs/operations.md), or DEVICE=cuda"
    )
PYTHON
  fi
  install "$@"
  # Headers and tools for building extensions of torch.
  rm -rf "$packages"/torch/include "$packages"/torch/share "$packages"/torch/lib/*.a
  find "$packages/torch/bin" -type f ! -name torch_shm_manager -delete
fi
# Devices that are not used: OpenVINO computes on the CPU, torch on CUDA.
rm -f "$packages"/openvino/libs/libopenvino_intel_[gn]pu_plugin.so "$packages"/openvino/libs/cache.json
rm -rf "$packages"/openvino/include "$packages"/openvino/cmake
# The libraries' own tests, and what is only for building against them.
for library in numpy scipy sklearn sympy networkx pandas joblib threadpoolctl mpmath; do
  [ ! -d "$packages/$library" ] || find "$packages/$library" -type d -name tests -prune -exec rm -rf {} +
done
find "$packages" -name '*.pyi' -delete
rm -rf "$packages/numpy/_core/include"
