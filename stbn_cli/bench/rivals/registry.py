"""The rivals of `stbn bench` by name, in the order in which tables show them."""

from stbn_cli.bench.rivals.bm3d_package import BM3D
from stbn_cli.bench.rivals.ffmpeg import FFMPEG_METHODS
from stbn_cli.bench.rivals.method import LibraryMethod
from stbn_cli.bench.rivals.opencv import OPENCV
from stbn_cli.bench.rivals.rival import Rival
from stbn_cli.bench.rivals.vapour import VAPOURSYNTH_METHODS

METHODS: dict[str, LibraryMethod] = {
    method.name: method for method in (*FFMPEG_METHODS, OPENCV, BM3D, *VAPOURSYNTH_METHODS)
}
RIVALS: dict[str, Rival] = {name: method.rival() for name, method in METHODS.items()}
