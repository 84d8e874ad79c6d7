"""scatter_points through ``mx_driving.unique_voxel`` and ``mx_driving.dynamic_scatter``.

dynamic_scatter takes three columns of 11, 11 and 8 bits and no sample. Rows are therefore numbered
by the contract's own linear key, which orders them as their coordinates do, and the key is handed
over in those three columns: any number of columns works as long as the cells they span are fewer
than 2^30. Rows without a voxel are left out first. The kernel takes float32, to which half
precision is raised; which value a maximum over NaN has is not documented. The gradient is a gather
and runs on the reference.
"""

import torch
from torch import Tensor

from anybev.device.npu import limits
from anybev.device.npu.adapters import vendor, vendor_kernels
from anybev.device.ops.scatter_points import decode_keys, linear_keys


def scatter_points(
    features: Tensor, coords: Tensor, reduce: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See the contract."""
    limits.require_work(*features.shape)
    limits.require_single("features", features)
    most, channels = limits.SCATTER_CHANNELS, features.shape[1]
    limits.require(channels <= most, f"channels must be at most {most}", channels)
    index = (coords >= 0).all(1).nonzero().squeeze(1)
    limits.require_work(len(index))
    key, low, extents = linear_keys(coords[index])
    cells = 1
    for extent in extents:
        cells *= extent
    limits.require(cells <= limits.PACKED, f"cells must be at most {limits.PACKED}", cells)
    key = key.int()
    count, voxels, start, order, _ = vendor().unique_voxel(key)
    counts = torch.cat([start, start.new_full((1,), len(index))]).diff().int()
    owner = torch.arange(count, dtype=torch.int32, device=key.device)
    owner = owner.repeat_interleave(counts, output_size=len(index))
    point2voxel = torch.full_like(coords[:, 0], -1, dtype=torch.int32)
    point2voxel[index[order.long()]] = owner
    packed = vendor_kernels().voxel_to_point(key, [], [], "XYZ").contiguous()
    values = features.float()[index].contiguous()
    reduced, _ = vendor().dynamic_scatter(values, packed, reduce)
    return reduced, decode_keys(voxels.long(), low, extents).to(coords.dtype), point2voxel, counts
