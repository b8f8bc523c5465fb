"""AV1 streams: where each frame's header ends, which is where film grain is stated, and what puts it there.

No encoder that PyAV brings takes film grain from outside, so it is written into finished packets: one bit in the
sequence header, and the parameters at the end of the headers of frames that are shown. To find that end, a header is
read as the AV1 specification has it (section 5.9); names are its own where it has some.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from stbn_cli.grain.parameters import BY_LUMA, COEFFICIENT_RANGE, LAG, FilmGrain, Points

OBU_SEQUENCE_HEADER, OBU_FRAME_HEADER, OBU_FRAME, OBU_REDUNDANT_FRAME_HEADER = 1, 3, 6, 7
KEY_FRAME, INTER_FRAME, INTRA_ONLY_FRAME, SWITCH_FRAME = range(4)
SLOTS, REFERENCES = 8, 7
NO_PRIMARY = 7
SELECT = 2  # where a sequence leaves a choice to its frames
SEGMENTS = 8
# Bits of a segment's features, and whether they have a sign as well; the first is its quantiser.
FEATURES = ((8, True), (6, True), (6, True), (6, True), (6, True), (3, False), (0, False), (0, False))
IDENTITY, TRANSLATION, ROTZOOM, AFFINE = range(4)
UNIT = 1 << 16  # of motion parameters
STILL: tuple[int, ...] = (0, 0, UNIT, 0, 0, UNIT)
MAX_TILE_WIDTH, MAX_TILE_AREA, MAX_TILES = 4096, 4096 * 2304, 64


class StreamError(ValueError):
    """A stream that is not understood; the text ends a sentence."""


class _Bits:
    """Reads bits, the most significant first."""

    def __init__(self, data: bytes) -> None:
        self._value, self._length = int.from_bytes(data, "big"), 8 * len(data)
        self.place = 0

    def take(self, count: int) -> int:
        """An unsigned number of so many bits."""
        self.place += count
        if self.place > self._length:
            raise StreamError("a header is cut off")
        return (self._value >> (self._length - self.place)) & ((1 << count) - 1)

    def flag(self) -> bool:
        return self.take(1) == 1

    def signed(self, count: int) -> int:
        """A two's complement of so many bits."""
        value = self.take(count)
        return value - (1 << count) if value >> (count - 1) else value

    def below(self, count: int) -> int:
        """A number below `count` (ns)."""
        width = count.bit_length()
        short = (1 << width) - count
        value = self.take(width - 1)
        return value if value < short else (value << 1) - short + self.take(1)

    def exponential(self) -> int:
        """An unsigned number of unknown length (uvlc)."""
        zeros = 0
        while not self.flag():
            zeros += 1
        return self.take(zeros) + (1 << zeros) - 1 if zeros < 32 else (1 << 32) - 1


@dataclass(slots=True)
class Sequence:
    """What a sequence header says that frame headers depend on."""

    reduced: bool = False  # a still picture with the shortest headers
    equal_intervals: bool = False
    decoder_model: bool = False
    removal_bits: int = 0
    presentation_bits: int = 0
    operating_points: list[tuple[int, bool]] = field(
        default_factory=list
    )  # layers, and whether removal is timed
    width_bits: int = 0
    height_bits: int = 0
    width: int = 0
    height: int = 0
    frame_ids: bool = False
    frame_id_delta_bits: int = 0
    frame_id_bits: int = 0
    large_superblocks: bool = False
    warped_motion: bool = False
    order_hint_bits: int = 0
    reference_vectors: bool = False
    screen_tools: int = SELECT
    integer_vectors: int = SELECT
    superres: bool = False
    cdef: bool = False
    restoration: bool = False
    depth: int = 8
    monochrome: bool = False
    sub_x: bool = True
    sub_y: bool = True
    separate_chroma_quantisers: bool = False
    film_grain: bool = False
    film_grain_place: int = 0  # the bit of the header that says so


@dataclass(slots=True)
class _Slot:
    """What a decoder keeps of a frame for later ones to refer to."""

    number: int = -1
    frame_type: int = KEY_FRAME
    order_hint: int = 0
    upscaled: int = 0
    width: int = 0
    height: int = 0
    motion: tuple[tuple[int, ...], ...] = (STILL,) * REFERENCES
    quantisers: tuple[int | None, ...] = (None,) * SEGMENTS  # of segments, relative to the frame's


