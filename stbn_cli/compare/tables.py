"""A comparison as tables, for the terminal and for the report page."""

import math

from stbn_cli.analysis.analysis import Analysis
from stbn_cli.compare.comparison import CHANNELS, AverageQuality, Comparison
from stbn_cli.report.model import Table

NOT_MEASURED = "-"


def comparison_tables(found: Comparison, names: tuple[str, str] = ("A", "B")) -> list[Table]:
    """Quality, residual, and the comparison of the residual with noise; `names`: of A and B."""
    return [_quality_table(found, names), _residual_table(found, names), _noise_table(found, names)]


def _quality_table(found: Comparison, names: tuple[str, str]) -> Table:
    a, b = names
    rows = [_quality_row(f"{a} against {b}", found.between)]
    if found.a is not None and found.b is not None:
        rows = [
            _quality_row(f"{a} against reference", found.a),
            _quality_row(f"{b} against reference", found.b),
            *rows,
        ]
    columns = ("", "PSNR, dB", "lowest", "SSIM", "temporal error", "equal frames")
    note = (
        "PSNR: mean over the frames that differ. Temporal error: how much the error changes from frame to frame along "
        "the motion, on the 0-255 scale."
    )
    return Table(f"Quality, {len(found.frames)} frames", columns, tuple(rows), note)


def _quality_row(title: str, quality: AverageQuality) -> tuple[str, ...]:
    return (
        title,
        _number(quality.psnr, 2),
        _number(quality.lowest_psnr, 2),
        _number(quality.ssim, 4),
        _number(quality.temporal_error, 2),
        str(quality.equal_frames),
    )


def _residual_table(found: Comparison, names: tuple[str, str]) -> Table:
    a, b = names
    residual = found.residual
    rows = (
        ("mean", *(_number(value, 3) for value in residual.mean), ""),
        ("standard deviation", *(_number(value, 2) for value in residual.std), _number(residual.level, 2)),
        (f"noise level of {a}", "", "", "", _noise(found.noise_a)),
        (f"noise level of {b}", "", "", "", _noise(found.noise_b)),
        ("largest difference", "", "", "", _number(residual.largest, 1)),
    )
    note = (
        "RMS: root mean square over red, green and blue, as stbn analyze states noise levels. A mean other than 0 says "
        "that colours moved."
    )
    return Table(f"Residual {a} minus {b}, 0-255 scale", ("", *CHANNELS, "RMS"), rows, note)


def _noise_table(found: Comparison, names: tuple[str, str]) -> Table:
    residual, white = found.residual, found.residual.whiteness
    rows = (
        ("correlation with the pixel to the right", _number(white.right, 3), "0"),
        ("with the pixel below", _number(white.down, 3), "0"),
        ("with the diagonal neighbour", _number(white.diagonal, 3), "0"),
        ("two pixels to the right", _number(white.two_right, 3), "0"),
        ("two pixels below", _number(white.two_down, 3), "0"),
        ("one frame later", _number(white.next_frame, 3), "0"),
        (f"correlation with the detail of {names[1]} at edges", _number(residual.detail_correlation, 3), "0"),
        ("variance at edges / in flat areas", _number(residual.edge_ratio, 2), "1"),
    )
    return Table("Is the residual like noise?", ("", "residual", "white noise"), rows, "Of the luma.")


def _noise(found: Analysis) -> str:
    if not found.typical.measured.found:
        return NOT_MEASURED
    return f"{found.level:.3g} ({'hardly any' if found.verdict.faint else found.verdict.kind})"


def _number(value: float | None, digits: int) -> str:
    if value is None or math.isnan(value):
        return NOT_MEASURED
    if math.isinf(value):
        return "equal"
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text
