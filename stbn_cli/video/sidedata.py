"""What comes beside a picture: data of types that PyAV may not know by name."""

from typing import Any

import av
from av.sidedata.sidedata import Type


def side_data(picture: av.VideoFrame) -> dict[str, Any]:
    """The side data of a picture by FFmpeg's name of their type; those that PyAV cannot name are left out."""
    try:
        found = picture.side_data
    except ValueError:
        # One type without a name, such as EXIF, and PyAV refuses to show the others.
        _accept_unnamed_types()
        found = picture.side_data
    items: Any = list(found)  # the stubs take it for a dictionary
    return {data.type.name: data for data in items if not data.type.name.startswith(_UNNAMED)}


_UNNAMED = "UNNAMED_"


def _accept_unnamed_types() -> None:
    """Let PyAV's enumeration make a member of every number."""

    def made(kind: type[Type], value: object) -> Type:
        member = object.__new__(kind)
        member._name_ = f"{_UNNAMED}{value}"
        member._value_ = value
        return member

    Type._missing_ = classmethod(made)  # type: ignore[assignment]
