"""The page of a report: complete, self-contained, and nothing in it comes to life."""

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from anybev.datasets.predictions import save_predictions
from anybev.reporting.html import Html, page, table, tag
from anybev.reporting.report import Options, show, write_report
from anybev.reporting.run import read_runs
from anybev.testing.run_folder import NOTE, detections, write_data, write_run

HOSTILE = ("<script>alert(1)</script>", "\"' onload=x & $\\frac{ _")
_VOID = {"img", "input", "meta"}


class Page(HTMLParser):
    """Checks that tags nest, and keeps what they carry."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)

    @property
    def images(self) -> list[str]:
        return [attrs["src"] or "" for name, attrs in self.tags if name == "img"]


def check_self_contained(read: Page) -> None:
    assert read.count("script") == read.count("link") == read.count("iframe") == 0
    for name, attributes in read.tags:
        assert not any(key.startswith("on") for key in attributes), name
        for key in ("src", "href"):
            assert (attributes.get(key) or "data:").startswith("data:")
    style = re.search(r"<style>(.*?)</style>", read.rawdata or "", re.S)
    assert style is None or "url(" not in style[1]


def test_one_run_in_one_page(run_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "report.html"
    assert write_report(read_runs([run_folder]), out, Options(best=1, worst=1)) == []
    text = out.read_text()
    read = Page(text)
    check_self_contained(read)
    assert text.startswith("<!DOCTYPE html>")
    headings = re.findall(r"<h2>(.*?)</h2>", text)
    assert headings == [
        "Summary",
        "Classes",
        "Curves",
        "Precision and recall",
        "What is taken for what",
        "Frames",
        "Where the numbers come from",
    ]
    assert f"{NOTE[0].upper()}{NOTE[1:]}." in read.text
    assert "best: frame0" in read.text
    assert "worst: frame2" in read.text
    for value in ("0.5000", "20.00", "512", "abc123", "tiny.py", "2.13.0"):
        assert value in read.text, value
    # Training, evaluations, precision; from above and in the cameras for each of two frames.
    assert [image[5:15] for image in read.images] == ["image/svg+"] * 3 + ["image/webp"] * 4
    for image in read.images[3:]:
        content = base64.b64decode(image.partition(",")[2])
        with Image.open(io.BytesIO(content)) as opened:
            assert min(opened.size) > 300
    assert out.stat().st_size < 2_000_000


def test_several_runs_side_by_side(tmp_path: Path, ann_file: Path) -> None:
    runs = read_runs(
        [
            write_run(tmp_path / "first", ann_file, nds=0.5),
            write_run(tmp_path / "second", ann_file, nds=0.625),
        ]
    )
    out = tmp_path / "report.html"
    write_report(runs, out, Options(frames=["frame3"], best=0, worst=0))
    text = out.read_text()
    read = Page(text)
    check_self_contained(read)
    nds = re.search(r'<th scope="row">NDS</th>(.*?)</tr>', text)
    assert nds
    assert '<td class="value">0.5000</td>' in nds[1]
    assert '<td class="best">0.6250 <small class="better">+0.1250</small></td>' in nds[1]
    assert "Frames of first" in read.text
    assert "Frames of second" in read.text
    assert read.text.count("chosen: frame3") == 2
    assert read.text.count("All numbers of") == 2


def test_lower_errors_are_better(tmp_path: Path, ann_file: Path) -> None:
    facts = [{"peak_memory_mib": 500.0}, {"peak_memory_mib": 400.0}]
    paths = [
        write_run(tmp_path / name, ann_file, facts=own)
        for name, own in zip("ab", facts, strict=True)
    ]
    write_report(read_runs(paths), tmp_path / "r.html", Options(best=0, worst=0))
    text = (tmp_path / "r.html").read_text()
    assert '<td class="best">400 <small class="better">-100</small></td>' in text
    assert '<small class="same">+0.0000</small>' in text


def test_names_from_files_stay_text(tmp_path: Path) -> None:
    ann_file = write_data(tmp_path / "data <b>", HOSTILE)
    facts = {"commit": HOSTILE[0], "packages": {HOSTILE[0]: "1"}, "fps": HOSTILE[0]}
    path = write_run(tmp_path / "<img src=x onerror=y>", ann_file, classes=HOSTILE, facts=facts)
    (path / "tiny.py").write_text("</pre><script>alert(2)</script>\x00\x1b[31m")
    (path / "20260101_000000" / "vis_data" / "scalars.json").write_text(
        '{"loss": 1, "<script>loss$_{": 2, "step": 1}\n'
    )
    missing = write_report(read_runs([path]), tmp_path / "r.html", Options(best=1, worst=0))
    assert missing == []
    read = Page((tmp_path / "r.html").read_text())
    check_self_contained(read)
    for name in HOSTILE:
        assert name in read.text
    assert "</pre><script>alert(2)</script>" in read.text
    svgs = [base64.b64decode(image.partition(",")[2]) for image in read.images if "svg" in image]
    assert svgs
    assert all(b"<script" not in content for content in svgs)


def test_a_frame_of_one_run_alone_is_drawn_there(tmp_path: Path, ann_file: Path) -> None:
    fewer = write_data(tmp_path / "fewer", frames=2)
    runs = read_runs([write_run(tmp_path / "whole", ann_file), write_run(tmp_path / "part", fewer)])
    found = detections(2)
    save_predictions(tmp_path / "part/20260101_000000/nuscenes/predictions.npz", found)
    options = Options(frames=["frame3", "1"], best=0, worst=0)
    assert write_report(runs, tmp_path / "r.html", options) == ["part: no frame frame3"]
    text = Page((tmp_path / "r.html").read_text()).text
    assert text.count("chosen: frame3") == 1
    assert text.count("chosen: frame1") == 2
    with pytest.raises(ValueError, match=r"must be tokens or indices in 0\.\.3, got '--1'"):
        show(runs, Options(frames=["--1"]))


def test_frames_that_were_scored_already_are_not_scored_again(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, options = read_runs([run_folder]), Options(best=1, worst=0)
    shown = show(runs, options)
    monkeypatch.delattr("anybev.reporting.report.assess")
    assert write_report(runs, tmp_path / "r.html", options, shown=shown) == []
    assert "best: frame0" in (tmp_path / "r.html").read_text()


def test_a_run_that_was_not_scored_has_its_curves(run_folder: Path, tmp_path: Path) -> None:
    for path in (run_folder / "20260101_000000" / "nuscenes").iterdir():
        path.unlink()
    out = tmp_path / "r.html"
    missing = write_report(read_runs([run_folder]), out)
    assert missing == [
        "run: no evaluation in this run: no scores, precision curves or frames",
    ]
    read = Page(out.read_text())
    assert "no evaluation in this run" in read.text
    assert len(read.images) == 2
    with pytest.raises(ValueError, match="--frames must be frames of an evaluation, got no eval"):
        write_report(read_runs([run_folder]), out, Options(frames=["0"]))


def test_a_data_set_that_moved_leaves_the_pictures_out(tmp_path: Path) -> None:
    ann_file = write_data(tmp_path / "old")
    runs = read_runs([write_run(tmp_path / "run", ann_file)])
    (tmp_path / "old").rename(tmp_path / "new")
    missing = write_report(runs, tmp_path / "r.html")
    assert len(missing) == 1
    assert "the data set is not where it was" in missing[0]
    read = Page((tmp_path / "r.html").read_text())
    assert "the data set is not where it was" in read.text
    options = Options(best=1, worst=0, data_root=tmp_path / "new")
    assert write_report(runs, tmp_path / "r.html", options) == []


def test_pictures_that_are_gone_are_noted(tmp_path: Path) -> None:
    ann_file = write_data(tmp_path / "data")
    for path in (tmp_path / "data" / "samples").glob("CAM_*/*"):
        path.unlink()
    runs = read_runs([write_run(tmp_path / "run", ann_file)])
    missing = write_report(runs, tmp_path / "r.html", Options(best=1, worst=0))
    assert len(missing) == 2
    assert "run: frame frame0: no picture: CAM_FRONT" in missing[0]
    read = Page((tmp_path / "r.html").read_text())
    assert sum("webp" in image for image in read.images) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score_threshold": 2.0}, "--score-thr must be in 0..1, got 2.0"),
        ({"best": -1}, "--best must be 0 or more, got -1"),
        ({"worst": -2}, "--worst must be 0 or more, got -2"),
    ],
)
def test_options_out_of_range(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Options(**options)


def test_text_is_escaped_unless_it_was_built_here() -> None:
    assert tag("b", "<i>", Html("<i></i>"), title='"x"') == (
        '<b title="&quot;x&quot;">&lt;i&gt;<i></i></b>'
    )
    assert tag("p", ["a", ["b", tag("i", "&")]]) == "<p>ab<i>&amp;</i></p>"
    assert tag("p", "\udce9") == "<p>?</p>"
    assert "<td>&lt;x&gt;</td>" in table(["a", "b"], [["1", "<x>"]])
    assert "<title>&lt;t&gt;</title>" in page("<t>")
