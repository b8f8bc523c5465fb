"""Several inputs in one command: what is meant, how outputs are named, and going on after failures."""

import json

import pytest

from stbn_cli.cli.batch import Naming, output_folder, plan_batch
from stbn_cli.errors import InputError, OptionError

WRITABLE = (".mp4", ".mkv", ".png")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder that is the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def pairs(inputs, **naming):
    return [(item.source, item.output) for item in plan_batch(inputs, Naming(**naming), WRITABLE).items]


def test_one_input_is_no_batch(folder) -> None:
    touch(folder, "a.mp4")
    assert not plan_batch(["a.mp4"], Naming(), WRITABLE).many
    assert pairs(["a.mp4"]) == [("a.mp4", "a.denoised.mp4")]
    assert pairs(["a.mp4"], output="b.mkv") == [("a.mp4", "b.mkv")]
    assert pairs(["missing.mp4"]) == [("missing.mp4", "missing.denoised.mp4")]
    assert pairs(["-"]) == [("-", "-")]


def test_a_folder_gives_its_videos_in_natural_order(folder) -> None:
    touch(folder, "c/a10.mp4", "c/a2.MOV", "c/notes.txt", "c/.hidden.mp4", "c/a2.denoised.mkv", "c/sub/x.mp4")
    batch = plan_batch(["c"], Naming(), WRITABLE)
    assert batch.many
    assert pairs(["c"]) == [("c/a2.MOV", "c/a2.denoised.mkv"), ("c/a10.mp4", "c/a10.denoised.mp4")]
    # An output of an earlier run that is named is meant.
    assert pairs(["c/a2.denoised.mkv"])[0][0] == "c/a2.denoised.mkv"


def test_subfolders_are_named_and_a_pattern_reaches_them(folder, capsys) -> None:
    touch(folder, "c/a.mp4", "c/sub/deep/b.mp4", "c/more/d.mp4", "c/empty/notes.txt", "c/.kept/e.mp4")
    assert [source for source, _ in pairs(["c"])] == ["c/a.mp4"]
    told = capsys.readouterr().err
    assert "not searched: more" in told and "'c/**/*.mp4'" in told
    found = [source for source, _ in pairs(["c/**/*.mp4"])]
    assert found == ["c/a.mp4", "c/more/d.mp4", "c/sub/deep/b.mp4"]
    with pytest.raises(InputError, match="subfolders are not searched"):
        pairs(["c/sub"])


def test_a_folder_of_images_stays_one_sequence(folder) -> None:
    touch(folder, "c/a.png", "c/b.png", "c/film.mp4")
    assert not plan_batch(["c"], Naming(), WRITABLE).many
    assert not plan_batch(["c/*.png"], Naming(), WRITABLE).many
    assert not plan_batch(["c/%03d.png"], Naming(), WRITABLE).many
    assert pairs(["c"], folder="out") == [("c", "out/c.denoised/")]


def test_patterns_give_videos_and_existing_names_are_files(folder) -> None:
    touch(folder, "r/a2.mkv", "r/a10.mkv", "r/a.mp4", "r/a2.denoised.mkv", "x[1].mp4", "x1.mp4", "50%.mp4")
    assert [source for source, _ in pairs(["r/*.mkv"])] == ["r/a2.mkv", "r/a10.mkv"]
    assert pairs(["x[1].mp4"]) == [("x[1].mp4", "x[1].denoised.mp4")]
    assert pairs(["50%.mp4"]) == [("50%.mp4", "50%.denoised.mp4")]
    assert [source for source, _ in pairs(["x[0-9].mp4"])] == ["x1.mp4"]


def test_an_input_named_twice_is_done_once(folder) -> None:
    touch(folder, "c/a.mp4", "c/b.mp4")
    assert [source for source, _ in pairs(["c/b.mp4", "c", "./c/a.mp4"])] == ["c/b.mp4", "c/a.mp4"]


def test_names_of_outputs(folder) -> None:
    touch(folder, "c/a.b.mp4", "d/x{0}.avi")
    inputs = ["c/a.b.mp4", "d/x{0}.avi"]
    template = "{stem}.clean{suffix}"
    assert [output for _, output in pairs(inputs, template=template)] == [
        "c/a.b.clean.mp4",
        "d/x{0}.clean.mkv",
    ]
    expected = ["out/a.b.denoised.mp4", "out/x{0}.denoised.mkv"]
    assert [output for _, output in pairs(inputs, folder="out")] == expected
    assert [output for _, output in pairs(inputs, output="out/")] == expected
    (folder / "out").mkdir()
    assert [output for _, output in pairs(inputs, output="out")] == expected


