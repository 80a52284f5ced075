"""What FastAPI itself costs: a route that parses the request, answers constant vectors, and does nothing else.

PORT=... python -m benchmarks.plain_route
"""

import os

import msgspec
import numpy as np
import orjson
import uvicorn
from fastapi import FastAPI, Request, Response

_WIDTH = 512


class Body(msgspec.Struct):
    """What POST /vectorize takes."""

    texts: list[str] = []
    images: list[str] = []


def create_app() -> FastAPI:
    app = FastAPI()
    decode = msgspec.json.Decoder(Body).decode

    @app.get("/.well-known/ready")
    async def ready() -> Response:
        return Response(status_code=204)

    @app.post("/vectorize")
    async def vectorize(request: Request) -> Response:
        body = decode(await request.body())
        rows = {
            f"{kind}Vectors": [np.full(_WIDTH, len(item), np.float32) for item in items]
            for kind, items in (("text", body.texts), ("image", body.images))
        }
        return Response(orjson.dumps(rows, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")

    return app


if __name__ == "__main__":
    uvicorn.run(create_app(), port=int(os.environ["PORT"]), access_log=False, log_level="error")
