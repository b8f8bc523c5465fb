"""Copy everything but the denoised video: audio, subtitles, data, attachments, chapters, metadata."""

import errno
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import av
import av.stream
from av.audio.stream import AudioStream
from av.bitstream import BitStreamFilterContext
from av.container import InputContainer, OutputContainer
from av.error import FFmpegError, InvalidDataError, PatchWelcomeError
from av.packet import Packet
from av.stream import Stream
from av.video.stream import VideoStream

from stbn_cli.video.formats import CONTAINER_NAMES, FALLBACK_RATE, MATROSKA, MP4_MUXERS, MUXERS, Y4M
from stbn_cli.video.frames import StreamSource, Warnings
from stbn_cli.video.pixels import to_fraction
from stbn_cli.video.probe import CONTAINER_TICKS, is_cover, open_container, until_damaged
from stbn_cli.video.readback import ContainerTags, missing_tags, read_tags
from stbn_cli.video.seeking import seek, steps_back
from stbn_cli.video.subtitles import CONVERSIONS, to_mov_text, to_subrip
from stbn_cli.words import counted

if TYPE_CHECKING:
    from av.container.core import Chapter  # a name of the stubs, not of the module

# What the source's muxer states of itself; the output's muxer states its own.
MUXER_TAGS = {"encoder", "major_brand", "minor_version", "compatible_brands"}
# Figures mkvmerge and FFmpeg note about a stream's old content; wrong once the video is encoded again.
STATISTICS_TAGS = ("ENCODER", "DURATION", "BPS", "NUMBER_OF_FRAMES", "NUMBER_OF_BYTES", "_STATISTICS")
# Keys that MP4 and MOV hold in their own boxes; any other needs the generic key table.
MP4_KEYS = {
    *("title", "artist", "album", "album_artist", "comment", "composer", "copyright", "date", "description"),
    *(
        "genre",
        "grouping",
        "lyrics",
        "synopsis",
        "show",
        "episode_id",
        "network",
        "track",
        "disc",
        "keywords",
    ),
    *("location", "creation_time", "timecode", "language"),
}
# Containers without a place for chapters, and for tags of the whole file.
CHAPTERLESS_MUXERS = ("mpegts", Y4M)
# What MPEG-TS has a stream type or descriptor for; it takes anything else as nameless data that nobody reads back.
TS_CODECS = {
    *("mpeg1video", "mpeg2video", "mpeg4", "h264", "hevc", "vvc", "cavs", "vc1", "dirac"),
    *("mp1", "mp2", "mp3", "aac", "aac_latm", "ac3", "eac3", "dts", "truehd", "opus", "s302m"),
    *("dvb_subtitle", "dvb_teletext", "hdmv_pgs_subtitle", "klv", "timed_id3"),
}
# MIME type and suffix of pictures that Matroska's readers show as covers, by codec.
PICTURE_KINDS = {
    "mjpeg": ("image/jpeg", "jpg"),
    "png": ("image/png", "png"),
    "gif": ("image/gif", "gif"),
    "tiff": ("image/tiff", "tif"),
}
# Where a stream that does not fit may go instead, the best first.
HOLDERS = {".mkv": "An", ".mp4": "An", ".mov": "A", ".ts": "A"}
# MP4's box of sample descriptions with none in it, so that nobody knows what the samples are.
EMPTY_DESCRIPTION = (16).to_bytes(4, "big") + b"stsd"
# Samples per second of sound whose own rate is unknown until it is decoded.
PCM_RATE = 48_000
# Keys that MPEG-TS holds, in its table of services.
TS_KEYS = {"service_name", "service_provider"}
# QuickTime's table of languages has one of the ISO 639-2 codes where there are two, not always the same one; the other
# would be written as "undefined".
MOV_LANGUAGES = {
    **{"bod": "tib", "cze": "ces", "cym": "wel", "deu": "ger", "ell": "gre", "eus": "baq", "fas": "per"},
    **{"fre": "fra", "hye": "arm", "isl": "ice", "kat": "geo", "mkd": "mac", "msa": "may", "mya": "bur"},
    **{"nld": "dut", "rum": "ron", "slo": "slk", "sqi": "alb", "zho": "chi"},
}
# Seconds before a range: after a search, MPEG program streams begin within a packet of sound, with a wrong time.
SOUND_LEAD = 1
# Seconds before a range in which a subtitle that is still on screen then may begin.
SUBTITLE_LEAD = 30
_DISCARD = getattr(av.stream, "Discard", None)  # from PyAV 18 on


