// Which cell a point falls into: the arithmetic that all voxelisers share.
#pragma once

#include <c10/util/ArrayRef.h>
#include <c10/util/Exception.h>

#include <array>
#include <cmath>
#include <cstdint>

namespace anybev {

// The compilers' own vectors: 128 bits are baseline on x86-64 and on ARM.
typedef float CellFloat4 __attribute__((vector_size(16)));
typedef int32_t CellInt4 __attribute__((vector_size(16)));

struct VoxelGrid {
  std::array<float, 3> low, size, cells;

  VoxelGrid(const char* name, c10::ArrayRef<double> voxel_size, c10::ArrayRef<double> range) {
    TORCH_CHECK_VALUE(voxel_size.size() == 3 && range.size() == 6, name,
                      ": voxel_size and point_cloud_range must be 3 and 6 numbers, got ",
                      voxel_size.size(), " and ", range.size());
    for (int axis = 0; axis < 3; ++axis) {
      const double count = std::nearbyint((range[axis + 3] - range[axis]) / voxel_size[axis]);
      TORCH_CHECK_VALUE(count >= 1 && count < (1 << 30), name, ": grid is out of range");
      low[axis] = static_cast<float>(range[axis]);
      size[axis] = static_cast<float>(voxel_size[axis]);
      cells[axis] = static_cast<float>(count);
    }
  }

  // Cells along one axis of four points, 0 where `inside` is, by lane, not all ones. For an integer
  // bound n, floor(q) in [0, n) is q in [0, n), where floor is truncation; comparisons are false
  // for NaN.
  CellInt4 cells_of(const float* const* point, int axis, CellInt4& inside) const {
    const CellFloat4 value = {point[0][axis], point[1][axis], point[2][axis], point[3][axis]};
    const CellFloat4 q = (value - low[axis]) / size[axis];
    inside = (q >= 0.0f) & (q < cells[axis]);
    return __builtin_convertvector((CellFloat4)(inside & (CellInt4)q), CellInt4);
  }
};

}  // namespace anybev
