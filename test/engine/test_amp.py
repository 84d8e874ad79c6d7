import pytest
import torch
from torch import nn

from anybev.engine.amp import AmpOptimWrapper


def wrapper(model: nn.Module, **arguments: object) -> AmpOptimWrapper:
    return AmpOptimWrapper(optimizer=torch.optim.SGD(model.parameters(), 0.1), **arguments)


def test_cpu_autocasts_to_bfloat16_and_steps() -> None:
    model = nn.Linear(4, 4)
    before = model.weight.detach().clone()
    optim = wrapper(model, clip_grad={"max_norm": 1.0})
    with optim.optim_context(model):
        output = model(torch.ones(2, 4))
    assert output.dtype is torch.bfloat16
    optim.update_params(output.float().sum())
    assert model.weight.dtype is torch.float32
    assert not torch.equal(before, model.weight)


def test_state_survives_with_and_without_a_scaler() -> None:
    model = nn.Linear(2, 2)
    state = wrapper(model).state_dict()
    wrapper(model).load_state_dict(state)
    state.pop("loss_scaler")
    wrapper(model).load_state_dict(state)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dtype": "float16"}, "dtype on cpu must be bfloat16, got float16"),
        ({"loss_scale": "static"}, "loss_scale must be 'dynamic' or a positive number"),
        ({"loss_scale": 0.0}, "loss_scale must be 'dynamic' or a positive number"),
        ({"dtype": "int8"}, "dtype must be float16 or bfloat16, got 'int8'"),
    ],
)
def test_dtype_that_the_cpu_cannot_train_in_raises(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wrapper(nn.Linear(2, 2), **arguments)
