// Boxes as the pair loops want them. For kernel files.
#pragma once

#include "common/cuda/device.h"
#include "common/rotated_overlap.h"

namespace anybev::cuda {

template <class T>
__global__ void __launch_bounds__(256)
    prepare_box(const T* box, const int64_t* order, int64_t boxes, RotatedBox<T>* prepared) {
  for (int64_t i = first_item(); i < boxes; i += item_stride()) {
    prepared[i] = RotatedBox<T>(box + (order ? order[i] : i) * 5);
  }
}

// Boxes (x, y, dx, dy, yaw) in the given order, or, where it is null, in their own.
template <class T>
const RotatedBox<T>* prepare_boxes(Context& context, const T* box, const int64_t* order,
                                   int64_t boxes) {
  auto* prepared = context.buffer<RotatedBox<T>>(boxes);
  launch(context, prepare_box<T>, blocks_for(boxes, 256), 256, 0, box, order, boxes, prepared);
  return prepared;
}

}  // namespace anybev::cuda