@pytest.mark.parametrize(
    ("inputs", "naming", "says"),
    [
        (["c/a.mp4", "d/a.mp4"], {"output": "out.mkv"}, "one name for several"),
        (["c/a.mp4", "d/a.mp4"], {"output": "-"}, "one name for several"),
        (["c"], {"output": "out.mkv"}, "one name for several"),
        (["c/a.mp4", "d/a.mp4"], {"folder": "out"}, "both become out/a.denoised.mp4"),
        (["c/a.mp4", "d/a.mp4"], {"template": "x.mp4", "folder": "."}, "both become"),
        (
            ["c/a.mp4", "d/a.mp4"],
            {"folder": "d", "template": "{stem}{suffix}"},
            "both become|is itself an input",
        ),
        (["c/a.mp4", "d/b.mp4"], {"template": "{stem}{suffix}"}, "is itself an input"),
        (["c/a.mp4", "-"], {}, "cannot be one of several"),
        (["c/a.mp4"], {"output": "x.mkv", "folder": "out"}, "--output-dir"),
        (["c/a.mp4"], {"output": "x.mkv", "template": "{stem}.mkv"}, "--template"),
        (["c/a.mp4"], {"template": "{name}.mkv"}, "no {name}"),
        (["c/a.mp4"], {"template": "{stem"}, "is malformed"),
        (["c/a.mp4"], {"template": "x/{stem}.mkv"}, "--output-dir"),
        (["-"], {"folder": "out"}, "no name"),
    ],
)
def test_what_cannot_be_meant_is_refused(folder, inputs, naming, says) -> None:
    touch(folder, "c/a.mp4", "d/a.mp4", "d/b.mp4")
    with pytest.raises(OptionError, match=says):
        plan_batch(inputs, Naming(**naming), WRITABLE)


def test_nothing_to_denoise_is_told(folder) -> None:
    touch(folder, "empty/notes.txt")
    with pytest.raises(InputError, match="neither images nor videos"):
        plan_batch(["empty"], Naming(), WRITABLE)
    with pytest.raises(InputError, match="No video matches"):
        plan_batch(["empty/*.mkv"], Naming(), WRITABLE)


def test_the_output_folder_goes_again_if_nothing_came(folder) -> None:
    with output_folder(folder / "out"):
        assert (folder / "out").is_dir()
    assert not (folder / "out").exists()
    with output_folder(folder / "out"):
        touch(folder, "out/a")
    with output_folder(folder / "out"):
        pass
    assert (folder / "out/a").exists()


@pytest.fixture
def three(make_clip, folder):
    """A good clip, a broken one, another good one."""
    make_clip(name="a.mkv", frames=3)
    (folder / "b.mkv").write_bytes(b"this is no video at all")
    make_clip(name="c.mkv", frames=3)
    return folder


@pytest.fixture
def quick(tiny_model_path):
    return ("-m", tiny_model_path, "-s", "10", "--strength", "0")


def test_a_failure_does_not_stop_the_rest(stbn, three, quick, content) -> None:
    result = stbn("denoise", "a.mkv", "b.mkv", "c.mkv", "--output-dir", "out", "--json", *quick)
    assert result.code == 1
    document = json.loads(result.out)
    assert [part["status"] for part in document["results"]] == ["done", "failed", "done"]
    assert (document["done"], document["skipped"], document["failed"]) == (2, 0, 1)
    assert document["results"][0]["result"]["frames"] == 3
    assert "b.mkv" in document["results"][1]["reason"] and document["results"][1]["result"] is None
    assert {path.name for path in (three / "out").iterdir()} == {"a.denoised.mkv", "c.denoised.mkv"}
    assert content(three / "out/c.denoised.mkv").times == content(three / "c.mkv").times
    assert "Error: b.mkv: " in result.err and "2 done, 0 skipped, 1 failed" in result.err


def test_existing_outputs_are_skipped_and_else_refused(stbn, three, quick) -> None:
    (three / "b.mkv").unlink()
    assert stbn("denoise", ".", *quick).code == 0
    before = (three / "a.denoised.mkv").stat().st_mtime_ns
    again = stbn("denoise", ".", "--skip-existing", *quick)
    assert again.code == 0 and "0 done, 2 skipped, 0 failed" in again.err
    assert "exists already" in again.err
    assert (three / "a.denoised.mkv").stat().st_mtime_ns == before
    assert stbn("denoise", ".", *quick).code == 1
    (three / "c.denoised.mkv").unlink()
    rest = stbn("denoise", ".", "--skip-existing", "-q", *quick)
    assert rest.code == 0 and rest.err == ""
    assert (three / "c.denoised.mkv").exists()
    assert stbn("denoise", "a.mkv", "--skip-existing", "--overwrite").code == 2


def test_fail_fast_stops(stbn, three, quick) -> None:
    result = stbn("denoise", "b.mkv", "c.mkv", "--fail-fast", *quick)
    assert result.code == 1 and "1 not started" in result.err
    assert not (three / "c.denoised.mkv").exists()


def test_one_input_keeps_its_own_exit_code(stbn, three, quick) -> None:
    assert stbn("denoise", "b.mkv", *quick).code == 3
    assert stbn("denoise", "b.mkv", "a.mkv", *quick).code == 1


def test_ctrl_c_ends_all(stbn, three, quick, monkeypatch) -> None:
    from stbn_cli.cli import denoise

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(denoise, "_run", interrupted)
    result = stbn("denoise", "a.mkv", "c.mkv", "--json", *quick)
    assert result.code == 130
    assert [part["status"] for part in json.loads(result.out)["results"]] == ["failed", "not started"]
    assert "1 of 2 inputs not started" in result.err


def test_a_dry_run_tells_every_plan_and_leaves_nothing(stbn, three, quick) -> None:
    before = set(three.iterdir())
    arguments = ("denoise", "a.mkv", "c.mkv", "--output-dir", "out", "--dry-run", "--json")
    document = json.loads(stbn(*arguments, *quick).out)
    assert [part["result"]["output"] for part in document["results"]] == [
        "out/a.denoised.mkv",
        "out/c.denoised.mkv",
    ]
    assert set(three.iterdir()) == before
