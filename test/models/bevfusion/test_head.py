"""The head: proposals, decoder, losses and decoding together."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from anybev.engine.builder import build_detector
from anybev.models.bevfusion.head_config import HeadTestCfg
from anybev.models.bevfusion.transfusion_decoder import FFN, TransformerDecoderLayer
from anybev.models.bevfusion.transfusion_head import TransFusionHead
from anybev.testing.tiny import MAP_SIZE, tiny_batch, tiny_model_cfg
from anybev.testing.tolerances import tolerances


def _head(**more: object) -> TransFusionHead:
    torch.manual_seed(0)
    velocity = bool(more.pop("velocity", True))
    return build_detector(tiny_model_cfg(velocity=velocity, **more)).bbox_head


def _peaks(head: TransFusionHead, *cells: tuple[int, int, int]) -> torch.Tensor:
    """Scores after the local maximum for a map whose logits are -5 but for the cells."""
    logits = torch.full((1, 10, *MAP_SIZE), -5.0)
    for rank, (label, x, y) in enumerate(cells):
        logits[0, label, x, y] = 3.0 - rank
    return head._local_maxima(logits)


def test_neighbours_of_a_peak_are_suppressed_except_for_small_classes() -> None:
    head = _head()
    scores = _peaks(head, (0, 5, 5), (0, 5, 6), (8, 5, 5), (8, 5, 6))
    assert scores[0, 0, 5, 5] > 0.9
    assert scores[0, 0, 5, 6] == 0
    assert scores[0, 8, 5, 6] == torch.tensor(0.0).sigmoid()


def test_border_cells_propose_only_for_small_classes_or_on_request() -> None:
    cells = [(0, 0, 5), (0, 7, MAP_SIZE[1] - 1), (9, 0, 0)]
    scores = _peaks(_head(), *cells)
    assert [bool(scores[0][c] > 0.1) for c in cells] == [False, False, True]
    scores = _peaks(_head(proposals_at_border=True), *cells)
    assert all(scores[0][c] > 0.1 for c in cells)


def test_proposals_are_the_highest_scores_with_x_major_cells() -> None:
    head = _head()
    scores = _peaks(head, (3, 7, 20), (9, 2, 1), (0, 14, 3)).flatten(2)
    labels, cells = head._propose(scores)
    assert labels[0, :3].tolist() == [3, 9, 0]
    assert cells[0, :3].tolist() == [x * MAP_SIZE[1] + y for x, y in ((7, 20), (2, 1), (14, 3))]
    assert head.bev_pos[0, cells[0, 0]].tolist() == [7.5, 20.5]
    assert "bev_pos" not in head.state_dict()


def test_outputs_have_the_documented_shapes_for_every_layer() -> None:
    head = _head(num_decoder_layers=2)
    outputs = head(torch.randn(2, 32, *MAP_SIZE))
    numbers = {"center": 2, "height": 1, "dim": 3, "rot": 2, "vel": 2, "heatmap": 10}
    for name, count in numbers.items():
        assert outputs[name].shape == (2, count, 24), name
    assert outputs["dense_heatmap"].shape == (2, 10, *MAP_SIZE)
    assert outputs["query_heatmap_score"].shape == (2, 10, 12)
    assert outputs["query_cells"].shape == outputs["query_labels"].shape == (2, 12)
    single = _head(num_decoder_layers=2, auxiliary=False)(torch.randn(2, 32, *MAP_SIZE))
    assert single["center"].shape == (2, 2, 12)


def test_losses_of_earlier_layers_are_named_by_their_number() -> None:
    head, batch = _head(num_decoder_layers=2), tiny_batch()
    outputs = head(torch.randn(2, 32, *MAP_SIZE))
    losses = head.loss(outputs, batch.boxes_lidar, batch.labels)
    assert list(losses) == [
        "loss_heatmap",
        "layer_0_loss_cls",
        "layer_0_loss_bbox",
        "layer_-1_loss_cls",
        "layer_-1_loss_bbox",
        "matched_ious",
    ]
    sum(v for k, v in losses.items() if "loss" in k).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


def test_losses_equal_a_plain_computation() -> None:
    """Sums over matched rows, divided by the number of matched queries of the batch."""
    head, batch = _head(), tiny_batch((3, 0))
    outputs = head(torch.randn(2, 32, *MAP_SIZE))
    matching = [torch.zeros(12, dtype=torch.int64) for _ in range(2)]
    matching[0][[1, 4, 7]] = torch.tensor([2, 3, 1])
    losses = head.loss(outputs, batch.boxes_lidar, batch.labels, matching)
    code = head.bbox_coder.encode(batch.boxes_lidar[0])
    names = ("center", "height", "dim", "rot", "vel")
    predicted = torch.cat([outputs[n] for n in names], 1)[0].T
    weight = torch.tensor([1.0] * 8 + [0.2] * 2)
    wanted = 0.0
    for query, box in ((1, 1), (4, 2), (7, 0)):
        wanted += 0.25 * ((predicted[query] - code[box]).abs() * weight).sum() / 3
    torch.testing.assert_close(losses["layer_-1_loss_bbox"], wanted, **tolerances(torch.float32))
    target = torch.zeros(2, 10, 12)
    for query, box in ((1, 1), (4, 2), (7, 0)):
        target[0, batch.labels[0][box], query] = 1
    p = outputs["heatmap"].sigmoid()
    miss = torch.where(target == 1, 1 - p, p)
    alpha = torch.where(target == 1, 0.25, 0.75)
    entropy = functional.binary_cross_entropy(p, target, reduction="none")
    wanted = (alpha * miss**2 * entropy).sum() / 3
    torch.testing.assert_close(losses["layer_-1_loss_cls"], wanted, **tolerances(torch.float32))


def test_final_score_is_the_product_for_the_proposed_class_alone() -> None:
    head = _head().eval()
    outputs = head(torch.randn(1, 32, *MAP_SIZE))
    found = head.predict(outputs)[0]
    labels = outputs["query_labels"][0]
    own = outputs["heatmap"][0].sigmoid().gather(0, labels[None])[0]
    seen = outputs["query_heatmap_score"][0].gather(0, labels[None])[0]
    torch.testing.assert_close(found.scores, own * seen, **tolerances(torch.float32))
    assert torch.equal(found.labels, labels)
    assert found.boxes_lidar.shape == (12, 9)


def test_boxes_without_velocity_come_padded() -> None:
    head, batch = _head(velocity=False), tiny_batch()
    outputs = head(torch.randn(2, 32, *MAP_SIZE))
    assert "vel" not in outputs
    assert head.targets(outputs, batch.boxes_lidar, batch.labels).bbox_targets.shape[-1] == 8
    head.loss(outputs, batch.boxes_lidar, batch.labels)["layer_-1_loss_bbox"].backward()
    assert (head.predict(outputs)[0].boxes_lidar[:, 7:] == 0).all()


def test_attention_values_carry_the_position_code() -> None:
    """Checked against attention written out, as published weights were trained."""
    torch.manual_seed(0)
    attention = {"embed_dims": 8, "num_heads": 2, "dropout": 0.1}
    layer = TransformerDecoderLayer(
        self_attn_cfg=attention,
        cross_attn_cfg=attention,
        ffn_cfg={"embed_dims": 8, "feedforward_channels": 16},
        pos_encoding_cfg={"input_channel": 2, "num_pos_feats": 8},
    ).eval()
    query, key = torch.randn(2, 3, 8), torch.randn(2, 7, 8)
    query_pos, key_pos = torch.rand(2, 3, 2), torch.rand(1, 7, 2)

    def attend(module: nn.Module, q: torch.Tensor, kv: torch.Tensor) -> torch.Tensor:
        attn = module.attn
        q, k, v = (
            functional.linear(x, w, b).unflatten(-1, (2, 4)).transpose(1, 2)
            for x, w, b in zip(
                (q, kv, kv),
                attn.in_proj_weight.chunk(3),
                attn.in_proj_bias.chunk(3),
                strict=True,
            )
        )
        share = (q @ k.transpose(-1, -2) / 2).softmax(-1)
        return attn.out_proj((share @ v).transpose(1, 2).flatten(2))

    qp, kp = layer.self_posembed(query_pos), layer.cross_posembed(key_pos)
    x = layer.norms[0](query + attend(layer.self_attn, query + qp, query + qp))
    x = layer.norms[1](x + attend(layer.cross_attn, x + qp, key + kp))
    hidden = layer.ffn.layers[0][0](x).relu()
    wanted = layer.norms[2](x + layer.ffn.layers[1](hidden))
    got = layer(query, key, query_pos, key_pos)
    torch.testing.assert_close(got, wanted, **tolerances(torch.float32))


def test_heatmap_bias_is_torch_default_unless_asked_for() -> None:
    assert _head().heatmap_head[1].bias.std() > 0
    head = _head(heatmap_init_bias=-2.19)
    assert (head.heatmap_head[1].bias == -2.19).all()
    assert (head.prediction_heads[0].heatmap[1].bias == -2.19).all()


def test_rejects_settings_that_contradict_each_other() -> None:
    for count in (0, 10 * 16 * 24 + 1):
        with pytest.raises(ValueError, match=rf"num_proposals must be .*10 x 16 x 24, got {count}"):
            _head(num_proposals=count)
    with pytest.raises(ValueError, match="nms_kernel_size must be odd, got 4"):
        _head(nms_kernel_size=4)
    with pytest.raises(ValueError, match=r"code_size must count what common_heads predicts \(8\)"):
        _head(common_heads={"center": [2, 2], "height": [1, 2], "dim": [3, 2], "rot": [2, 2]})
    with pytest.raises(ValueError, match=r"bev must have the cells of test_cfg \(16, 24\), got"):
        _head()(torch.zeros(1, 32, 24, 16))
    cfg = tiny_model_cfg()["bbox_head"]
    with pytest.raises(ValueError, match=r"train_cfg must describe the map of test_cfg \(16, 24\)"):
        _head(train_cfg=cfg["train_cfg"] | {"grid_size": [32, 96, 41]})
    with pytest.raises(ValueError, match=r"train_cfg: .* known keys, got 'min_radis'; try min_r"):
        _head(train_cfg=cfg["train_cfg"] | {"min_radis": 3})
    with pytest.raises(ValueError, match="nms_type must be None, circle or rotate, got 'soft'"):
        _head(test_cfg=cfg["test_cfg"] | {"nms_type": "soft"})
    with pytest.raises(ValueError, match="num_fcs must be 2, got 3"):
        FFN(num_fcs=3)
    with pytest.raises(ValueError, match="act_cfg must be of type ReLU, got 'GELU'"):
        FFN(act_cfg={"type": "GELU"})
    layer = cfg["decoder_layer"] | {"ffn_cfg": {"feedforward": 8}}
    with pytest.raises(ValueError, match=r"ffn_cfg: FFN must .* got 'feedforward'; try feedforw"):
        _head(decoder_layer=layer)
    layer = cfg["decoder_layer"] | {"norm_cfg": {"type": "BN"}}
    with pytest.raises(ValueError, match="norm_cfg must be of type LN, got 'BN'"):
        _head(decoder_layer=layer)


@pytest.mark.parametrize(
    ("dataset", "classes", "small"),
    [
        ("nuScenes", 10, [8, 9]),
        ("nuScenes", 9, []),
        ("nuScenes", 12, []),
        ("Waymo", 3, [1, 2]),
        ("Waymo", 10, []),
        ("mine", 10, []),
    ],
)
def test_small_classes_are_known_by_number_in_a_whole_list_alone(
    dataset: str, classes: int, small: list[int]
) -> None:
    cfg = HeadTestCfg([16, 24], 1, dataset)
    assert cfg.pointwise(classes) == small
    suppressed = {label for label, radius in enumerate(cfg.radius(classes)) if radius > 0}
    assert suppressed == (set(range(3)) if (dataset, classes) == ("Waymo", 3) else set(small))
    chosen = HeadTestCfg([16, 24], 1, dataset, pointwise_classes=[0], nms_radius=[2.0])
    assert (chosen.pointwise(classes), chosen.radius(classes)[:2]) == ([0], [2.0, -1.0])
