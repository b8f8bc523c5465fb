"""What a finished file states of itself, compared with what it should: metadata, chapters, tags of streams."""

from dataclasses import dataclass, field
from pathlib import Path

import av
from av.error import FFmpegError
from av.stream import Disposition, Stream

from stbn_cli.video.probe import open_options

# What a stream's language is where none was given.
NO_LANGUAGE = (None, "", "und")


@dataclass(frozen=True, slots=True)
class StreamTags:
    """What is stated of one stream."""

    name: str  # for sentences, such as "stream 1 (audio)"
    language: str | None
    title: str | None
    disposition: int


@dataclass(slots=True)
class ContainerTags:
    """What a file says of itself besides its pictures and sounds."""

    tags: dict[str, str] = field(default_factory=dict)  # of the container; keys in lower case
    chapters: list[str] = field(default_factory=list)  # titles
    streams: dict[int, StreamTags] = field(default_factory=dict)  # by index in the output


def read_tags(stream: Stream, name: str, aliases: dict[str, str]) -> StreamTags:
    """aliases: names of languages that are written as another one's."""
    tags = {key.lower(): value for key, value in stream.metadata.items()}
    language = tags.get("language")
    known = None if language in NO_LANGUAGE else aliases.get(str(language), language)
    return StreamTags(name, known, tags.get("title"), stream.disposition.value)


def missing_tags(path: Path, wanted: ContainerTags, aliases: dict[str, str]) -> list[str]:
    """Sentences on what of `wanted` the file lacks; more than that does no harm."""
    try:
        with av.open(str(path), **open_options()) as container:
            tags = {key.lower(): value for key, value in container.metadata.items()}
            chapters = [chapter["metadata"].get("title", "") for chapter in container.chapters()]
            streams = [read_tags(stream, "", aliases) for stream in container.streams]
    except (FFmpegError, OSError):
        return []  # `verify_video` refuses such a file
    lost = [f"the tag {key}" for key, value in wanted.tags.items() if not _same(key, value, tags)]
    if wanted.chapters != chapters:
        lost.append(
            f"the chapters ({len(wanted.chapters)})" if not chapters else "the titles of its chapters"
        )
    for index, words in wanted.streams.items():
        if index < len(streams):
            lost += _missing(words, streams[index])
    return [f"The output's container does not keep {', '.join(lost)}."] if lost else []


def _missing(wanted: StreamTags, found: StreamTags) -> list[str]:
    lost = []
    if wanted.language and wanted.language != found.language:
        lost.append(f"the language {wanted.language} of {wanted.name}")
    if wanted.title and wanted.title != found.title:
        lost.append(f"the title of {wanted.name}")
    flags = Disposition(wanted.disposition & ~found.disposition)
    if flags:
        lost.append(f"the mark {'|'.join(str(f.name) for f in flags)} of {wanted.name}")
    return lost


def _same(key: str, value: str, tags: dict[str, str]) -> bool:
    found = tags.get(key)
    if key == "creation_time" and found is not None:
        return found[:19] == value[:19]  # to the second; containers add fractions of their own
    return found == value
