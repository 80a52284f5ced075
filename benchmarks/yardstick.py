"""The yardstick: what people have. One lock, one request at a time, SentenceTransformer.encode.

MODELS_DIR=... PORT=... python -m benchmarks.yardstick
"""

import asyncio
import base64
import io
import os
from typing import Any

import uvicorn
from fastapi import FastAPI, Response
from PIL import Image
from sentence_transformers import SentenceTransformer


def create_app(models_dir: str) -> FastAPI:
    app = FastAPI()
    lock = asyncio.Lock()
    clip = SentenceTransformer(f"{models_dir}/clip", device="cpu", local_files_only=True)
    text = SentenceTransformer(f"{models_dir}/text", device="cpu", local_files_only=True)

    def encode(payload: dict[str, Any]) -> dict[str, Any]:
        images = [Image.open(io.BytesIO(base64.b64decode(item))) for item in payload.get("images") or []]
        texts = payload.get("texts") or []
        return {
            "textVectors": text.encode(texts).tolist() if texts else [],
            "imageVectors": clip.encode(images).tolist() if images else [],
        }

    @app.get("/.well-known/ready", status_code=204)
    def ready() -> Response:
        return Response(status_code=204)

    @app.post("/vectorize")
    async def vectorize(payload: dict[str, Any]) -> dict[str, Any]:
        async with lock:
            return await asyncio.to_thread(encode, payload)

    return app


if __name__ == "__main__":
    uvicorn.run(
        create_app(os.environ["MODELS_DIR"]),
        port=int(os.environ["PORT"]),
        access_log=False,
        log_level="error",
    )
