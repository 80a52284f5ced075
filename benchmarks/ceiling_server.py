"""The server that benchmarks/ceiling.py measures."""

from benchmarks.ceiling import serve

if __name__ == "__main__":
    serve()
