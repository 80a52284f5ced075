"""Small files that want much: memory, time, the log, or another program."""

import base64
import contextlib
import io
import json
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.errors import InvalidRequest, Unavailable
from app.processors.decode import named_errors
from app.processors.formats import common_format
from app.processors.picture import PictureProcessor
from tests.support import samples
from tests.support.samples import as_base64, chunk, encoded, png, scene

Pictures = Callable[..., PictureProcessor]

CASES = Path(__file__).parents[1] / "cases"
CCITT = json.loads((CASES / "ccitt_request.json").read_text())["images"][0].encode()


@pytest.fixture
def pictures() -> Iterator[Pictures]:
    made: list[PictureProcessor] = []

    def make(**options: object) -> PictureProcessor:
        made.append(samples.pictures(**options))
        return made[-1]

    yield make
    for prepare in made:
        prepare.close()
    assert children() == []


def refusal(text: bytes, prepare: PictureProcessor) -> str:
    with pytest.raises(InvalidRequest) as error:
        prepare(text)
    return str(error.value)


def children() -> list[int]:
    """The processes that this one has started and that compute for it."""
    pids = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            command = (path / "cmdline").read_bytes()
            parent = int((path / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except (OSError, ValueError):
            continue
        if parent == os.getpid() and b"app.processors.worker" in command:
            pids.append(int(path.name))
    return pids


def peak_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


def tiff_with_one_tile(side: int) -> bytes:
    """16x16 pixels in one tile of side x side, deflated."""
    tile = zlib.compress(bytes(side * side))
    tags = [
        (256, 3, 1, 16), (257, 3, 1, 16), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1),
        (322, 4, 1, side), (323, 4, 1, side), (324, 4, 1, 8), (325, 4, 1, len(tile)),
    ]  # fmt: skip
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(tile)) + tile + directory


def ico_around(picture: bytes) -> bytes:
    return struct.pack("<HHH", 0, 1, 1) + struct.pack("<BBBBHHII", 32, 32, 0, 0, 1, 32, len(picture), 22) + picture


