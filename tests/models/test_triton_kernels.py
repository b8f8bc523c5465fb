"""The Triton kernels without a GPU: what they compute, by triton's interpreter, and what they compile to."""

import importlib.util
import itertools
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

from stbn_cli.models.kernels import MINIMUM_TRITON, available
from stbn_cli.models.kernels.tiles import BLOCK_SHAPES, block_tile, pointwise_tile

INTERPRETED = Path(__file__).with_name("interpreted_kernels.py")
FEW_BYTES = 48  # that wait for the end in memory: outside the loop; versions of triton differ
# Shared memory that a block may have, bytes.
CAPABILITIES = {(8, 0): 163 << 10, (8, 6): 99 << 10, (9, 0): 227 << 10, (10, 0): 227 << 10, (12, 0): 99 << 10}


def installed() -> tuple[int, ...]:
    if importlib.util.find_spec("triton") is None:
        return (0, 0)
    return tuple(int(part) for part in version("triton").split(".")[:2])


needs_triton = pytest.mark.skipif(installed() < MINIMUM_TRITON, reason="needs triton 3.6 or newer")


def test_the_cpu_has_no_kernels() -> None:
    assert not available(torch.device("cpu"))


def test_every_shape_has_a_tile_that_fits() -> None:
    for capability in CAPABILITIES:
        for channels, groups in BLOCK_SHAPES:
            tile = block_tile(channels, groups, capability)
            assert (channels // groups) % tile.depth == 0
            assert channels % tile.outputs == 0


@pytest.mark.skipif(installed() < (3, 9), reason="triton's interpreter before 3.9 fails with numpy 2.4")
def test_results_in_the_interpreter() -> None:
    """In a process of its own: the interpreter is chosen when triton is imported, for everyone."""
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", str(INTERPRETED)]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def compiled(
    kernel: Any, types: dict[str, str], constants: dict[str, Any], options: dict[str, Any], capability
) -> Any:
    """Compile for a GPU that need not be there. `types`: of arguments that are no pointers to 16-bit values."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else types.get(name, "*fp16") for name in names}
    aligned = {
        (number,): [["tt.divisibility", 16]]
        for number, name in enumerate(names)
        if signature[name].startswith("*") and name != "taps"
    }
    values = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(kernel, signature=signature, constexprs=values, attrs=aligned)
    target = GPUTarget("cuda", 10 * capability[0] + capability[1], 32)
    return triton.compile(source, target=target, options=options)


def registers_and_spills(binary: bytes, folder: Path) -> tuple[int, int]:
    """Registers a thread, and bytes of memory that stand in for registers it would have needed."""
    import triton

    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    if not tool.exists():
        pytest.skip("this triton comes without cuobjdump")
    path = folder / "kernel.cubin"
    path.write_bytes(binary)
    text = subprocess.run([tool, "-res-usage", path], capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", text)
    assert found is not None, text
    return int(found[1]), int(found[2])


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


BLOCK_TYPES = {"bias3": "*fp32", "bias1": "*fp32", "height": "i32", "width": "i32", "steps": "i32"}


def assert_fits(binary: Any, capability: tuple[int, int], folder: Path) -> None:
    _, spilled = registers_and_spills(binary.asm["cubin"], folder)
    assert spilled <= FEW_BYTES
    assert binary.metadata.shared <= CAPABILITIES[capability]


@needs_triton
@pytest.mark.slow
@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize(("channels", "groups"), sorted(BLOCK_SHAPES))
def test_residual_block_compiles_without_spills(channels, groups, capability, tmp_path) -> None:
    from stbn_cli.models.kernels.residual_block import _residual_block, block_constants

    tile = block_tile(channels, groups, capability)
    constants = block_constants(channels, groups, tile)
    binary = compiled(_residual_block, BLOCK_TYPES, constants, tile.options(), capability)
    assert_fits(binary, capability, tmp_path)
    code = binary.asm["ptx"]
    instruction = {9: "wgmma.mma_async", 10: "tcgen05.mma"}.get(capability[0], "mma.sync")
    assert instruction in code
    assert "cp.async" in code


@needs_triton
@pytest.mark.usefixtures("own_cache")
def test_the_published_block_compiles_for_hopper(tmp_path: Path) -> None:
    from stbn_cli.models.kernels.residual_block import _residual_block, block_constants

    tile = block_tile(128, 1, (9, 0))
    constants = {**block_constants(128, 1, tile), "mask": None}
    binary = compiled(_residual_block, BLOCK_TYPES, constants, tile.options(), (9, 0))
    assert_fits(binary, (9, 0), tmp_path)
    code = binary.asm["ptx"]
    assert "wgmma.mma_async" in code
    assert re.search(r"cp\.async\.ca\.shared\.global \[[^]]*\], \[[^]]*\], 0x8", code)  # taps, cached
    assert "cp.async.cg" in code  # weights


@needs_triton
@pytest.mark.slow
@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize(
    ("widths", "use"),
    [
        ((131, 128), {}),
        ((128, 128), {}),
        ((128, 64), {}),
        ((64, 64, 32, 32, 64), {}),
        ((72, 64), {}),
        ((64, 9), {}),
        ((64, 64, 64), {"FROM_PICTURE": True, "before": True}),
        ((136, 128), {"second": 72}),
        ((128, 64), {"TO_PICTURE": True, "OUTPUT_STRIDE": 72}),
    ],
)
def test_pointwise_chain_compiles_without_spills(widths, use, capability, tmp_path) -> None:
    from stbn_cli.models.kernels import pointwise

    layers = [
        pointwise.PointwiseLayer(torch.zeros(outputs, inputs, 1, 1), relu=True)
        for inputs, outputs in itertools.pairwise(widths)
    ]
    use = {"FROM_PICTURE": False, "TO_PICTURE": False, "OUTPUT_STRIDE": widths[-1], **use}
    before, second = use.pop("before", False), use.pop("second", 0)
    chain = pointwise.pack_chain(layers, torch.float16, second)
    tile = pointwise_tile(pointwise.chain_width(chain), capability)
    missing = range(len(layers), pointwise.MAXIMUM_LAYERS)
    constants = {
        **pointwise.chain_constants(chain),
        **{f"{name}{number}": None for number in missing for name in ("weight", "bias")},
        **({} if before else {"before": None}),
        **({} if second else {"second": None, "second_weight": None}),
        "SECOND_STRIDE": second,
        "PIXELS": tile.pixels,
        **use,
    }
    sizes = ("pixels", "steps", "second_steps", "rows", "columns", "height", "width")
    floats = ("before", *(f"bias{number}" for number in range(4)))
    types = {**dict.fromkeys(floats, "*fp32"), **dict.fromkeys(sizes, "i32")}
    binary = compiled(pointwise._pointwise_chain, types, constants, tile.options(), capability)
    assert_fits(binary, capability, tmp_path)


@needs_triton
@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_what_flow_needs_compiles_without_spills(capability: tuple[int, int], tmp_path: Path) -> None:
    from stbn_cli.models.kernels import matching, warp

    sizes = {"height": "i32", "width": "i32"}
    kept = dict.fromkeys(("sharpness", "displacement", "certainty", "flow"), "*fp32")
    constants = {"CHANNELS": 32, "BLOCK": 32, "RADIUS": 4, "ACROSS": 16, "PIXELS": matching.PIXELS}
    options = {"num_warps": matching.WARPS, "enable_fp_fusion": True}
    binary = compiled(matching._match, {**sizes, **kept}, constants, options, capability)
    assert_fits(binary, capability, tmp_path)
    assert re.search(r"ld\.global\S*\.v4\.b32", binary.asm["ptx"])  # eight channels at a time
    constants = {"CHANNELS": 32, "BLOCK": 32, "PIXELS": warp.PIXELS}
    options = {"num_warps": warp.WARPS, "enable_fp_fusion": True}
    binary = compiled(warp._warp_bilinear, {**sizes, **kept}, constants, options, capability)
    assert_fits(binary, capability, tmp_path)
    assert re.search(r"ld\.global\S*\.v4\.b32", binary.asm["ptx"])


@needs_triton
@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("divide", [False, True])
def test_the_warp_never_fuses_a_multiplication_with_a_sum(divide: bool, tmp_path: Path) -> None:
    from stbn_cli.models.kernels import warp

    spans = ("row_span", "column_span", "row_inverse", "column_inverse")
    sizes = ("height", "width", "part_height", "part_width", "rows", "columns", "top", "left")
    types = {"flow": "*fp32", **dict.fromkeys(sizes, "i32"), **dict.fromkeys(spans, "fp32")}
    constants = {"SPLIT": True, "DIVIDE": divide, "CHANNELS": 64, "BLOCK": 64, "PIXELS": warp.PIXELS}
    options = {"num_warps": warp.WARPS, "enable_fp_fusion": False}
    binary = compiled(warp._warp_nearest, types, constants, options, (9, 0))
    assert_fits(binary, (9, 0), tmp_path)
    code = binary.asm["ptx"]
    assert "fma" not in code
    assert ("div.rn.f32" in code) == divide
    assert re.search(r"ld\.global\S*\.v4\.b32", code)  # eight channels at a time