@dataclass(slots=True)
class FrameHeader:
    """What a frame's header says, as far as it matters here.

    number: of the frame in the order of the stream. shown: it is shown at once. end: the bit behind its last one,
    counted from the header's begin. references: slots of the frames that it is predicted from.
    """

    number: int
    frame_type: int
    shown: bool
    showable: bool
    end: int
    references: tuple[int, ...]
    refreshed: int  # bits of the slots that it takes
    existing: bool = False  # it shows a frame that came before


class Av1Reader:
    """Reads the headers of a stream's packets in their order."""

    def __init__(self) -> None:
        self.sequence: Sequence | None = None
        self.slots = [_Slot() for _ in range(SLOTS)]
        self._count = 0

    def frame(self, data: bytes, temporal: int, spatial: int) -> FrameHeader:
        """Read a frame's header at the begin of `data`, and keep what it leaves for later frames.

        Raises StreamError for what is not understood.
        """
        if self.sequence is None:
            raise StreamError("a frame comes before the sequence header")
        return _FrameParser(self, self.sequence, _Bits(data), temporal, spatial).read()

    def next_number(self) -> int:
        """A number for a frame that is new."""
        self._count += 1
        return self._count - 1


@dataclass(frozen=True, slots=True)
class Obu:
    """A unit of a packet. header: its bytes without the size; layers are 0 where it does not say."""

    kind: int
    header: bytes
    payload: bytes
    temporal: int = 0
    spatial: int = 0


def units(packet: bytes) -> Iterator[Obu]:
    """The units of a packet. Raises StreamError for what is none."""
    place = 0
    while place < len(packet):
        first = packet[place]
        extended = bool(first & 4)
        length = 2 if extended else 1
        header = packet[place : place + length]
        temporal, spatial = (header[-1] >> 5, (header[-1] >> 3) & 3) if extended else (0, 0)
        place += length
        size = len(packet) - place
        if first & 2:
            size, place = _leb128(packet, place)
        if first & 0x80 or place + size > len(packet):
            raise StreamError("a packet is not made of AV1 units")
        yield Obu((first >> 3) & 15, header, packet[place : place + size], temporal, spatial)
        place += size


def _leb128(data: bytes, place: int) -> tuple[int, int]:
    """A number, and the place behind it."""
    value = 0
    for index in range(8):
        if place + index >= len(data):
            break
        value |= (data[place + index] & 0x7F) << (7 * index)
        if not data[place + index] & 0x80:
            return value, place + index + 1
    raise StreamError("a size is cut off")


def _packed(obu: Obu, payload: bytes) -> bytes:
    """A unit with its size."""
    size, rest = bytearray(), len(payload)
    while True:
        size.append((rest & 0x7F) | (0x80 if rest > 0x7F else 0))
        rest >>= 7
        if not rest:
            break
    return bytes((obu.header[0] | 2,)) + obu.header[1:] + bytes(size) + payload


def read_sequence(data: bytes) -> Sequence:
    """Read a sequence header. Raises StreamError."""
    bits, found = _Bits(data), Sequence()
    profile = bits.take(3)
    bits.take(1)
    found.reduced = bits.flag()
    if found.reduced:
        bits.take(5)
        found.operating_points = [(0, False)]
    else:
        _read_operating_points(bits, found)
    found.width_bits, found.height_bits = bits.take(4) + 1, bits.take(4) + 1
    found.width, found.height = bits.take(found.width_bits) + 1, bits.take(found.height_bits) + 1
    found.frame_ids = not found.reduced and bits.flag()
    if found.frame_ids:
        found.frame_id_delta_bits = bits.take(4) + 2
        found.frame_id_bits = bits.take(3) + found.frame_id_delta_bits + 1
    found.large_superblocks = bits.flag()
    bits.take(2)
    if not found.reduced:
        _read_tools(bits, found)
    found.superres, found.cdef, found.restoration = bits.flag(), bits.flag(), bits.flag()
    _read_color(bits, found, profile)
    found.film_grain_place = bits.place
    found.film_grain = bits.flag()
    return found


