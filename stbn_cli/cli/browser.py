"""Shows a file in the user's browser, where there is one."""

import os
import sys
from pathlib import Path

# One of these says that there is a screen, or which program to use without one. Elsewhere a browser that runs in the
# terminal would take it over.
SCREEN_VARIABLES = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")


def open_in_browser(path: Path) -> bool:
    """Whether a browser was started for the file."""
    if sys.platform not in ("darwin", "win32") and not any(map(os.environ.get, SCREEN_VARIABLES)):
        return False
    import webbrowser  # not needed by anything else

    try:
        return webbrowser.open(path.resolve().as_uri())
    except (webbrowser.Error, OSError):
        return False
