"""Numbers of papers, quoted. They were measured elsewhere and are never mixed with what is measured here."""

from dataclasses import dataclass

# Sources: the STBN paper (arXiv 2412.11820), whose tables quote the others as well.
PUBLISHED_SIGMAS = (10, 20, 30, 40, 50)


@dataclass(frozen=True, slots=True)
class PublishedRow:
    """PSNR in dB of one method on a whole data set, first 85 frames of each sequence, at PUBLISHED_SIGMAS.

    Of CRVD, on raw values, all 7 frames, at PUBLISHED_ISOS.
    """

    method: str
    psnr: tuple[float, ...]
    note: str = ""


PUBLISHED = {
    "set8": (
        PublishedRow("V-BM4D", (36.05, 32.19, 30.00, 28.48, 27.33)),
        PublishedRow("FastDVDnet", (36.44, 33.43, 31.68, 30.46, 29.53), "supervised"),
        PublishedRow("FloRNN", (37.57, 34.67, 32.97, 31.75, 30.80), "supervised"),
        PublishedRow("RVRT", (37.53, 34.83, 33.30, 32.21, 31.33), "supervised"),
        PublishedRow("UDVD", (36.36, 33.53, 31.88, 30.72, 29.81), "self-supervised"),
        PublishedRow("RDRF", (36.67, 34.00, 32.39, 31.23, 30.31), "self-supervised"),
        PublishedRow("STBN", (37.24, 34.41, 32.76, 31.57, 30.62), "self-supervised"),
        PublishedRow(
            "STBN, trained on each test clip",
            (38.38, 35.48, 33.77, 32.54, 31.56),
            "noise drawn anew at every step",
        ),
    ),
    "davis": (PublishedRow("STBN", (40.35, 37.67, 36.00, 34.73, 33.70), "self-supervised"),),
}
# On CRVD, at its sensitivities; SSIM is not quoted, as it was computed without saying what the values' range is.
PUBLISHED_ISOS = (1600, 3200, 6400, 12800, 25600)
PUBLISHED_RAW = (
    PublishedRow("STBN", (49.27, 47.58, 45.75, 43.36, 42.91), "self-supervised, trained on the test scenes"),
)
SOURCE = "Quoted from the STBN paper (arXiv 2412.11820), all sequences; not measured here."
