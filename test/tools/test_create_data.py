import shutil

import pytest

from anybev.datasets.synthetic.nuscenes import write_nuscenes
from anybev.testing.processes import load_tool, run_tool


@pytest.fixture
def main():
    return load_tool("create_data.py").main


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        (["waymo"], ValueError, "dataset must be one of nuscenes, got 'waymo'"),
        (["nuscenes", "--version", "v3"], ValueError, "version must be one of"),
        (["nuscenes"], FileNotFoundError, "must be the folder of the tables, got none; try --vers"),
    ],
)
def test_bad_input_is_named(main, tmp_path, arguments, error, match):
    with pytest.raises(error, match=match):
        main([*arguments, "--root-path", str(tmp_path), "--out-dir", str(tmp_path)])


def test_bad_input_ends_in_one_line():
    result = run_tool("create_data.py", "waymo", check=False)
    assert result.returncode == 2
    assert result.stderr == "error: dataset must be one of nuscenes, got 'waymo'\n"


def test_files_land_where_they_are_asked_for(main, tmp_path, capsys):
    root, out = tmp_path / "data", tmp_path / "out"
    write_nuscenes(root, scenes=1, val_scenes=0, seed=2, workers=1)
    common = ["nuscenes", "--root-path", str(root), "--out-dir", str(out), "--extra-tag", "x"]
    common += ["--workers", "1"]
    main([*common, "--max-sweeps", "1"])
    written = [out / "x_infos_train.pkl", out / "x_infos_val.pkl"]
    assert capsys.readouterr().out.split() == [str(path) for path in written]
    assert all(path.is_file() for path in written)
    shutil.rmtree(out / "x_gt_database")
    (out / "x_dbinfos_train.pkl").unlink()
    main([*common, "--max-sweeps", "1", "--only-gt-database"])
    assert (out / "x_dbinfos_train.pkl").is_file()
    assert any((out / "x_gt_database").iterdir())
