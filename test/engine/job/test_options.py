"""Flags, positions and cluster variables become one job."""

from pathlib import Path

import pytest

from anybev.engine.job.options import JobOptions, from_arguments

FULL = ["--case", "train_full_8p_base_fp16", "--config", "c.py", "--precision", "fp16"]
SPEED = ["--case", "train_performance_8p_base_fp32", "--config", "c.py", "--kind", "performance"]
NODES = ["--case", "nnodes_train_full_16p_base_fp32", "--config", "c.py"]
VARIABLES = ("WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "NUM_GPU_PER_NODE")


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def sizes(options: JobOptions) -> tuple[object, ...]:
    o = options
    return o.batch_size, o.nproc, o.epochs, o.nnodes, o.node_rank, o.master_addr, o.port


def test_defaults_are_drivingsdks() -> None:
    assert sizes(from_arguments(FULL)) == (4, 8, 6, 1, 0, None, 29500)
    assert sizes(from_arguments(SPEED)) == (4, 8, 1, 1, 0, None, 29500)
    several = from_arguments([*NODES, "--master-addr=10.0.0.1"])
    assert sizes(several) == (4, 8, 6, 2, 0, "10.0.0.1", 29500)


@pytest.mark.parametrize(
    "given",
    [
        ["--batch-size=2", "--num-npu=4", "--epochs=3"],
        ["--batch-size", "2", "--num-npu", "4", "--epochs", "3"],
        ["--epochs=3", "--nproc=4", "--batch-size=2"],
        ["2", "4", "3"],
        ["2", "4", "--epochs=3"],
        ["2", "--epochs=3", "4"],
    ],
)
def test_flags_and_positions_say_the_same(given: list[str]) -> None:
    assert sizes(from_arguments([*FULL, *given]))[:3] == (2, 4, 3)


@pytest.mark.parametrize(
    "given",
    [
        ["1", "2", "3", "4", "1", "10.0.0.1", "300"],
        ["1", "2", "3", "4", "1", "300", "10.0.0.1"],
        [
            *["--batch-size=1", "--num-npu=2", "--epochs=3", "--nnodes=4", "--node-rank=1"],
            *["--port=300", "--master-addr=10.0.0.1"],
        ],
    ],
)
def test_all_seven_values(given: list[str]) -> None:
    assert sizes(from_arguments([*NODES, *given])) == (1, 2, 3, 4, 1, "10.0.0.1", 300)


def test_names_carry_the_real_number_of_processes() -> None:
    options = from_arguments([*FULL, "--num-npu=2"])
    assert options.log_file == Path("test/output/train_full_2p_base_fp16.log")
    assert options.work_dir == Path("work_dirs/train_full_2p_base_fp16")
    second = from_arguments([*NODES, "--master-addr=a", "--node-rank=1"])
    assert second.log_file == Path("test/output/nnodes_train_full_16p_base_fp32_node1.log")
    assert second.work_dir == Path("work_dirs/nnodes_train_full_16p_base_fp32")


def test_demo_is_short() -> None:
    options = from_arguments([*FULL, "--demo"])
    assert (options.batch_size, options.epochs) == (1, 2)
    assert options.work_dir == Path("work_dirs/train_full_8p_base_fp16_demo")
    assert from_arguments([*FULL, "--demo", "--epochs=5"]).epochs == 5


def test_job_without_a_case_leaves_the_config_alone() -> None:
    options = from_arguments(["--config", "c.py", "--", "--amp", "--work-dir", "w"])
    assert (options.batch_size, options.epochs, options.log_file) == (None, None, None)
    assert options.work_dir == Path("w")
    assert (options.precision, options.train_flags) == ("fp16", ())


def test_flags_of_the_training_join_the_launchers() -> None:
    given = ["--cfg-options", "a=1", "--cfg-options", "b=2", "--resume", "--"]
    given += ["--auto-scale-lr", "--cfg-options", "c=3", "d=4", "--tensorboard"]
    options = from_arguments([*FULL, *given])
    assert options.cfg_options == ("a=1", "b=2", "c=3", "d=4")
    assert (options.auto_scale_lr, options.resume) == (True, "auto")
    assert options.train_flags == ("--tensorboard",)


def test_demo_needs_no_config() -> None:
    assert from_arguments(["--demo"]).config.is_file()


def test_clusters_variables_stand_in_for_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in zip(VARIABLES, ("2", "1", "10.0.0.1", "300", "4"), strict=True):
        monkeypatch.setenv(name, value)
    options = from_arguments(NODES)
    assert sizes(options) == (4, 4, 6, 2, 1, "10.0.0.1", 300)
    assert "--nnodes=2 from WORLD_SIZE" in options.notes
    options = from_arguments([*NODES, "--port=301"])
    assert options.port == 301
    assert "--port=301 wins over MASTER_PORT=300" in options.notes


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--batch_size=4"], "unrecognized arguments: --batch_size=4; --help lists the flags"),
        (["--num-np=4"], "unrecognized arguments: --num-np=4"),
        (["--epochs"], "argument --epochs: expected one argument"),
        (["--batch-size=0"], "--batch-size must be a whole number of 1 or more, got '0'"),
        (["--num-npu=x"], "--num-npu must be a whole number of 1 or more, got 'x'"),
        (["--epochs=-1"], "--epochs must be a whole number of 1 or more, got '-1'"),
        (["--max-restarts=1.5"], "--max-restarts must be a whole number of 0 or more, got '1.5'"),
        (["--join-timeout=0"], "--join-timeout must be a whole number of 1 or more, got '0'"),
        (["--port=70000"], "--port must be in 1..65535, got 70000"),
        (["4", "--batch-size=5"], "--batch-size must be given once, got 5 and, by its position, 4"),
        (["1"] * 8, "at most 7 values without a name must be given, got 8"),
        (["--nnodes=2", "--master-addr=a"], "must run on 1 node, got 2 .* try test/nnodes_train"),
        (["--node-rank=1"], r"--node-rank must be in 0..0 for 1 node\(s\), got 1"),
        (["--cfg-options", "a"], "--cfg-options must be KEY=VALUE pairs, got 'a'"),
        (["--resume="], "--resume must have a value, got an empty one; try without it"),
        (["--load-from="], "--load-from must have a value, got an empty one"),
        (["--swin", ""], "--swin must have a value, got an empty one"),
        (["--work-dir= "], "--work-dir must have a value, got an empty one"),
        (["--", "--resume="], "--resume must have a value, got an empty one"),
        ([""], "must have a value, got an empty one"),
        (["--resume", "4", "8"], "--resume must be a checkpoint, got 4, which looks like a value"),
        (["--demo", "--config=my.py"], "--demo must stand without --config, .* got my.py"),
        (["--", "--bad"], "unrecognized arguments: --bad"),
        (["--", "--work-dir=a", "--resume"], None),
        (["--work-dir=b", "--", "--work-dir=a"], "--work-dir must be given once, got b and a"),
    ],
)
def test_bad_flags_are_refused(given: list[str], message: str | None) -> None:
    if message is None:
        assert from_arguments([*FULL, *given]).work_dir == Path("a")
        return
    with pytest.raises(ValueError, match=message):
        from_arguments([*FULL, *given])


def test_several_nodes_need_the_address_of_the_first() -> None:
    with pytest.raises(ValueError, match="--master-addr must be the address of node 0, got none"):
        from_arguments(NODES)
    with pytest.raises(ValueError, match=r"--node-rank must be in 0..1 for 2 node\(s\), got 2"):
        from_arguments([*NODES, "--master-addr=a", "--node-rank=2"])


def test_config_must_be_named() -> None:
    with pytest.raises(ValueError, match="--config must name a config file, got none"):
        from_arguments(["--batch-size=4"])


def test_cluster_of_processes_is_not_taken_for_one_of_nodes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "8")
    with pytest.raises(ValueError, match=r"must run on 1 node, got 8 \(--nnodes or WORLD_SIZE"):
        from_arguments(FULL)
