"""One node's share in the foreground: status, log, results; once for real with two processes."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

import anybev
from anybev.engine.job import nodes
from anybev.engine.job import run as runs
from anybev.engine.job.command import Command
from anybev.engine.job.options import JobOptions
from anybev.reporting.job_status import job_status
from anybev.reporting.status import read_status
from anybev.testing.processes import exit_status_of
from anybev.testing.tiny_config import CONFIG_FILE, tiny_options

ROOT = Path(anybev.__file__).resolve().parents[2]
METRICS = {"NDS": 0.5, "mAP": 0.4, "train": {"samples_per_s": 8.0, "loss": 1.5, "device": "d"}}


@pytest.fixture
def job(tmp_path: Path) -> JobOptions:
    (tmp_path / "w").mkdir()
    return JobOptions(
        config=CONFIG_FILE,
        case="train_full_8p_base_fp32",
        batch_size=4,
        work_dir=tmp_path / "w",
        output_dir=tmp_path / "out",
    )


def train(job: JobOptions, code: str) -> int:
    """Run some Python in place of the training, in the work directory."""
    program = f"import os, sys; os.chdir({str(job.work_dir)!r})\n{code}"
    return runs._train(job, Command((sys.executable, "-c", program), {}), time.monotonic())


def write_metrics() -> str:
    return f"open('metrics.json', 'w').write({json.dumps(METRICS)!r})"


def test_output_goes_to_terminal_and_log_and_ends_with_results(
    job: JobOptions, capfd: pytest.CaptureFixture[str]
) -> None:
    assert train(job, f"print('Epoch(train) [1]'); {write_metrics()}") == 0
    out = capfd.readouterr().out.splitlines()
    assert job.log_file is not None
    assert job.log_file.read_text().splitlines() == out
    assert out[0] == "Epoch(train) [1]"
    assert out[2:6] == [
        "Final Performance images/sec : 8",
        "Final Train Loss : 1.5",
        "NDS : 0.5",
        "mAP : 0.4",
    ]
    result = job.output_dir / "BEVFusion_bs4_8p_acc.log"
    assert result.read_text().startswith("Network = BEVFusion\nRankSize = 8\n")


@pytest.mark.parametrize(
    ("code", "status"),
    [("sys.exit(3)", 3), ("os.kill(os.getpid(), 9)", 137), ("sys.exit('no')", 1)],
)
def test_failed_training_gives_its_status_and_no_results(
    code: str, status: int, job: JobOptions, capfd: pytest.CaptureFixture[str]
) -> None:
    assert train(job, f"{write_metrics()}; sys.stdout.flush(); {code}") == status
    assert "Final" not in capfd.readouterr().out
    assert job.log_file is not None
    assert [path.name for path in job.output_dir.iterdir()] == [job.log_file.name]


def test_metrics_of_an_older_training_are_not_taken(job: JobOptions) -> None:
    assert job.work_dir is not None
    (job.work_dir / "metrics.json").write_text(json.dumps(METRICS))
    with pytest.raises(FileNotFoundError, match=r"metrics.json must be written by the training"):
        train(job, "pass")


def test_node_that_does_not_lead_writes_no_results(job: JobOptions) -> None:
    assert train(replace(job, nnodes=2, node_rank=1), "print('x')") == 0
    assert [p.name for p in job.output_dir.iterdir()] == ["train_full_16p_base_fp32_node1.log"]


def test_end_of_a_job_that_could_not_say_it_itself_is_kept(job: JobOptions) -> None:
    line = "error: rank 3 (pid 77, local rank 3) was killed by SIGKILL"
    assert train(job, f"print({line!r}); sys.exit(137)") == 137
    assert job.work_dir is not None
    (launch, event), _ = read_status(job.work_dir / "status.json")
    assert (launch["status"], launch["kind"], launch["pid"]) == ("STARTED", "launch", os.getpid())
    assert (event["status"], event["kind"], event["message"]) == ("FAILURE", "launch", line)
    assert (event["rank"], event["pid"], event["world_size"]) == (3, 77, 8)
    assert train(job, "sys.exit(1)") == 1
    events, _ = read_status(job.work_dir / "status.json")
    assert events[-1]["message"] == "the job ended with status 1"


_RANK_FAILS = """
from anybev.reporting.status import append_status
append_status("status.json", status="FAILURE", kind="train", message="loss is NaN", rank=1)
"""


def test_failure_that_a_rank_wrote_stands_alone(job: JobOptions) -> None:
    assert job.work_dir is not None
    assert train(job, f"{_RANK_FAILS}sys.exit(1)") == 1
    events, _ = read_status(job.work_dir / "status.json")
    assert [event["message"] for event in events[1:]] == ["loss is NaN"]


def test_killed_rank_is_told_beside_what_the_others_wrote(job: JobOptions) -> None:
    assert job.work_dir is not None
    line = "error: rank 3 (pid 77, local rank 3) was killed by SIGKILL; its own messages are above"
    assert train(job, f"{_RANK_FAILS}print({line!r}); sys.exit(137)") == 137
    events, _ = read_status(job.work_dir / "status.json")
    assert (events[-1]["kind"], events[-1]["pid"]) == ("launch", 77)
    assert job_status(job.work_dir).detail == f"rank 3: {line}"


def test_output_that_nobody_reads_does_not_end_the_job(
    job: JobOptions, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    readable, writable = os.pipe()
    os.close(readable)  # as after `| head`
    with os.fdopen(writable, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert train(job, f"print('Epoch(train) [1]'); {write_metrics()}") == 0
    assert job.log_file is not None
    assert "Final Train Loss : 1.5" in job.log_file.read_text()
    assert capfd.readouterr().err.count("took no more of the output: [Errno 32] Broken pipe") == 1


def test_ignored_signal_stays_ignored(job: JobOptions) -> None:
    code = """
