"""The Python interface: a model, an array, a file."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import stbn_cli
from stbn_cli.checkpoints.serial import Checkpoint, ModelInfo, save_checkpoint
from stbn_cli.errors import CheckpointError, InterruptedByUserError, OptionError, OutputError
from stbn_cli.jobs.denoise import DenoiseJob
from stbn_cli.jobs.events import Events
from stbn_cli.jobs.model import sigma_warning
from stbn_cli.models.lightflow import LightFlowNet
from stbn_cli.models.stbn import STBN
from stbn_cli.source import Source
from tests.networks import TINY


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_array(tiny_model_path, dtype) -> None:
    denoiser = stbn_cli.load_denoiser(tiny_model_path, sigma=25, device="cpu")
    frames = np.random.default_rng(0).random((3, 12, 10, 3))
    if dtype != np.float32:
        frames = frames * np.iinfo(dtype).max
    denoised = denoiser(frames.astype(dtype))
    assert denoised.shape == frames.shape and denoised.dtype == dtype
    assert denoiser.info.name == "tiny" and denoiser.flow_name == "none"


def test_file(tiny_model_path, make_clip, content) -> None:
    clip = make_clip()
    counts: list[int] = []
    denoiser = stbn_cli.load_denoiser(str(tiny_model_path), sigma=25)
    output = clip.with_name("clean.mkv")
    summary = stbn_cli.denoise_file(clip, output, denoiser, progress=counts.append)
    assert summary.frames == 8 and counts == list(range(1, 9))
    assert content(output).times == content(clip).times


def test_sigma_is_on_the_8_bit_scale_and_warned_about(tiny_model_path) -> None:
    messages: list[str] = []
    denoiser = stbn_cli.load_denoiser(tiny_model_path, sigma=51, on_message=messages.append)
    assert denoiser.options.sigma == pytest.approx(0.2) and not messages
    stbn_cli.load_denoiser(tiny_model_path, sigma=60, on_message=messages.append)
    assert len(messages) == 1 and "5 to 55" in messages[0]
    assert sigma_warning(5.0, denoiser.info) is None
    assert sigma_warning(4.0, denoiser.info)


@pytest.mark.parametrize(
    "options", [{"sigma": 300}, {"strength": 4}, {"chunk": 0}, {"tile": -1}, {"flow": "x"}]
)
def test_options_out_of_range(tiny_model_path, options) -> None:
    with pytest.raises(OptionError):
        stbn_cli.load_denoiser(tiny_model_path, options=stbn_cli.DenoiserOptions(**options))


def test_keywords_take_the_place_of_options(tiny_model_path) -> None:
    options = stbn_cli.DenoiserOptions("missing", sigma=20, chunk=3, device="cpu", precision="fp32")
    denoiser = stbn_cli.load_denoiser(tiny_model_path, sigma=30, options=options)
    assert denoiser.requested == replace(options, model=tiny_model_path, sigma=30)
    assert denoiser.options.chunk == 3


def test_kept_frames_are_not_dropped_without_being_asked_to(tiny_model_path, make_clip, content) -> None:
    clip = make_clip()
    output = clip.with_name("clean.mkv")
    options = stbn_cli.DenoiserOptions(tiny_model_path, sigma=25, device="cpu", chunk=2, chunk_overlap=1)
    denoiser = stbn_cli.load_denoiser(options=options)
    job = DenoiseJob(Source(clip), output, options, stbn_cli.EncodeOptions(), keep_progress=True)
    with job.prepare(Events(), denoiser) as prepared, pytest.raises(InterruptedByUserError):
        prepared.run(stop=lambda: True)
    for _ in range(2):
        with pytest.raises(OutputError, match="restart=True"):
            stbn_cli.denoise_file(clip, output, denoiser)
    counts: list[int] = []
    stbn_cli.denoise_file(clip, output, denoiser, resume=True, progress=counts.append)
    assert content(output).times == content(clip).times and counts[-1] == 8


def test_flow_network_travels_with_the_model(tmp_path) -> None:
    torch.manual_seed(0)
    info = ModelInfo("moving", "light", (5.0, 55.0))
    flow = LightFlowNet().state_dict()
    path = tmp_path / "moving.safetensors"
    save_checkpoint(path, Checkpoint(TINY, info, STBN(TINY).state_dict(), flow))
    denoiser = stbn_cli.load_denoiser(path, sigma=20, device="cpu")
    assert denoiser.flow_name == "light"
    assert denoiser(np.zeros((2, 32, 32, 3), np.uint8)).shape == (2, 32, 32, 3)
    assert stbn_cli.load_denoiser(path, flow="none", device="cpu").flow_name == "none"

    flow.popitem()
    save_checkpoint(path, Checkpoint(TINY, info, STBN(TINY).state_dict(), flow))
    with pytest.raises(CheckpointError, match="flow network"):
        stbn_cli.load_denoiser(path, device="cpu")


def test_quality_is_an_option_of_loading(tiny_model_path) -> None:
    options = stbn_cli.DenoiserOptions(noise_kind="camera", quality="fast", device="cpu")
    assert stbn_cli.load_denoiser(options=options).info.name == "real-fast"
    best = stbn_cli.load_denoiser(
        options=replace(options, model=tiny_model_path, noise_kind=None, quality="best")
    )
    assert best.dtype == torch.float32
    with pytest.raises(OptionError, match="superb"):
        stbn_cli.load_denoiser(options=stbn_cli.DenoiserOptions(tiny_model_path, quality="superb"))


def test_public_names_are_listed_and_typed() -> None:
    assert (
        {"analyze", "denoise_file", "finetune", "load_denoiser"}
        <= set(stbn_cli.__all__)
        <= set(dir(stbn_cli))
    )
    assert all(getattr(stbn_cli, name) is not None for name in stbn_cli.__all__)
    assert Path(stbn_cli.__file__).with_name("py.typed").is_file()
