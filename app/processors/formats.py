"""The formats that are decoded, and what bytes look like that are none of them."""

# Decoded in this process: decoders in C whose time follows from the number of pixels.
COMMON = ("BMP", "GIF", "JPEG", "PNG", "WEBP")
# Decoded in a process apart, which can be ended. No format that is a program or that only hands on another one.
RARE = ("AVIF", "DIB", "HEIF", "ICO", "JPEG2000", "PCX", "PPM", "QOI", "SGI", "TGA", "TIFF")

_STARTS = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF8", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\0\0\1\0", "ICO"),
    (b"qoif", "QOI"),
)
_FOREIGN = (
    (b"%pdf", "a PDF"),
    (b"<svg", "an SVG"),
    (b"<?xml", "XML or an SVG"),
    (b"<!doctype", "an HTML page"),
    (b"<html", "an HTML page"),
    (b"http://", "a URL; send the picture itself"),
    (b"https://", "a URL; send the picture itself"),
    (b"%!ps", "PostScript"),
    (b"\xc5\xd0\xd3\xc6", "PostScript"),
    (b"8bps", "a Photoshop file"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cjxl ", "JPEG XL"),
    (b"\0\0\1\xb3", "an MPEG video"),
    (b"\0\0\1\xba", "an MPEG video"),
    (b"\x1ae\xdf\xa3", "a Matroska or WebM video"),
    (b"\x89hdf", "HDF5"),
    (b"grib", "GRIB"),
    (b"bufr", "BUFR"),
    (b"simple  =", "FITS"),
    (b"\xd7\xcd\xc6\x9a", "a Windows metafile (WMF)"),
    (b"\1\0\0\0", "a Windows metafile (EMF)"),
    (b"dds ", "a DDS texture"),
    (b"blp", "a BLP texture"),
    (b"icns", "an Apple icon (ICNS)"),
    (b"fujifilmccd-raw", "a raw photo (RAF)"),
    (b"iiro", "a raw photo (ORF)"),
    (b"iiu\0", "a raw photo (RW2)"),
    (b"fovb", "a raw photo (X3F)"),
    (b"pk\3\4", "a ZIP file"),
    (b"\x1f\x8b", "gzip"),
    # Base64 of the first bytes of PNG, JPEG, GIF, WebP, and of a data URI.
    (b"ivborw0", "base64 that was encoded twice"),
    (b"/9j/", "base64 that was encoded twice"),
    (b"r0lgod", "base64 that was encoded twice"),
    (b"uklgr", "base64 that was encoded twice"),
    (b"data:image", "a data URI that was encoded twice"),
)
# Brands of files that begin with "ftyp". HEVC, AVC, VVC, JPEG or JPEG 2000 may be in a HEIF.
_CR3 = b"crx "
_AVIF = frozenset(b"avif avis".split())
_HEIF = frozenset(
    b"heic heix heim heis hevc hevx hevm hevs mif1 mif2 mif3 msf1 miaf 1pic unif MiHA MiHB MiHE MiAn MiPr "
    b"avci avcs vvic vvis evbi evbs jpeg jpgs j2ki j2is".split()
)


def format_of(data: bytes) -> str:
    """The name of the format that the first bytes belong to; empty if that is none that is decoded here."""
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WebP"
    if data[4:8] == b"ftyp":
        return "" if data[8:12] == _CR3 else _iso_picture(data)
    if data.startswith(b"BM") and data[6:10] == bytes(4):
        return "BMP"
    if data[:1] == b"P" and data[1:2] in b"1234567" and data[2:3].isspace():
        return "PPM"
    return next((name for start, name in _STARTS if data.startswith(start)), "")


def _iso_picture(data: bytes) -> str:
    """AVIF or HEIF, by the brands of a file that begins with "ftyp", or by what comes next; empty for a video."""
    end = int.from_bytes(data[:4], "big")
    compatible = {data[at : at + 4] for at in range(16, min(end, 256), 4)}
    for brands in ({data[8:12]}, compatible):
        if brands & _AVIF:
            return "AVIF"
        if brands & _HEIF:
            return "HEIF"
    return "HEIF" if data[end + 4 : end + 8] == b"meta" else ""  # a video's first box is another


def looks_like(data: bytes) -> str:
    """What bytes, or the beginning of a text, are instead of a picture; empty if that is not known."""
    head = data[:512].lstrip(b" \r\n\t\xef\xbb\xbf").lower()
    if data[4:8] == b"ftyp" and not format_of(data):
        return "a raw photo (CR3)" if data[8:12] == _CR3 else "a video (MP4)"
    return next((name for start, name in _FOREIGN if head.startswith(start)), "")


def is_cut_off(data: bytes) -> bool:
    """Whether the end of a JPEG, PNG, GIF or WebP is missing."""
    if data.startswith(b"RIFF"):
        return len(data) < 8 + int.from_bytes(data[4:8], "little")
    end = {"JPEG": b"\xff\xd9", "PNG": b"IEND", "GIF": b";"}.get(format_of(data))
    return end is not None and end not in data[-4096:]