@dataclass(frozen=True, slots=True)
class AttachedPicture:
    """A cover picture as Matroska holds it: a file."""

    name: str
    mime_type: str
    data: bytes


class StreamCopier:
    """Copies the streams of a source into an output, packet by packet, as the video advances."""

    def __init__(self, source: StreamSource, notes: Warnings) -> None:
        self._source = source
        self._notes = notes
        self._input: InputContainer = open_container(source.path)
        self._codecs: dict[int, str] = {}  # by index: the codec in which a stream is written, "" for its own
        self._targets: dict[int, Stream] = {}
        self._pictures: dict[int, AttachedPicture] = {}  # by index: covers that become attachments
        self._attached: dict[int, Stream] = {}
        self._plain: set[int] = set()  # indices of subtitles that lost their markup
        self._packets: Iterator[Packet] = iter(())
        self._waiting: Packet | None = None
        self._refused: Counter[int] = Counter()  # packets by index in the output, as below
        self._filled: set[int] = set()

    def close(self) -> None:
        """Close the source."""
        self._input.close()

    def source_streams(self) -> list[Stream]:
        """All streams of the source, with the video that is denoised among them, in the output's order.

        That is the source's, but attachments come last, where Matroska's readers count them.
        """
        return sorted(
            self._input.streams,
            key=lambda stream: stream.index in self._pictures or stream.type == "attachment",
        )

    def plan(self, muxer: str | None) -> None:
        """Decide how each stream is copied; what the container cannot hold is reported. None: images."""
        for stream in self._input.streams:
            if stream.index == self._source.video_index or self._is_made_anew(stream):
                continue
            if muxer == MATROSKA and is_attached(stream):
                picture = _attached_picture(self._source.path, stream)
                if picture is not None:
                    self._pictures[stream.index] = picture
                    continue
            codec = None if muxer is None else _copied_codec(muxer, stream)
            if codec is not None:
                self._codecs[stream.index] = codec
                continue
            self._notes.lose(
                f"Stream {stream.index} ({stream.type}, {_codec_name(stream)}) cannot be held by "
                f"{CONTAINER_NAMES[muxer]} and is left out. {_other_holder(stream)}"
            )
        if muxer is None or muxer in CHAPTERLESS_MUXERS:
            self._refuse_words(CONTAINER_NAMES[muxer])

    def _refuse_words(self, holder: str) -> None:
        lost = []
        if chapters := self._chapters():
            lost.append(f"{len(chapters)} chapters")
        if tags := self._metadata().keys() - TS_KEYS:
            lost.append(f"tags ({', '.join(sorted(tags))})")
        if lost:
            self._notes.lose(f"The source's {' and '.join(lost)} cannot be held by {holder}.")

    def add(self, stream: Stream, output: OutputContainer) -> None:
        """Prepare the copy of one stream, as planned."""
        if (picture := self._pictures.get(stream.index)) is not None:
            target = output.add_attachment(picture.name, picture.mime_type, picture.data)
            if title := stream.metadata.get("title"):
                target.metadata["title"] = title
            self._attached[stream.index] = target
            return
        codec = self._codecs.get(stream.index)
        if codec is None:
            return
        if codec:
            target = output.add_mux_stream(codec)
        else:
            target = _add_copy(output, stream)
        copy_stream_tags(stream, target)
        if output.format.name == "mov" and (language := target.metadata.get("language")) is not None:
            target.metadata["language"] = MOV_LANGUAGES.get(language, language)
        self._targets[stream.index] = target

    def muxer_options(self, muxer: str) -> dict[str, str]:
        """Options the output must be opened with so that it can hold the source's metadata."""
        if muxer not in MP4_MUXERS:
            return {}
        flags = "" if self._metadata().keys() <= MP4_KEYS else "+use_metadata_tags"
        if "mp4" in self._input.format.name and has_index_first(self._source.path):
            flags += "+faststart"
        return {"movflags": flags} if flags else {}

    def copy_container_tags(self, output: OutputContainer) -> None:
        """Copy metadata and chapters."""
        output.metadata.update(self._metadata())
        if chapters := self._chapters():
            output.set_chapters(chapters)

    def found_losses(self, path: Path, video: int) -> list[str]:
        """What the finished file does not say of itself though the source did. video: its index in the file."""
        wanted = ContainerTags()
        if path.suffix.lower() != ".ts":  # reported before
            wanted.tags = {key.lower(): value for key, value in self._metadata().items()}
            wanted.chapters = [chapter["metadata"].get("title", "") for chapter in self._chapters()]
        places = {index: target.index for index, target in (self._targets | self._attached).items()}
        places[self._source.video_index] = video
        for index, place in places.items():
            stream = self._input.streams[index]
            wanted.streams[place] = read_tags(stream, f"stream {index} ({stream.type})", MOV_LANGUAGES)
        lost = missing_tags(path, wanted, MOV_LANGUAGES)
        if self._plain:
            which = ", ".join(map(str, sorted(self._plain)))
            lost.append(
                f"Markup (italics, colours) of the subtitles in stream {which} is left out; the text is kept."
            )
        return lost

    def _chapters(self) -> "list[Chapter]":
        return [c for c in map(self._shift_chapter, self._input.chapters()) if c is not None]

    def _metadata(self) -> dict[str, str]:
        return {k: v for k, v in self._input.metadata.items() if k.lower() not in MUXER_TAGS}

    def start(self) -> None:
        """Begin reading packets."""
        streams = [stream for stream in self._input.streams if stream.index in self._targets]
        self._discard_others()
        if streams:
            begin = None if self._source.start is None else self._packets_around(self._source.start)
            self._packets = self._wanted(self._all_packets() if begin is None else begin)
        self._waiting = next(self._packets, None)

    def _discard_others(self) -> None:
        """Spare reading the packets of the video."""
        for stream in self._input.streams:
            if stream.index not in self._targets and _DISCARD is not None:
                stream.discard = _DISCARD.all

    def _all_packets(self) -> Iterator[Packet]:
        return self._input.demux([stream for stream in self._input.streams if stream.index in self._targets])

    def _packets_around(self, start: Fraction) -> Iterator[Packet]:
        """Packets from a place on that is before `start` for each track of sound; if none is found, all of them."""
        begin = Fraction(self._input.start_time or 0, CONTAINER_TICKS)
        kinds = {stream.type for stream in self._input.streams if stream.index in self._targets}
        lead = SUBTITLE_LEAD if "subtitle" in kinds else SOUND_LEAD
        for target in steps_back(start - lead, begin):
            if not seek(self._input, target):
                break
            packets = self._all_packets()
            head = self._head(packets, start)
            if head is not None:
                return chain(head, packets)
        # Opened anew: a search that failed may have taken packets.
        self._input.close()
        self._input = open_container(self._source.path)
        self._discard_others()
        return self._all_packets()

    def _head(self, packets: Iterator[Packet], start: Fraction) -> list[Packet] | None:
        """The first packets, up to one of each track of sound; None where such a one is behind `start`."""
        missing = {s.index for s in self._input.streams if s.index in self._targets and s.type == "audio"}
        head: list[Packet] = []
        try:
            while missing and (packet := next(packets, None)) is not None:
                head.append(packet)
                time = packet_seconds(packet)
                if time is not None and time > start and packet.stream.type == "audio":
                    return None
                if time is not None:
                    missing.discard(packet.stream.index)
        except (FFmpegError, OSError):
            return None
        return None if missing else head

    def mux_until(self, seconds: Fraction | None, output: OutputContainer) -> None:
        """Write every packet that belongs before `seconds` of the output; None = all the rest."""
        while self._waiting is not None:
            time = packet_seconds(self._waiting)
            if seconds is not None and time is not None and time > seconds:
                return
            self._mux(self._waiting, output)
            self._waiting = next(self._packets, None)

    def report_refused(self) -> None:
        """Put into the warnings how many packets no container would take."""
        for index, copy in sorted(self._targets.items()):
            if count := self._refused[copy.index]:
                self._notes.add(
                    f"{counted(count, 'damaged packet')} of stream {index} ({copy.type}) left out."
                )

    def kinds(self, output: OutputContainer) -> list[str]:
        """Types of the streams of `output` as readers find them; those to which nothing was written may be missing."""
        copies, pictures = list(self._targets.values()), list(self._attached.values())
        return [
            "video" if any(stream is picture for picture in pictures) else stream.type
            for stream in output.streams
            if stream.index in self._filled or not any(stream is copy for copy in copies)
        ]

    def _mux(self, packet: Packet, output: OutputContainer) -> None:
        """Write a packet; one that the muxer refuses for what it holds (time, size, data) is left out and counted."""
        target = packet.stream
        try:
            output.mux(packet)
        except FFmpegError as error:
            if error.errno != errno.EINVAL and not isinstance(error, InvalidDataError | PatchWelcomeError):
                raise
            self._refused[target.index] += 1
        else:
            self._filled.add(target.index)

    def _wanted(self, packets: Iterator[Packet]) -> Iterator[Packet]:
        """Packets of the range, on the output's clock and bound to the output's streams."""
        for packet in until_damaged(packets):  # the reader has reported already that the file is truncated
            source = packet.stream
            if is_attached(source) and packet.size:
                packet.pts = packet.dts = 0  # a picture for the whole file; it may come without a time
            elif packet.dts is None and packet.pts is None:
                continue  # the demuxer's end marks
            elif not self._into_range(packet):
                continue
            if self._codecs[source.index]:
                packet = self._converted(packet)
                if packet is None:
                    continue
            packet.stream = self._targets[source.index]
            yield packet

    def _converted(self, packet: Packet) -> Packet | None:
        """A subtitle in the other container's wrapping; None for a gap between subtitles."""
        index = packet.stream.index
        convert = to_subrip if self._codecs[index] == "subrip" else to_mov_text
        data, is_plain = convert(bytes(packet))
        if not data:
            return None
        if is_plain:
            self._plain.add(index)
        made = Packet(data)
        made.time_base = packet.time_base
        made.pts = packet.pts
        made.dts = packet.dts
        made.duration = packet.duration or 0
        return made

    def _into_range(self, packet: Packet) -> bool:
        """Shift a packet's times; False for one outside the range."""
        base = to_fraction(packet.time_base)
        if base is None:
            return True
        moment = packet.pts if packet.pts is not None else packet.dts
        assert moment is not None
        begin, finish = moment * base, (moment + (packet.duration or 0)) * base
        start, end = self._source.start, self._source.end
        shift = round(self._source.shift / base)
        if end is not None and begin >= end:
            return False
        if start is not None and begin < start:
            if packet.stream.type != "subtitle" or finish <= start:
                return False
            # A subtitle that is already on screen when the range begins.
            packet.duration = round((finish - start) / base)
            packet.pts = packet.dts = 0
            return True
        packet.pts = None if packet.pts is None else packet.pts - shift
        packet.dts = None if packet.dts is None else packet.dts - shift
        return True

    def _is_made_anew(self, stream: Stream) -> bool:
        """MP4's chapter and time code tracks: muxers write theirs from the chapters and the video's tags."""
        if "mp4" not in self._input.format.name or stream.type != "data":
            return False
        return "timecode" in stream.metadata or (stream.name == "bin_data" and bool(self._input.chapters()))

    def _shift_chapter(self, chapter: "Chapter") -> "Chapter | None":
        base = to_fraction(chapter["time_base"]) or Fraction(1, 1000)
        begin, finish = chapter["start"] * base, chapter["end"] * base
        if self._source.start is not None and finish <= self._source.start:
            return None
        if self._source.end is not None and begin >= self._source.end:
            return None
        if self._source.end is not None:
            finish = min(finish, self._source.end)
        shift = self._source.shift
        start, end = (max(round((time - shift) / base), 0) for time in (begin, finish))
        return {**chapter, "start": start, "end": end, "time_base": base}


