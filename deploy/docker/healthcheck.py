"""HEALTHCHECK of the images: ask the server of this container, where its settings let it listen, if it is ready.

Exit status 0 if it is. The standard library alone, for it runs every few seconds.
"""

import http.client
import os
import sys

ANY = {"": ("127.0.0.1", "::1"), "0.0.0.0": ("127.0.0.1",), "::": ("::1", "127.0.0.1")}


def is_ready(host: str, port: int) -> bool:
    connection = http.client.HTTPConnection(host, port, timeout=2)
    try:
        connection.request("GET", "/.well-known/ready")
        return connection.getresponse().status == 204
    finally:
        connection.close()


def main() -> int:
    host = os.environ.get("HOST", "").strip().strip("[]")
    port = int(os.environ.get("PORT", "").strip() or 8080)
    reason = ""
    for address in ANY.get(host, (host,)):
        try:
            if is_ready(address, port):
                return 0
            reason = f"{address} port {port}: not ready"
            break
        except (OSError, http.client.HTTPException) as error:
            reason = f"{address} port {port}: {error}"
    print(reason)
    return 1


if __name__ == "__main__":
    sys.exit(main())