def _read_operating_points(bits: _Bits, found: Sequence) -> None:
    delay_bits = 0
    if bits.flag():  # timing
        bits.take(64)
        found.equal_intervals = bits.flag()
        if found.equal_intervals:
            bits.exponential()
        found.decoder_model = bits.flag()
        if found.decoder_model:
            delay_bits = bits.take(5) + 1
            bits.take(32)
            found.removal_bits, found.presentation_bits = bits.take(5) + 1, bits.take(5) + 1
    display_delays = bits.flag()
    for _ in range(bits.take(5) + 1):
        layers, timed = bits.take(12), False
        if bits.take(5) > 7:
            bits.take(1)
        if found.decoder_model:
            timed = bits.flag()
            if timed:
                bits.take(2 * delay_bits + 1)
        if display_delays and bits.flag():
            bits.take(4)
        found.operating_points.append((layers, timed))


def _read_tools(bits: _Bits, found: Sequence) -> None:
    bits.take(2)
    found.warped_motion = bits.flag()
    bits.take(1)
    order_hints = bits.flag()
    if order_hints:
        bits.take(1)
        found.reference_vectors = bits.flag()
    found.screen_tools = SELECT if bits.flag() else bits.take(1)
    if found.screen_tools > 0:
        found.integer_vectors = SELECT if bits.flag() else bits.take(1)
    if order_hints:
        found.order_hint_bits = bits.take(3) + 1


def _read_color(bits: _Bits, found: Sequence, profile: int) -> None:
    high = bits.flag()
    found.depth = 10 if high else 8
    if profile == 2 and high and bits.flag():
        found.depth = 12
    found.monochrome = profile != 1 and bits.flag()
    described = tuple(bits.take(8) for _ in range(3)) if bits.flag() else ()
    if found.monochrome:
        bits.take(1)
        return
    if described == (1, 13, 0):  # sRGB
        found.sub_x = found.sub_y = False
    else:
        bits.take(1)
        if profile == 1:
            found.sub_x = found.sub_y = False
        elif profile == 2:
            found.sub_x = found.depth < 12 or bits.flag()
            found.sub_y = found.depth == 12 and found.sub_x and bits.flag()
        if found.sub_x and found.sub_y:
            bits.take(2)
    found.separate_chroma_quantisers = bits.flag()


def _log2_over(size: int, target: int) -> int:
    """The least k with size << k not below `target`."""
    count = 0
    while size << count < target:
        count += 1
    return count