def copy_stream_tags(source: Stream, target: Stream) -> None:
    """Language, title and the like, and the disposition (default, forced, ...)."""
    for key, value in source.metadata.items():
        if not key.upper().startswith(STATISTICS_TAGS):
            target.metadata[key] = value
    # PyAV 16 takes only a number here.
    target.disposition = source.disposition.value  # type: ignore[assignment]


def has_index_first(path: Path) -> bool:
    """Whether the index of an MP4 or MOV file comes before its pictures, so that it plays while it loads."""
    try:
        with path.open("rb") as file:
            while len(head := file.read(8)) == 8:
                size, kind = int.from_bytes(head[:4], "big"), head[4:]
                if kind in (b"moov", b"mdat"):
                    return kind == b"moov"
                if size == 1:  # the size is longer than 32 bits and follows
                    size = int.from_bytes(file.read(8), "big") - 8
                if size < 8:
                    break
                file.seek(size - 8, io.SEEK_CUR)
    except OSError:
        pass
    return False


def packet_seconds(packet: Packet) -> Fraction | None:
    """When a packet is to be written: its decoding time, else its presentation time."""
    moment = packet.dts if packet.dts is not None else packet.pts
    base = to_fraction(packet.time_base)
    return None if moment is None or base is None else moment * base


def is_attached(stream: Stream) -> bool:
    """Whether a stream is a cover picture, whose one packet belongs to no time."""
    return stream.type == "video" and is_cover(stream)


