#pragma once

#include "common/cuda/context.h"

namespace anybev::cuda {

// inside[i * boxes + j]: whether point i lies in box j. Rows of points and boxes are contiguous,
// the first three and seven columns count.
template <class T>
void points_in_boxes(Context& context, const T* point, int64_t points, int64_t point_columns,
                     const T* box, int64_t boxes, int64_t box_columns, bool* inside);

}  // namespace anybev::cuda
