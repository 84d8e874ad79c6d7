#pragma once

#include "common/cuda/context.h"

namespace anybev::cuda {

// Greedy suppression of boxes (x, y, dx, dy, yaw) in the given order, best first: fills `kept` with
// the kept ones' entries of `order`, and *count, device memory as well, with how many there are.
template <class T>
void nms_rotated(Context& context, const T* box, const int64_t* order, int64_t boxes,
                 T iou_threshold, int64_t* kept, int64_t* count);

}  // namespace anybev::cuda
