"""A body as it arrives, within the budget."""

import asyncio

from fastapi import Request

from app.errors import BodyTimeout
from app.serving.budget import Admission


async def read_body(request: Request, admission: Admission, seconds: float) -> bytearray:
    """The whole body; raises as soon as more is announced or seen than is admitted, or time is up.

    Raises BodyTooLarge, Overloaded or BodyTimeout.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                await admission.grow_body(len(chunk))
                body += chunk
    except TimeoutError as error:
        raise BodyTimeout(f"the body did not arrive within {seconds:g} s") from error
    return body
