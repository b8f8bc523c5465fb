"""Which formats there are: suffixes, muxers, what containers hold, and the rate where none is stated.

Imports nothing but the standard library, so that every part of the program can ask.
"""

from fractions import Fraction

# Files taken from a folder as videos; a file that is named may have any suffix.
VIDEO_SUFFIXES = (
    *(".mkv", ".mp4", ".m4v", ".mov", ".webm", ".ts", ".m2ts", ".mts", ".avi", ".mpg", ".mpeg", ".vob"),
    *(".wmv", ".flv", ".3gp", ".mxf", ".ogv", ".dv", ".y4m"),
)
JPEG_SUFFIXES = (".jpg", ".jpeg")
IMAGE_SUFFIXES = (".png", *JPEG_SUFFIXES, ".tif", ".tiff")
# Training needs neither depth nor exact values, so it reads whatever OpenCV does.
TRAINING_IMAGE_SUFFIXES = (*IMAGE_SUFFIXES, ".bmp", ".webp")
RAW_SUFFIXES = (".dng",)
# Raw formats of camera makers, which stbn cannot read.
CAMERA_SUFFIXES = (
    *(".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".raf", ".rw2", ".orf", ".pef", ".srw", ".3fr", ".iiq"),
    *(".braw", ".r3d", ".crm"),
)
PAGE_SUFFIXES = (".html", ".htm")
# Suffix -> FFmpeg's muxer. Containers that cannot hold exact times (AVI) are left out on purpose.
MUXERS = {
    ".mkv": "matroska",
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".webm": "webm",
    ".ts": "mpegts",
    ".y4m": "yuv4mpegpipe",
}
PICTURE_SUFFIXES = (*IMAGE_SUFFIXES, *RAW_SUFFIXES)
WRITABLE_SUFFIXES = (*MUXERS, *PICTURE_SUFFIXES)
MATROSKA, Y4M = MUXERS[".mkv"], MUXERS[".y4m"]
MP4_MUXERS = ("mp4", "mov")
# Muxer -> codecs it carries, the fallback first.
CONTAINER_CODECS = {
    "matroska": ("h264", "hevc", "av1", "vp9", "ffv1", "prores"),
    "mp4": ("h264", "hevc", "av1", "vp9"),
    "mov": ("h264", "hevc", "prores"),
    "webm": ("vp9", "av1"),
    "mpegts": ("h264", "hevc"),
    "yuv4mpegpipe": ("y4m",),
}
# How people call the files of a muxer; None: images.
CONTAINER_NAMES = {
    None: "images",
    **{"matroska": "a Matroska file", "mp4": "an MP4 file", "mov": "a MOV file", "webm": "a WebM file"},
    **{"mpegts": "an MPEG-TS file", "yuv4mpegpipe": "a y4m file"},
}
# Frames per second; used only where neither the user nor the source nor its frames state a rate.
FALLBACK_RATE = Fraction(25)
# The name of standard input (y4m) and output (y4m). A file called so is ./- to us.
STANDARD_STREAM = "-"
