import pytest
from torch import nn

from anybev.engine.data_parallel import DataParallelOptions, wrapper_arguments


def test_a_config_may_leave_out_any_option() -> None:
    assert DataParallelOptions.from_config(None) == DataParallelOptions()
    options = DataParallelOptions.from_config({"bucket_cap_mb": 8, "overlap": False})
    assert (options.bucket_cap_mb, options.overlap) == (8, False)
    assert options.gradient_compression == "none"


def test_without_overlap_all_gradients_fit_one_part() -> None:
    model = nn.Linear(1024, 1024)
    model.bias.requires_grad_(False)
    arguments = wrapper_arguments(model, DataParallelOptions(bucket_cap_mb=0.5), False)
    assert arguments["bucket_cap_mb"] == 0.5
    whole = wrapper_arguments(model, DataParallelOptions(0.5, overlap=False), True)
    assert whole["bucket_cap_mb"] == 5  # 4 MiB of weights
    assert whole["find_unused_parameters"]
    buffers = [name for name in whole if name.endswith("_buffers")]
    assert len(buffers) == 1
    assert whole[buffers[0]] is True  # the CPU repeats bit for bit
    chosen = wrapper_arguments(model, DataParallelOptions(broadcast_buffers=False), False)
    assert chosen[buffers[0]] is False


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"bucket_cap_mb": 0}, ValueError, "bucket_cap_mb must be positive, got 0"),
        ({"bucket_cap_mb": True}, TypeError, "bucket_cap_mb must be a number, got True"),
        ({"bucket_cap_mb": "25"}, TypeError, "bucket_cap_mb must be a number, got '25'"),
        (
            {"gradient_compression": "fp16"},
            ValueError,
            "gradient_compression must be one of none, bf16, got 'fp16'",
        ),
        ({"overlap": 1}, TypeError, "overlap must be True or False, got 1"),
        ({"broadcast_buffers": 0}, TypeError, "broadcast_buffers must be True or False, got 0"),
        (
            {"bucket_cap": 25},
            ValueError,
            "ddp must be given known keys, got 'bucket_cap'; try bucket",
        ),
    ],
)
def test_wrong_options_are_named(options: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        DataParallelOptions.from_config(options)
