"""What the models of ``host_families`` call, as ``host_runs.run`` recorded it."""

#: Names of ``mmcv._ext`` called by loss, backward and predict.
CALLS: dict[str, tuple[str, ...]] = {
    "dgcnn": (
        "group_points_backward",
        "group_points_forward",
        "knn_forward",
    ),
    "fcos3d": (
        "modulated_deform_conv_backward",
        "modulated_deform_conv_forward",
    ),
    "minkunet": (),
    "pgd": (
        "modulated_deform_conv_backward",
        "modulated_deform_conv_forward",
        "nms_rotated",
    ),
    "smoke": (
        "modulated_deform_conv_backward",
        "modulated_deform_conv_forward",
    ),
    "votenet": (
        "ball_query_forward",
        "furthest_point_sampling_forward",
        "gather_points_backward",
        "gather_points_forward",
        "group_points_backward",
        "group_points_forward",
        "three_interpolate_backward",
        "three_interpolate_forward",
        "three_nn_forward",
    ),
}
#: Classes of sparse layers in the model.
LAYERS: dict[str, tuple[str, ...]] = {
    "dgcnn": (),
    "fcos3d": (),
    "minkunet": (
        "SparseConv3d",
        "SparseInverseConv3d",
        "SubMConv3d",
    ),
    "pgd": (),
    "smoke": (),
    "votenet": (),
}