def _attached_picture(path: Path, stream: Stream) -> AttachedPicture | None:
    """A cover picture as a file; None where it has no content or Matroska's readers would not take it for a cover."""
    kind = PICTURE_KINDS.get(_codec_name(stream))
    if kind is None:
        return None
    tags = {key.lower(): value for key, value in stream.metadata.items()}
    try:
        container = open_container(path)
        try:
            packets = container.demux(container.streams[stream.index])
            data = next((bytes(packet) for packet in packets if packet.size), None)
        finally:
            container.close()
    except (FFmpegError, OSError):
        return None
    return (
        None if data is None else AttachedPicture(tags.get("filename") or f"cover.{kind[1]}", kind[0], data)
    )


def _codec_name(stream: Stream) -> str:
    """The codec's own name; its decoder's may be another (srt for subrip, pgssub for hdmv_pgs_subtitle)."""
    codec = getattr(getattr(stream, "codec_context", None), "codec", None)
    return getattr(codec, "canonical_name", None) or getattr(stream, "name", None) or "unknown"


def _copied_codec(muxer: str, stream: Stream) -> str | None:
    """The codec in which a container takes this stream, "" for its own; None where it takes it in none."""
    if _holds(muxer, stream):
        return ""
    codec = CONVERSIONS.get((_codec_name(stream), muxer))
    return codec if codec and hasattr(OutputContainer, "add_mux_stream") else None  # PyAV 17 and later


