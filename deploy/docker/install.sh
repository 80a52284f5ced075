#!/bin/sh
# install.sh serve | bake | bake-without-cuda: fill /opt/venv, then remove what nobody uses.
#
#   serve               what serves a compiled model on a CPU: no torch
#   bake                everything: bakes, and serves with torch; FAMILIES names further requirement files
#   bake-without-cuda   the same, and refuses a torch that brings CUDA
#
# Environment: TORCH_INDEX, the package index that torch and torchvision come from, where it is not the ordinary one;
# FAMILIES; TRACING, which asks for requirements/tracing.txt unless it is empty.
set -eu
kind=$1
python -m venv --without-pip /opt/venv
packages=/opt/venv/lib/python3.11/site-packages
install() { pip --python /opt/venv/bin/python install "$@"; }
fail() {
  echo "error: $*" >&2
  exit 1
}

if [ "$kind" = serve ]; then
  install -r requirements/serve.txt
  # tokenizers names the hub's client, with which it only downloads.
  pip --python /opt/venv/bin/python uninstall --quiet --yes \
    huggingface_hub hf-xet httpx2 httpcore2 truststore fsspec filelock tqdm pyyaml
  # The model is OpenVINO's own format, on the CPU: no other frontend, no converter.
  find "$packages/openvino/libs" -name 'libopenvino_*_frontend.so.*' ! -name 'libopenvino_ir_*' -delete
  rm -rf "$packages/openvino/tools"
else
  # The two that are built for a device, and fit each other only if they come from one index.
  built="torch"
  set -- -r requirements.txt
  for family in ${FAMILIES:-}; do
    [ -f "requirements/$family.txt" ] || fail "FAMILIES=$family: there is no requirements/$family.txt"
    set -- "$@" -r "requirements/$family.txt"
    built="torch torchvision"
  done
  # Nothing but these is asked for there: an index that is asked for every package answers for any name.
  from="--no-deps -c requirements/constraints.txt ${TORCH_INDEX:+--index-url $TORCH_INDEX}"
  unreachable="torch is not to be had from TORCH_INDEX=${TORCH_INDEX:-} (see above); pass --build-arg
TORCH_INDEX=ADDRESS of a mirror of PyTorch's CPU wheel index, or TORCH_INDEX= where your own package index gives the
build that you want"
  if [ "$kind" = bake-without-cuda ]; then
    # Only the metadata is read here, so that a refusal costs no download of several GB.
    # shellcheck disable=SC2086 # words
    install --quiet --dry-run --ignore-installed --report /tmp/torch.json $from torch || fail "$unreachable"
    python - <<'PYTHON'
import json
import sys

torch = json.load(open("/tmp/torch.json"))["install"][0]["metadata"]
if any(name.startswith(("nvidia", "cuda", "triton")) for name in torch.get("requires_dist", [])):
    sys.exit(
        f"error: DEVICE=cpu, but the package index gives a CUDA build of torch {torch['version']}; leave TORCH_INDEX "
        "out for PyTorch's own CPU builds, give it the address of a mirror of them, or pass DEVICE=cuda"
    )
PYTHON
  fi
  if [ -n "${TORCH_INDEX:-}" ]; then
    # shellcheck disable=SC2086 # words
    install $from $built || fail "$unreachable"
  fi
  install "$@"
  if [ "$built" != torch ]; then
    /opt/venv/bin/python -W ignore -c 'import torchvision' ||
      fail "this torchvision does not fit this torch; both must come from one index (TORCH_INDEX), or FAMILIES= leaves" \
        "out what needs torchvision"
  fi
  # Headers and tools for building extensions of torch.
  rm -rf "$packages"/torch/include "$packages"/torch/share "$packages"/torch/lib/*.a
  find "$packages/torch/bin" -type f ! -name torch_shm_manager -delete
fi
[ -z "${TRACING:-}" ] || install -r requirements/tracing.txt
# OpenVINO's reports of its use. The metadata stays, so that a later `pip install` does not bring it back.
rm -r "$packages/openvino_telemetry"
# Devices that are not used: OpenVINO computes on the CPU, torch on CUDA.
rm -f "$packages"/openvino/libs/libopenvino_intel_[gn]pu_plugin.so "$packages"/openvino/libs/cache.json
rm -rf "$packages"/openvino/include "$packages"/openvino/cmake
# The libraries' own tests, and what is only for building against them.
for library in numpy scipy sklearn sympy networkx pandas joblib threadpoolctl mpmath; do
  [ ! -d "$packages/$library" ] || find "$packages/$library" -type d -name tests -prune -exec rm -rf {} +
done
find "$packages" -name '*.pyi' -delete
rm -rf "$packages/numpy/_core/include"
