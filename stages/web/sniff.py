"""Tell what a file is from its first bytes; what the server calls it means nothing.

References:
    WHATWG MIME Sniffing Standard, sections 6.1 and 6.2; ISO/IEC 14496-12, section 4.3 (ftyp).
"""

HEAD_BYTES = 64
"""How many bytes are enough to tell."""

_BEGINNINGS = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
    (b"BM", "image/bmp"),
)
_STILL_BRANDS = {b"avif": "image/avif", b"avis": "image/avif", b"heic": "image/heic",
                 b"heix": "image/heic", b"mif1": "image/heif", b"msf1": "image/heif"}  # fmt: skip
_OLD_QUICKTIME = (b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")


def sniff(head: bytes) -> str:
    """Return the type of a file that begins with ``head``; "" if it is none that we know.

    Args:
        head: The first ``HEAD_BYTES``, or all of a shorter file.
    """
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    if head[4:8] == b"ftyp":
        brand = head[8:12]
        return "video/quicktime" if brand == b"qt  " else _STILL_BRANDS.get(brand, "video/mp4")
    if head[4:8] in _OLD_QUICKTIME:
        return "video/quicktime"
    if head[:4] == b"\x1aE\xdf\xa3":
        return "video/webm" if b"webm" in head else "video/x-matroska"
    return next((kind for beginning, kind in _BEGINNINGS if head.startswith(beginning)), "")