def _is_known_in_ts(stream: Stream) -> bool:
    """Whether MPEG-TS says what the stream is; private data of another transport stream is worth the same there."""
    is_private = _codec_name(stream) in ("unknown", "bin_data")
    return _codec_name(stream) in TS_CODECS or (is_private and stream.container.format.name == "mpegts")


def _other_holder(stream: Stream) -> str:
    """A sentence on which output would keep a stream that the chosen one cannot hold."""
    for suffix, article in HOLDERS.items():
        if _copied_codec(MUXERS[suffix], stream) is not None:
            return f"{article} {suffix} output keeps it."
    return "No other output holds it either."


def _add_copy(output: OutputContainer, stream: Stream) -> Stream:
    """A stream for the packets of `stream`. Raises ValueError where the container has no name for its codec."""
    try:
        return output.add_stream_from_template(stream, opaque=True)
    except ValueError:
        if output.format.name != MATROSKA or not isinstance(stream, AudioStream | VideoStream):
            raise
    # Matroska holds what WAV has a number for, or AVI four letters, but PyAV asks the muxer for names of its own alone.
    # So the stream begins as another, already open, and gets the source's parameters by a filter that does nothing.
    if isinstance(stream, AudioStream):
        target = output.add_stream("pcm_s16le", rate=stream.codec_context.sample_rate or PCM_RATE)
    else:
        target = output.add_stream("mpeg4", rate=FALLBACK_RATE)
    assert isinstance(target, AudioStream | VideoStream)
    target.codec_context.open()
    BitStreamFilterContext("null", in_stream=stream, out_stream=target)
    target.codec_context.codec_tag = "\0\0\0\0"  # that of WAV or AVI, not the mark of the source's container
    target.time_base = stream.time_base
    return target


def _holds(muxer: str, stream: Stream) -> bool:
    """Whether the container takes this stream: tried in memory, on a header and, for data, one packet."""
    if muxer == "mpegts" and not _is_known_in_ts(stream):
        return False
    if muxer == "mov" and is_attached(stream):
        return False  # its muxer takes a cover picture and then drops it
    is_described = muxer in MP4_MUXERS and stream.type == "data"
    try:
        with io.BytesIO() as sink:
            trial = av.open(sink, "w", format=muxer)
            target = _add_copy(trial, stream)
            copy_stream_tags(stream, target)
            trial.start_encoding()
            if is_described:
                packet = Packet(bytes(8))
                packet.stream, packet.time_base = target, Fraction(1, 1000)
                packet.pts = packet.dts = 0
                trial.mux(packet)
            trial.close()
            return not is_described or EMPTY_DESCRIPTION not in sink.getvalue()
    except (FFmpegError, OSError, ValueError, NotImplementedError):
        return False


def sound_suffix(source: Path, suffixes: Sequence[str]) -> str:
    """The suffix of an output, out of some, whose container holds most of a file's tracks of sound; the first of them.

    Raises FFmpegError, OSError or StbnError for what is no video.
    """
    container = open_container(source)
    try:
        sound = [stream for stream in container.streams if stream.type == "audio"]

        def held(suffix: str) -> int:
            return sum(_copied_codec(MUXERS[suffix.lower()], stream) is not None for stream in sound)

        return suffixes[0] if held(suffixes[0]) == len(sound) else max(suffixes, key=held)
    finally:
        container.close()
