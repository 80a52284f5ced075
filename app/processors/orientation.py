"""The rotation tag of a picture, read without interpreting anything else of its metadata.

Pillow reads all entries of an EXIF block, each as large as it claims to be.
"""

import re
import struct

_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')
_MOST_XMP = 2**20


def xmp_orientation(xmp: bytes) -> int:
    """The orientation in an XMP packet; 0 if there is none."""
    found = _XMP_ORIENTATION.search(xmp, 0, _MOST_XMP)
    return int(found[1]) if found else 0


def exif_orientation(tiff: bytes) -> int:
    """The orientation in the first directory of an EXIF block; 0 if there is none that can be read."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 0
    try:
        (offset,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, offset)
        for entry in range(offset + 2, offset + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(f"{order}HH", tiff, entry)
            if tag == 0x0112:
                layout = {1: "B", 3: "H", 4: "I"}.get(kind)
                value: int = struct.unpack_from(f"{order}{layout}", tiff, entry + 8)[0] if layout else 0
                return value if 1 <= value <= 8 else 0
    except struct.error:
        pass
    return 0
