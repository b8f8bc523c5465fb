"""Transparency that lies in a second layer of a stream, where the decoder of the first one does not see it."""

from pathlib import Path

from av.codec.codec import UnknownCodecError
from av.error import FFmpegError
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from stbn_cli.video.pixels import has_alpha, is_transparent
from stbn_cli.video.probe import codec_options, open_container

# Matroska's mark of a second layer, as FFmpeg reports it.
ALPHA_TAG = "alpha_mode"
# Decoders that see both layers; FFmpeg's own see one.
LAYERED_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}


def has_alpha_layer(path: Path, stream: VideoStream, max_pixels: int) -> bool:
    """Whether a stream of VP8 or VP9 has a second layer that is not opaque everywhere in the first picture.

    Where no decoder is there that sees it, its mark decides.
    """
    decoder = LAYERED_DECODERS.get(stream.codec_context.codec.canonical_name)
    mark = {key.lower(): value for key, value in stream.metadata.items()}.get(ALPHA_TAG, "0")
    if decoder is None or mark == "0":
        return False
    try:
        context = VideoCodecContext.create(decoder, "r")
        assert isinstance(context, VideoCodecContext)
        context.options = codec_options(max_pixels)
        with open_container(path, max_pixels) as container:
            for packet in container.demux(container.streams[stream.index]):
                for picture in context.decode(packet):
                    return is_transparent(picture) or not has_alpha(picture.format.name)  # it may come later
    except (FFmpegError, OSError, ValueError, UnknownCodecError):
        pass
    return True