class _FrameParser:
    """Reads one frame's header."""

    def __init__(
        self, stream: Av1Reader, sequence: Sequence, bits: _Bits, temporal: int, spatial: int
    ) -> None:
        self._stream, self._sequence, self._bits = stream, sequence, bits
        self._layers = temporal, spatial
        self._frame = _Slot()
        self._references: tuple[int, ...] = ()
        self._intra_copy = self._resized = self._precise = self._lossless = False

    def read(self) -> FrameHeader:
        """The header; the stream's slots change."""
        bits, sequence = self._bits, self._sequence
        kind, shown, showable, resilient = KEY_FRAME, True, False, True
        if not sequence.reduced:
            if bits.flag():
                return self._show_existing()
            kind, shown = bits.take(2), bits.flag()
            if shown:
                self._take_presentation_time()
                showable = kind != KEY_FRAME
            else:
                showable = bits.flag()
            resilient = kind == SWITCH_FRAME or (kind == KEY_FRAME and shown) or bits.flag()
        intra = kind in (KEY_FRAME, INTRA_ONLY_FRAME)
        if kind == KEY_FRAME and shown:
            for slot in self._stream.slots:
                slot.order_hint = 0
        fixed_cdf = bits.flag()
        screen_tools = bits.flag() if sequence.screen_tools == SELECT else bool(sequence.screen_tools)
        integer = False
        if screen_tools:
            integer = bits.flag() if sequence.integer_vectors == SELECT else bool(sequence.integer_vectors)
        if sequence.frame_ids:
            bits.take(sequence.frame_id_bits)
        self._resized = kind == SWITCH_FRAME or (not sequence.reduced and bits.flag())
        frame = self._frame
        frame.frame_type, frame.order_hint = kind, bits.take(sequence.order_hint_bits)
        primary = NO_PRIMARY if intra or resilient else bits.take(3)
        self._take_removal_times()
        everything = (1 << SLOTS) - 1
        refreshed = everything if kind == SWITCH_FRAME or (kind == KEY_FRAME and shown) else bits.take(SLOTS)
        if (not intra or refreshed != everything) and resilient and sequence.order_hint_bits:
            for slot in self._stream.slots:
                slot.order_hint = bits.take(sequence.order_hint_bits)
        if intra:
            self._read_size()
            self._read_render_size()
            self._intra_copy = screen_tools and frame.upscaled == frame.width and bits.flag()
        else:
            self._read_references(resilient, integer)
        if not sequence.reduced and not fixed_cdf:
            bits.take(1)
        earlier = _Slot() if primary == NO_PRIMARY else self._stream.slots[self._references[primary]]
        self._read_tiles()
        self._read_quantisers(primary, earlier)
        self._read_filters()
        if not self._lossless:
            bits.take(1)  # tx_mode_select
        select = not intra and bits.flag()
        if select and self._has_skip_mode():
            bits.take(1)
        if not intra and not resilient and sequence.warped_motion:
            bits.take(1)
        bits.take(1)  # reduced_tx_set
        if not intra:
            self._read_motion(earlier)
        frame.number = self._stream.next_number()
        for index in range(SLOTS):
            if refreshed >> index & 1:
                self._stream.slots[index] = replace(frame)
        return FrameHeader(frame.number, kind, shown, showable, bits.place, self._references, refreshed)

    def _show_existing(self) -> FrameHeader:
        bits, sequence, slots = self._bits, self._sequence, self._stream.slots
        slot = slots[bits.take(3)]
        self._take_presentation_time()
        if sequence.frame_ids:
            bits.take(sequence.frame_id_bits)
        refreshed = 0
        if slot.frame_type == KEY_FRAME:
            refreshed = (1 << SLOTS) - 1
            self._stream.slots = [replace(slot) for _ in range(SLOTS)]
        return FrameHeader(slot.number, slot.frame_type, True, True, bits.place, (), refreshed, existing=True)

    def _take_presentation_time(self) -> None:
        if self._sequence.decoder_model and not self._sequence.equal_intervals:
            self._bits.take(self._sequence.presentation_bits)

    def _take_removal_times(self) -> None:
        if not self._sequence.decoder_model or not self._bits.flag():
            return
        temporal, spatial = self._layers
        for layers, timed in self._sequence.operating_points:
            inside = not layers or (layers >> temporal & 1 and layers >> (spatial + 8) & 1)
            if timed and inside:
                self._bits.take(self._sequence.removal_bits)

    def _read_size(self) -> None:
        bits, sequence, frame = self._bits, self._sequence, self._frame
        frame.upscaled, frame.height = sequence.width, sequence.height
        if self._resized:
            frame.upscaled = bits.take(sequence.width_bits) + 1
            frame.height = bits.take(sequence.height_bits) + 1
        self._read_superres()

    def _read_superres(self) -> None:
        frame = self._frame
        frame.width = frame.upscaled
        if self._sequence.superres and self._bits.flag():
            denominator = self._bits.take(3) + 9
            frame.width = (frame.upscaled * 8 + denominator // 2) // denominator

    def _read_render_size(self) -> None:
        if self._bits.flag():
            self._bits.take(32)

    def _read_references(self, resilient: bool, integer: bool) -> None:
        bits, sequence, slots = self._bits, self._sequence, self._stream.slots
        if sequence.order_hint_bits and bits.flag():
            raise StreamError("it names its references in the short way")
        found = []
        for _ in range(REFERENCES):
            found.append(bits.take(3))
            if sequence.frame_ids:
                bits.take(sequence.frame_id_delta_bits)
        self._references = tuple(found)
        like = None
        if self._resized and not resilient:
            like = next((slots[index] for index in found if bits.flag()), None)
        if like is not None:
            self._frame.upscaled, self._frame.height = like.upscaled, like.height
            self._read_superres()
        else:
            self._read_size()
            self._read_render_size()
        self._precise = not integer and bits.flag()
        if not bits.flag():
            bits.take(2)  # interpolation_filter
        bits.take(1)  # is_motion_mode_switchable
        if not resilient and sequence.reference_vectors:
            bits.take(1)

    def _read_tiles(self) -> None:
        bits, frame = self._bits, self._frame
        shift = 5 if self._sequence.large_superblocks else 4
        columns, rows = (
            (2 * ((size + 7) >> 3) + (1 << shift) - 1) >> shift for size in (frame.width, frame.height)
        )
        widest = MAX_TILE_WIDTH >> (shift + 2)
        least_columns = _log2_over(widest, columns)
        least = max(least_columns, _log2_over(MAX_TILE_AREA >> 2 * (shift + 2), rows * columns))
        if bits.flag():
            across = self._read_more(least_columns, _log2_over(1, min(columns, MAX_TILES)))
            down = self._read_more(max(least - across, 0), _log2_over(1, min(rows, MAX_TILES)))
        else:
            count, wide = self._read_spans(columns, widest)
            across = _log2_over(1, count)
            area = (rows * columns) >> (least + 1) if least else rows * columns
            count, _ = self._read_spans(rows, max(area // wide, 1))
            down = _log2_over(1, count)
        if across or down:
            bits.take(across + down + 2)

    def _read_more(self, least: int, most: int) -> int:
        while least < most and self._bits.flag():
            least += 1
        return least

    def _read_spans(self, total: int, longest: int) -> tuple[int, int]:
        """The number of tiles along a side, and the size of the largest."""
        start = count = largest = 0
        while start < total:
            size = self._bits.below(min(total - start, longest)) + 1
            start, count, largest = start + size, count + 1, max(largest, size)
        return count, largest

    def _read_quantisers(self, primary: int, earlier: _Slot) -> None:
        bits, sequence, frame = self._bits, self._sequence, self._frame
        base = bits.take(8)
        deltas = [self._read_delta()]
        if not sequence.monochrome:
            separate = sequence.separate_chroma_quantisers and bits.flag()
            deltas += [self._read_delta() for _ in range(4 if separate else 2)]
        if bits.flag():  # using_qmatrix
            bits.take(12 if sequence.separate_chroma_quantisers else 8)
        enabled = bits.flag()
        if enabled:
            update = True
            if primary != NO_PRIMARY:
                if bits.flag():
                    bits.take(1)
                update = bits.flag()
            frame.quantisers = self._read_segments() if update else earlier.quantisers
        if base and bits.flag():  # delta_q_present
            bits.take(2)
            if not self._intra_copy and bits.flag():
                bits.take(3)
        levels = [min(max(base + (level or 0), 0), 255) for level in (frame.quantisers if enabled else (0,))]
        self._lossless = not any(levels) and not any(deltas)

    def _read_delta(self) -> int:
        return self._bits.signed(7) if self._bits.flag() else 0

    def _read_segments(self) -> tuple[int | None, ...]:
        bits, found = self._bits, []
        for _ in range(SEGMENTS):
            values: list[int | None] = []
            for width, has_sign in FEATURES:
                value = None
                if bits.flag():
                    value = bits.signed(width + 1) if has_sign else bits.take(width)
                values.append(value)
            found.append(values[0])
        return tuple(found)

    def _read_filters(self) -> None:
        bits, sequence, frame = self._bits, self._sequence, self._frame
        colour = not sequence.monochrome
        if self._lossless or self._intra_copy:
            restored = sequence.restoration and not self._intra_copy and frame.width != frame.upscaled
        else:
            levels = bits.take(6), bits.take(6)
            if colour and any(levels):
                bits.take(12)
            bits.take(3)
            if bits.flag() and bits.flag():  # deltas, and new ones
                for _ in range(SLOTS + 2):
                    if bits.flag():
                        bits.take(7)
            if sequence.cdef:
                bits.take(2)
                bits.take((12 if colour else 6) << bits.take(2))
            restored = sequence.restoration
        if not restored:
            return
        kinds = [bits.take(2) for _ in range(3 if colour else 1)]
        if any(kinds):
            if bits.flag() and not sequence.large_superblocks:
                bits.take(1)
            if sequence.sub_x and sequence.sub_y and any(kinds[1:]):
                bits.take(1)

    def _distance(self, first: int, second: int) -> int:
        """Of two order hints, which go round."""
        half = 1 << (self._sequence.order_hint_bits - 1)
        difference = first - second
        return (difference & (half - 1)) - (difference & half)

    def _has_skip_mode(self) -> bool:
        if not self._sequence.order_hint_bits:
            return False
        hints = [self._stream.slots[index].order_hint for index in self._references]
        distances = [self._distance(hint, self._frame.order_hint) for hint in hints]
        before = sorted({distance for distance in distances if distance < 0})
        return bool(before) and (any(distance > 0 for distance in distances) or len(before) > 1)

    def _read_motion(self, earlier: _Slot) -> None:
        bits, found = self._bits, []
        for reference in range(REFERENCES):
            kind = IDENTITY
            if bits.flag():
                kind = ROTZOOM if bits.flag() else TRANSLATION if bits.flag() else AFFINE
            values = list(STILL)
            old = earlier.motion[reference]
            if kind >= ROTZOOM:
                values[2], values[3] = (self._read_parameter(kind, index, old) for index in (2, 3))
                if kind == AFFINE:
                    values[4], values[5] = (self._read_parameter(kind, index, old) for index in (4, 5))
                else:
                    values[4], values[5] = -values[3], values[2]
            if kind >= TRANSLATION:
                values[0], values[1] = (self._read_parameter(kind, index, old) for index in (0, 1))
            found.append(tuple(values))
        self._frame.motion = tuple(found)

    def _read_parameter(self, kind: int, index: int, old: tuple[int, ...]) -> int:
        size, precision = 12, 15
        if index < 2:
            coarse = int(not self._precise)
            size, precision = (9 - coarse, 3 - coarse) if kind == TRANSLATION else (12, 6)
        drop = 16 - precision
        unit = index % 3 == 2
        most = 1 << size
        expected = (old[index] >> drop) - (1 << precision if unit else 0)
        value = self._read_near(2 * most + 1, expected + most) - most
        return (value << drop) + (UNIT if unit else 0)

    def _read_near(self, count: int, expected: int) -> int:
        """A number below `count` that is written shorter the nearer it is to `expected`."""
        value = self._read_subexponential(count)
        if expected << 1 <= count:
            return _recentred(expected, value)
        return count - 1 - _recentred(count - 1 - expected, value)

    def _read_subexponential(self, count: int) -> int:
        start, width, first = 0, 3, True
        while count > start + (3 << width):
            if not self._bits.flag():
                return self._bits.take(width) + start
            start += 1 << width
            width += 0 if first else 1
            first = False
        return self._bits.below(count - start) + start


def _recentred(centre: int, value: int) -> int:
    if value > 2 * centre:
        return value
    return centre - ((value + 1) >> 1) if value & 1 else centre + (value >> 1)


class _BitWriter:
    """Collects bits, the most significant first."""

    def __init__(self, value: int = 0, length: int = 0) -> None:
        self.value, self.length = value, length

    def add(self, value: int, count: int) -> None:
        """An unsigned number of so many bits."""
        assert 0 <= value < 1 << count
        self.value, self.length = self.value << count | value, self.length + count

    def aligned(self) -> bytes:
        """As bytes, filled up with zeros."""
        rest = -self.length % 8
        return (self.value << rest).to_bytes((self.length + rest) // 8, "big")


def with_grain_flag(data: bytes) -> bytes:
    """A sequence header, or the data of a container that holds one, with the statement that frames may have grain.

    Raises StreamError where there is none.
    """
    start = 4 if data[:1] == b"\x81" else 0  # of the box that MP4 and Matroska have for it
    out, found = bytearray(data[:start]), False
    for obu in units(data[start:]):
        payload = obu.payload
        if obu.kind == OBU_SEQUENCE_HEADER:
            payload, found = _flagged(payload), True
        out += _packed(obu, payload)
    if not found:
        raise StreamError("its sequence header is missing")
    return bytes(out)


def _flagged(payload: bytes) -> bytes:
    place = read_sequence(payload).film_grain_place
    changed = bytearray(payload)
    changed[place // 8] |= 0x80 >> place % 8
    return bytes(changed)


class GrainScanner:
    """Finds out in which packet each frame is shown: a frame can come long before that."""

    def __init__(self) -> None:
        self._reader = Av1Reader()
        self.shown: dict[int, int] = {}  # by the frame's number: that of the packet
        self._packets = 0

    def scan(self, packet: bytes) -> None:
        """Read the next packet. Raises StreamError."""
        for obu in units(packet):
            if obu.kind == OBU_SEQUENCE_HEADER:
                self._reader.sequence = read_sequence(obu.payload)
            elif obu.kind in (OBU_FRAME, OBU_FRAME_HEADER):
                header = self._reader.frame(obu.payload, obu.temporal, obu.spatial)
                if header.shown:
                    self.shown.setdefault(header.number, self._packets)
        self._packets += 1


class GrainInserter:
    """Writes film grain into the packets of a stream that has none.

    grain: the parameters of the frame of this number, and a number by which these are known again; None: no grain.
    """

    def __init__(self, grain: Callable[[int], tuple[int, FilmGrain] | None]) -> None:
        self._reader = Av1Reader()
        self._grain = grain
        self._stated: dict[int, int] = {}  # what was stated of the frames that can be referred to
        self._last: bytes = b""  # the last frame header, which can be repeated

    def insert(self, packet: bytes) -> bytes:
        """The packet with grain. Raises StreamError for a stream that is not understood, or has grain already."""
        out = bytearray()
        for obu in units(packet):
            payload = obu.payload
            if obu.kind == OBU_SEQUENCE_HEADER:
                self._reader.sequence = read_sequence(payload)
                if self._reader.sequence.film_grain:
                    raise StreamError("it has film grain already")
                payload = _flagged(payload)
            elif obu.kind in (OBU_FRAME, OBU_FRAME_HEADER):
                payload = self._with_grain(obu)
            elif obu.kind == OBU_REDUNDANT_FRAME_HEADER:
                payload = self._last
            out += _packed(obu, payload)
        return bytes(out)

    def _with_grain(self, obu: Obu) -> bytes:
        payload, reader = obu.payload, self._reader
        before = [slot.number for slot in reader.slots]
        header = reader.frame(payload, obu.temporal, obu.spatial)
        if header.existing:
            self._last = payload
            return payload
        bits = _Bits(payload)
        writer = _BitWriter(bits.take(header.end), header.end)
        if header.shown or header.showable:
            self._state(writer, header, before)
        numbers = {slot.number for slot in reader.slots}
        self._stated = {number: name for number, name in self._stated.items() if number in numbers}
        if obu.kind == OBU_FRAME:
            return writer.aligned() + payload[-(-header.end // 8) :]
        writer.add(1, 1)  # the trailing bit
        self._last = writer.aligned()
        return self._last

    def _state(self, writer: _BitWriter, header: FrameHeader, before: list[int]) -> None:
        """before: numbers of the frames in the slots when this one is decoded."""
        found, sequence = self._grain(header.number), self._reader.sequence
        assert sequence is not None
        writer.add(int(found is not None), 1)
        if found is None:
            return
        name, grain = found
        writer.add(grain.seed_of(header.number), 16)
        inter = header.frame_type == INTER_FRAME
        # Said once, and from then on only where.
        known = [index for index in header.references if inter and self._stated.get(before[index]) == name]
        if inter:
            writer.add(int(not known), 1)
        if known:
            writer.add(known[0], 3)
        else:
            write_grain(writer, grain, sequence)
        self._stated[header.number] = name


def write_grain(writer: _BitWriter, grain: FilmGrain, sequence: Sequence) -> None:
    """The part of film_grain_params behind update_grain."""
    _write_points(writer, grain.luma)
    chroma = not sequence.monochrome and not (sequence.sub_x and sequence.sub_y and not grain.luma)
    if not sequence.monochrome:
        writer.add(0, 1)  # chroma_scaling_from_luma
    planes = ((grain.cb, grain.cb_coefficients), (grain.cr, grain.cr_coefficients)) if chroma else ()
    for points, _ in planes:
        _write_points(writer, points)
    writer.add(grain.scaling_shift - 8, 2)
    writer.add(LAG, 2)
    rows = [grain.luma_coefficients] if grain.luma else []
    rows += [row if grain.luma else row[:-1] for points, row in planes if points]
    for row in rows:
        for coefficient in row:
            writer.add(coefficient - COEFFICIENT_RANGE[0], 8)
    writer.add(grain.coefficient_shift - 6, 2)
    writer.add(grain.grain_shift, 2)
    for points, _ in planes:
        if points:
            for value, width in zip(BY_LUMA, (8, 8, 9), strict=True):
                writer.add(value, width)
    writer.add(int(grain.overlap), 1)
    writer.add(0, 1)  # clip_to_restricted_range: noise goes beyond black and white, as a camera's does


def _write_points(writer: _BitWriter, points: Points) -> None:
    writer.add(len(points), 4)
    for place, value in points:
        writer.add(place, 8)
        writer.add(value, 8)