import signal, time
signal.signal(signal.SIGHUP, lambda *_: sys.exit(5))
os.kill(os.getppid(), signal.SIGHUP)
time.sleep(1)
open("metrics.json", "w").write('{}')
"""

    def act() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
        assert train(replace(job, case=None), code) == 0
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert nodes._heeded("SIGTERM,SIGHUP") == "SIGTERM"

    assert exit_status_of(act) == 0


def test_training_that_is_told_no_folder_has_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    plain = JobOptions(config=CONFIG_FILE, dry_run=True, nproc=1)
    assert runs.run(plain) == 0
    words = capsys.readouterr().out.split()
    assert words[words.index("--work-dir") + 1] == f"work_dirs/{CONFIG_FILE.stem}"
    assert runs.run(replace(plain, cfg_options=("work_dir=w",))) == 0
    assert "--work-dir w " in capsys.readouterr().out


def test_demo_says_what_its_start_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "scenes"
    demo = JobOptions(config=CONFIG_FILE, demo=True, dry_run=True, nproc=1, data_root=root)
    assert runs.run(replace(demo, work_dir=tmp_path / "w")) == 0
    said = capsys.readouterr().err
    assert f"note: the start writes synthetic scenes to {root}" in said
    assert "data:" not in said
    assert not root.exists()


def test_signal_is_handed_on_once(job: JobOptions, capfd: pytest.CaptureFixture[str]) -> None:
    code = """
import signal, time
signal.signal(signal.SIGTERM, lambda *_: (print("saved", flush=True), sys.exit(5)))
os.kill(os.getppid(), signal.SIGTERM)
time.sleep(30)
"""
    assert train(job, code) == 5
    assert capfd.readouterr().out.count("saved") == 1


@pytest.mark.parametrize("nnodes", [1, 2])
def test_nothing_to_resume(
    nnodes: int, job: JobOptions, capsys: pytest.CaptureFixture[str]
) -> None:
    several = {"nnodes": nnodes, "master_addr": "127.0.0.1" if nnodes > 1 else None}
    assert runs.run(replace(job, resume="auto", dry_run=True, nproc=1, **several)) == 0
    said = capsys.readouterr()
    assert ("--resume" in said.out.split()) == (nnodes == 2)
    expected = {1: f"nothing to resume in {job.work_dir}: the training starts anew"}
    expected[2] = f"--resume must find a checkpoint in {job.work_dir}, got none"
    assert expected[nnodes] in said.err


def launch(*flags: object, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
    """The named script; whatever it started is gone when this returns."""
    script = ROOT / "test" / "train_full_8p_base_fp16.sh"
    variables = {"PYTHON": sys.executable, "ANYBEV_BACKEND": "cpu", "OMP_NUM_THREADS": "1"}
    variables["ANYBEV_REQUIRE_NATIVE"] = "0"
    process = subprocess.Popen(
        ["bash", str(script), *map(str, flags)],
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        out, err = process.communicate(timeout=timeout_s)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)  # handed on to torchrun, which ends its workers
            process.wait(60)
    return subprocess.CompletedProcess(script, process.returncode, out, err)


def test_missing_things_are_one_list_and_status_2(tmp_path: Path) -> None:
    flags = (f"--data-root={tmp_path}/no", f"--work-dir={tmp_path}/w", f"--output-dir={tmp_path}")
    result = launch(*flags)
    assert result.returncode == 2
    assert "error: the job cannot start; 6 thing(s) to put right:" in result.stderr
    assert result.stderr.count("\n  - ") == 6
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []
    dry = launch(*flags, "--dry-run")
    assert dry.returncode == 0
    assert dry.stdout.startswith("env PYTHONUNBUFFERED=1 ")
    assert dry.stderr.count("would not start") == 6


def test_bad_flag_is_one_line() -> None:
    result = launch("--batch_size=4")
    assert result.returncode == 2
    assert result.stderr.splitlines() == [
        "error: job: unrecognized arguments: --batch_size=4; --help lists the flags "
        "(ANYBEV_TRACEBACK=1 shows where)"
    ]


@pytest.mark.slow
def test_two_processes_train_and_leave_a_case(synthetic_root: Path, tmp_path: Path) -> None:
    flags = ["1", "2", "1", f"--config={CONFIG_FILE}", f"--work-dir={tmp_path}/w"]
    flags += [f"--output-dir={tmp_path}/out", f"--data-root={synthetic_root}", "--port=29611"]
    options = tiny_options(synthetic_root, train_dataloader__sampler__batch_size="1")
    options = [option for option in options if "batch_size" not in option]
    result = launch(*flags, "--cfg-options", *options)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    metrics = json.loads((tmp_path / "w/metrics.json").read_text())
    final = result.stdout.splitlines()[-6:]
    assert final[1].startswith("Final Performance images/sec : ")
    assert final[3] == f"NDS : {metrics['NDS']:.6g}"
    lines = (tmp_path / "out/BEVFusion_bs1_2p_acc.log").read_text().splitlines()
    assert {"RankSize = 2", "BatchSize = 1", "Precision = bf16"} <= set(lines)
    assert "fp16 becomes bf16" in result.stderr
    log = (tmp_path / "out/train_full_2p_base_fp16.log").read_text()
    assert log == result.stdout
    # A training that cannot go on: its status, and no results.
    broken = launch(*flags, "--cfg-options", *options, "optim_wrapper.loss_scale=-1")
    assert broken.returncode == 2, broken.stdout[-3000:]
    assert "Final" not in broken.stdout
    assert "loss_scale must be" in broken.stdout
