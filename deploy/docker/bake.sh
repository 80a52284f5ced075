#!/bin/sh
# bake.sh: bake the model that the environment names, and lay below /out what the served image adds to its
# `server` stage: the compiled model alone where that can be served without torch, else everything.
#
# Runs in /app with everything installed in /opt/venv, and what serves without torch in /opt/serve.
set -eu
if [ -f /run/secrets/HF_TOKEN ]; then
  HF_TOKEN=$(cat /run/secrets/HF_TOKEN)
  export HF_TOKEN
fi
mkdir -p /out/app/models /out/opt

keep() { for path in "$@"; do cp -a "models/$path" /out/app/models/; done; }

if [ "$DEVICE" = cuda ]; then
  ./download.py --no-compile
  keep .
else
  ./download.py
  if [ -d models/compiled ]; then keep compiled trust_remote_code baked.json; fi
  if MODELS_DIR=/out/app/models /opt/serve/bin/python -c '
from app.models.load import load_model
from app.settings import load_settings

load_model(load_settings(), served_elsewhere=True)
'; then
    echo "the image serves the compiled model without torch"
  else
    echo "the compiled model alone does not serve (see above): the image gets torch and the model's own files"
    python -c '
import torch, sys
if torch.version.cuda:
    sys.exit(
        "error: this torch is a CUDA build, which has no place in an image for the CPU; pass --build-arg "
        "TORCH_INDEX=ADDRESS of the CPU wheel index of PyTorch (docs/operations.md), or DEVICE=cuda"
    )
'
    keep .
    cp -a /opt/venv /out/opt/venv
  fi
fi
chmod -R a+rX /out/app/models
