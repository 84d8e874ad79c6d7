"""How the tools end: one line and a status for what the user can change."""

import pytest

from anybev import envs
from anybev.engine.config import option_value
from anybev.engine.launch import fail_clearly, prepare
from anybev.engine.train import parser
from anybev.testing.tiny_config import CONFIG_FILE


def _raise(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ValueError("scenes must be 1 or more"), 2, "error: scenes must be 1 or more"),
        (envs.MachineError("backend npu: driver must work"), 2, "error: backend npu: driver must"),
        (KeyboardInterrupt(), 130, "interrupted; training goes on with --resume"),
    ],
)
def test_one_line_and_a_status(
    error: BaseException, status: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fail_clearly(lambda: _raise(error)) == status
    assert capsys.readouterr().err.startswith(line)


def test_other_errors_keep_their_traceback() -> None:
    with pytest.raises(RuntimeError, match="shapes differ"):
        fail_clearly(lambda: _raise(RuntimeError("shapes differ")))


def test_the_traceback_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYBEV_TRACEBACK", "1")
    with pytest.raises(ValueError, match="bad input"):
        fail_clearly(lambda: _raise(ValueError("bad input")))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("/tmp/my data", "/tmp/my data"),
        (" 0.5 ", 0.5),
        ("'/tmp/my data'", "/tmp/my data"),
        ('"/tmp/a,b"', "/tmp/a,b"),
        ("/tmp/my data, new (2)", "/tmp/my data, new (2)"),
        ("a,b", ["a", "b"]),
        ("1,2.5,None", [1, 2.5, None]),
        ("[1, 2, (x, y)]", [1, 2, ("x", "y")]),
        ("'[1, 2]'", [1, 2]),
        ("(1, true)", (1, True)),
        ("'3'", 3),
        ("", ""),
    ],
)
def test_values_of_options_keep_blanks_and_quoted_commas(text: str, value: object) -> None:
    assert option_value(text) == value


def test_options_of_mixed_precision_go_with_its_flag() -> None:
    words = [str(CONFIG_FILE), "--cfg-options", "optim_wrapper.loss_scale=512"]
    with pytest.raises(ValueError, match="got 'loss_scale'"):
        prepare(parser().parse_args(words))
    assert prepare(parser().parse_args([*words, "--amp"])).optim_wrapper.loss_scale == 512
