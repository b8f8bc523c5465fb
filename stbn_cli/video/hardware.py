"""Decoding on a graphics card: opening a file there, and what of its pictures can be taken. Software is the reader's.

A decoder's pictures are fixed by its codec's standard to the bit, in hardware as in software (MPEG-2 and MPEG-4 part 2
excepted, whose inverse transforms may round otherwise). Damaged streams differ: only software conceals what is missing.
So anything that goes wrong here ends in `HardwareError`, and the reader goes on in software.
"""

from pathlib import Path

import av
from av.codec.hwaccel import HWAccel, hwdevices_available
from av.container import InputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream

from stbn_cli.devices import CUDA
from stbn_cli.video.color import PixelLayout
from stbn_cli.video.names import media_name
from stbn_cli.video.pixels import describe_format
from stbn_cli.video.probe import error_reason, open_options

# What `open_video` takes; "auto" is the first device there is, of which cuda is the only one yet.
DEVICE = CUDA.decoder
HARDWARE = ("auto", DEVICE)
# Before it, a device that refuses a stream ends the process (PyAV's issue 2411).
FIRST_SAFE_PYAV = 17


class HardwareError(Exception):
    """The device cannot decode this, or cannot go on; the message says why, as part of a sentence."""


def open_on_device(path: Path, index: int) -> InputContainer:
    """Open a file so that its stream `index` is decoded on the device and handed out in system memory.

    Takes some hundred MiB of the card's memory for as long as the container is open. Raises HardwareError.
    """
    if int(av.__version__.split(".")[0]) < FIRST_SAFE_PYAV:
        raise HardwareError(f"PyAV {av.__version__} is too old for it")
    if DEVICE not in hwdevices_available():
        raise HardwareError(f"this FFmpeg build has no {DEVICE}")
    # Without PyAV's own fallback, which would not report that it happened.
    device = HWAccel(DEVICE, allow_software_fallback=False)
    try:
        container = av.open(media_name(path), hwaccel=device, **open_options())
    except (FFmpegError, OSError, RuntimeError, NotImplementedError, ValueError) as error:
        raise HardwareError(error_reason(error)) from error
    stream = container.streams[index]
    assert isinstance(stream, VideoStream)
    if not stream.codec_context.is_hwaccel:
        container.close()
        raise HardwareError(f"the decoder {stream.codec_context.name} has no hardware")
    # Each thread would keep pictures of its own on the device, which has room for 32.
    stream.codec_context.thread_count = 1
    return container


def check_layout(picture: av.VideoFrame, wanted: PixelLayout) -> None:
    """Refuse, by HardwareError, a picture that does not hold what the stream's own format `wanted` holds.

    Devices give nv12 for yuv420p, p010 for yuv420p10, and p016 for 12 bits: other orders of the same planes, with the
    values in the upper bits.
    """
    found = describe_format(picture.format.name)
    same = (found.family, found.sub_x, found.sub_y) == (wanted.family, wanted.sub_x, wanted.sub_y)
    if not same or found.depth < wanted.depth:
        raise HardwareError(f"it gives {picture.format.name}, which is not the format of the file")