def large_png(side: int = 13_000) -> bytes:
    rows = zlib.compress(bytes((side // 8 + 1) * side), 9)
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def blp_around(jpeg: bytes) -> bytes:
    header = b"BLP1" + struct.pack("<iIIIIi", 0, 0, 8, 8, 0, 0)
    table = struct.pack("<16I", 160 + 4, *[0] * 15) + struct.pack("<16I", len(jpeg), *[0] * 15)
    return header + table + struct.pack("<I", 0) + jpeg


def iptc_around(picture: bytes) -> bytes:
    fields = ((3, 60, b"\0\0"), (3, 20, b"\0\x08"), (3, 30, b"\0\x08"), (3, 65, b"\0"), (3, 120, b"\0\x05"))
    parts = (b"\x1c" + bytes(field[:2]) + struct.pack(">H", len(field[2])) + field[2] for field in fields)
    return b"".join(parts) + b"\x1c\x08\x0a" + struct.pack(">H", len(picture)) + picture


def icns_around(picture: bytes) -> bytes:
    block = b"ic07" + struct.pack(">I", 8 + len(picture)) + picture
    return b"icns" + struct.pack(">I", 8 + len(block)) + block


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.mark.parametrize(
    "data",
    [
        (CASES / "j2k_many_tiles.j2k").read_bytes(),
        tiff_with_one_tile(16384),
        ico_around(large_png()),
        icns_around(large_png()),
        iptc_around(large_png()),
        iptc_around(EPS),
        EPS,
        blp_around(encoded(scene(), "JPEG")),
    ],
    ids=["tiles", "tile", "ico", "icns", "iptc", "iptc-eps", "eps", "blp"],
)
def test_pictures_inside_pictures_and_large_parts_are_refused_within_bounds(pictures: Pictures, data: bytes) -> None:
    prepare = pictures()
    assert prepare(as_base64(encoded(scene(), "TIFF")))["pixels"].shape == (40, 60, 3)
    (worker,) = children()
    assert refusal(as_base64(data), prepare)
    assert children() == [] or peak_mib(worker) < 300
    assert prepare(as_base64(encoded(scene(), "TIFF")))["pixels"].shape == (40, 60, 3)


def test_an_icon_that_holds_what_it_says(pictures: Pictures) -> None:
    data = ico_around(encoded(scene(32, 32)))
    assert (pictures()(as_base64(data))["pixels"] == np.asarray(scene(32, 32))).all()


def test_a_decoder_that_does_not_end_is_ended(pictures: Pictures) -> None:
    prepare = pictures(seconds=0.5)
    started = time.monotonic()
    assert "0.5 s" in refusal(CCITT, prepare)
    assert time.monotonic() - started < 30
    assert children() == []
    assert prepare(as_base64(encoded(scene(), "TIFF")))["pixels"].shape == (40, 60, 3)


def test_decoders_write_nothing_to_the_log() -> None:
    """In a process whose standard error we keep: what a library writes by itself goes there."""
    samples = [CCITT.decode()]
    for data in (
        encoded(scene().convert("P"), "PNG", transparency=b"\0\x80\xff" * 9),
        png(chunk(b"acTL", bytes(8)), chunk(b"zTXt", b"a\0\0junk")),
        encoded(scene(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x1a\0\x05" * 80),
        encoded(scene(), "JPEG")[:-200],
        encoded(scene(), "TIFF")[:-40],
        encoded(scene(), "GIF")[:-40],
        ico_around(encoded(scene(33, 31))),
        tiff_with_one_tile(64)[:-30],
        b"II*\0\x08\0\0\0\xff\xff" + bytes(range(256)) * 4,
    ):
        samples.append(base64.b64encode(data).decode())
    code = (
        "import json, sys\n"
        "from tests.support.samples import pictures\n"
        "from app.errors import InvalidRequest\n"
        "prepare = pictures(seconds=0.3)\n"
        "for text in json.load(sys.stdin):\n"
        "    try: prepare(text.encode())\n"
        "    except InvalidRequest: pass\n"
        "prepare.close()\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(samples), capture_output=True, text=True, timeout=120
    )
    assert (result.returncode, result.stderr, result.stdout) == (0, "", "")


def test_a_picture_that_a_common_decoder_may_not_finish_in_time_goes_to_a_process(pictures: Pictures) -> None:
    prepare = pictures(seconds=1e-3)
    with pytest.raises(InvalidRequest, match=r"0\.001 s"):
        prepare(as_base64(encoded(scene(3000, 2000))))


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xd8" + b"\xff\xe1\0\2" * 200_000 + encoded(scene(), "JPEG")[2:],
        png(*[chunk(b"tEXt", b"a\0b")] * 100_000),
        encoded(scene(), "GIF")[:-1] + b"!\xfe" + b"\xff" + bytes(255) + b"\0;",
        b"GIF89a" + bytes(3 * 2**20),
    ],
    ids=["segments", "chunks", "comment", "junk"],
)
def test_what_nobody_makes_is_left_to_the_process_apart(pictures: Pictures, data: bytes) -> None:
    assert common_format(data) is None
    prepare = pictures()
    with contextlib.suppress(InvalidRequest):
        assert prepare(as_base64(data))["pixels"].shape[2] == 3


def test_each_scan_of_a_jpeg_takes_time() -> None:
    data = encoded(scene(600, 400), "JPEG", progressive=True)
    once, often = common_format(data), common_format(data.replace(b"\xff\xd9", b"") + b"\xff\xda\0\x0c" * 40)
    assert once is not None and often is not None
    assert 1 < once.scans == often.scans - 40
    assert often.seconds(100) == pytest.approx(often.scans * once.seconds(100) / once.scans)


def test_lack_of_memory_is_not_the_pictures_fault(pictures: Pictures, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", no_memory)
    with pytest.raises(Unavailable, match="memory"):
        pictures()(as_base64(encoded(scene(), "JPEG")))
    with pytest.raises(Unavailable), named_errors(b""):
        raise MemoryError


@pytest.mark.parametrize("when", ["idle", "at work"])
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGSEGV])
def test_a_process_that_is_killed_costs_one_picture_at_most(
    pictures: Pictures, when: str, sign: signal.Signals
) -> None:
    prepare = pictures()
    text = as_base64(encoded(scene(), "TIFF"))
    want = prepare(text)["pixels"]
    (worker,) = children()
    expected = Unavailable if sign == signal.SIGKILL else InvalidRequest
    if when == "idle":
        os.kill(worker, sign)
        time.sleep(0.3)
    else:
        os.kill(worker, signal.SIGSTOP)
        with ThreadPoolExecutor(1) as pool:
            failing = pool.submit(prepare, text)
            time.sleep(0.3)
            os.kill(worker, sign)
            os.kill(worker, signal.SIGCONT)
            assert isinstance(failing.exception(), expected)
    assert (prepare(text)["pixels"] == want).all()


def test_a_picture_that_is_given_up_after_its_header_leaves_the_process_for_the_next(pictures: Pictures) -> None:
    prepare = pictures()
    text = as_base64(encoded(scene(), "TIFF"))
    for _ in range(3):
        prepare.open(text)
        assert prepare(text)["pixels"].shape == (40, 60, 3)
        assert len(children()) == 1


def test_processes_are_no_more_than_the_pictures_at_a_time(pictures: Pictures) -> None:
    prepare = pictures()
    texts = [as_base64(encoded(scene(60 + number, 40), "TIFF")) for number in range(24)]
    with ThreadPoolExecutor(3) as pool:
        widths = [inputs["pixels"].shape[1] for inputs in pool.map(prepare, texts)]
        assert widths == list(range(60, 84))
        assert len(children()) <= 3


def test_a_process_ends_with_its_server() -> None:
    code = (
        "import os, sys\n"
        "from tests.processors.test_hostile_pictures import children\n"
        "from tests.support.samples import *\n"
        "prepare = pictures()\n"
        "prepare(as_base64(encoded(scene(), 'TIFF')))\n"
        "print(*children(), flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    worker = int(result.stdout)
    for _ in range(100):
        try:
            state = Path(f"/proc/{worker}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            return
        if state == "Z":
            return
        time.sleep(0.1)
    raise AssertionError("it still runs")


def test_a_process_whose_answer_does_not_come_is_given_up(
    pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = pictures()
    text = as_base64(encoded(scene(), "TIFF"))
    prepare(text)
    (worker,) = children()
    os.kill(worker, signal.SIGSTOP)
    with pytest.raises(Unavailable, match="busy"), monkeypatch.context() as patch:
        patch.setattr(prepare._processes, "_patience", 0.5)
        prepare(text)
    assert children() == []
    assert prepare(text)["pixels"].shape == (40, 60, 3)


def test_an_animation_gives_its_first_frame(pictures: Pictures) -> None:
    frames = [Image.new("RGB", (30, 20), colour) for colour in ("red", "blue")]
    for form in ("GIF", "WEBP", "PNG", "TIFF", "AVIF"):
        buffer = io.BytesIO()
        frames[0].save(buffer, form, save_all=True, append_images=frames[1:])
        pixel = pictures()(as_base64(buffer.getvalue()))["pixels"][5, 5]
        assert pixel[0] > 200 and pixel[2] < 60, form
