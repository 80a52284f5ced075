"""The formats that are decoded, and what bytes look like that are none of them."""

# Decoded in this process: decoders in C whose time follows from the number of pixels.
COMMON = ("BMP", "GIF", "JPEG", "PNG", "WEBP")
# Decoded in a process apart, which can be ended. No format that is a program or that only hands on another one.
RARE = ("AVIF", "DIB", "HEIF", "ICO", "JPEG2000", "PCX", "PPM", "QOI", "SGI", "TGA", "TIFF")

_STARTS = {
    "JPEG": (b"\xff\xd8\xff",),
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "GIF": (b"GIF8",),
    "TIFF": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    "JPEG 2000": (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"),
    "ICO": (b"\0\0\1\0",),
    "QOI": (b"qoif",),
}
# In lower case.
_FOREIGN_STARTS = {
    "a PDF": (b"%pdf",),
    "an SVG": (b"<svg",),
    "XML or an SVG": (b"<?xml",),
    "an HTML page": (b"<!doctype", b"<html"),
    "a URL; send the picture itself": (b"http://", b"https://"),
    "PostScript": (b"%!ps", b"\xc5\xd0\xd3\xc6"),
    "a Photoshop file": (b"8bps",),
    "JPEG XL": (b"\xff\x0a", b"\0\0\0\x0cjxl "),
    "an MPEG video": (b"\0\0\1\xb3", b"\0\0\1\xba"),
    "a Matroska or WebM video": (b"\x1ae\xdf\xa3",),
    "HDF5": (b"\x89hdf",),
    "GRIB": (b"grib",),
    "FITS": (b"simple  =",),
    "a Windows metafile": (b"\xd7\xcd\xc6\x9a", b"\1\0\0\0"),
    "a DDS texture": (b"dds ",),
    "a BLP texture": (b"blp",),
    "an Apple icon (ICNS)": (b"icns",),
    "a raw photo": (b"fujifilmccd-raw", b"iiro", b"iiu\0", b"fovb"),
    "a ZIP file": (b"pk\3\4",),
    "gzip": (b"\x1f\x8b",),
    # Base64 of the first bytes of PNG, JPEG, GIF, WebP, and of a data URI.
    "base64 that was encoded twice": (b"ivborw0", b"/9j/", b"r0lgod", b"uklgr", b"data:image"),
}
# What follows "ftyp" in files that are no HEIF or AVIF.
_RAW_PHOTO = b"crx "
_VIDEOS = (b"iso", b"mp4", b"M4", b"qt", b"3g", b"avc1", b"dash", b"f4", b"MSNV", b"XAVC")


def format_of(data: bytes) -> str:
    """The name of the format that the first bytes belong to; empty if that is none that is decoded here."""
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WebP"
    if data[4:8] == b"ftyp":
        if data.startswith((_RAW_PHOTO, *_VIDEOS), 8):
            return ""
        return "AVIF" if b"avif" in data[8:64] or b"avis" in data[8:64] else "HEIF"
    if data.startswith(b"BM") and data[6:10] == bytes(4):
        return "BMP"
    if data[:1] == b"P" and data[1:2] in b"1234567" and data[2:3].isspace():
        return "PPM"
    return _name_in(_STARTS, data)


def looks_like(data: bytes) -> str:
    """What bytes, or the beginning of a text, are instead of a picture; empty if that is not known."""
    if data[4:8] == b"ftyp":
        return "a raw photo (CR3)" if data.startswith(_RAW_PHOTO, 8) else "a video (MP4)"
    return _name_in(_FOREIGN_STARTS, data[:512].lstrip(b" \r\n\t\xef\xbb\xbf").lower())


def _name_in(starts: dict[str, tuple[bytes, ...]], data: bytes) -> str:
    return next((name for name, beginnings in starts.items() if data.startswith(beginnings)), "")


def is_cut_off(data: bytes) -> bool:
    """Whether the end of a JPEG, PNG, GIF or WebP is missing."""
    if data.startswith(b"RIFF"):
        return len(data) < 8 + int.from_bytes(data[4:8], "little")
    end = {"JPEG": b"\xff\xd9", "PNG": b"IEND", "GIF": b";"}.get(format_of(data))
    return end is not None and end not in data[-4096:]
