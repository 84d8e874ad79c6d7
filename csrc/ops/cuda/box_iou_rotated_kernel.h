#pragma once

#include "common/cuda/context.h"

namespace anybev::cuda {

// overlap[i * columns + j]: IoU, or shared area, of box i of `row` and box j of `column`; boxes are
// five numbers (x, y, dx, dy, yaw) each.
template <class T>
void box_iou_rotated(Context& context, const T* row, int64_t rows, const T* column, int64_t columns,
                     bool as_iou, T* overlap);

}  // namespace anybev::cuda
