// common/cuda/async_copy.h on the processor: a copy happens as late as it may, when its thread
// waits for it, so that a kernel that reads too early is found.
#pragma once

#include <vector>

#include "cuda_runtime.h"

namespace anybev::cuda {
namespace detail {

struct Copy {
  void* to;
  const void* from;
};

// Copies that threads of the running block have under way; null in place of a group's end.
inline std::vector<Copy>& copies_under_way() {
  static std::vector<Copy> of_thread[1024];
  return of_thread[threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)];
}

}  // namespace detail

inline void copy_16_async(void* shared, const void* global, bool present) {
  if ((reinterpret_cast<uintptr_t>(shared) | reinterpret_cast<uintptr_t>(global)) % 16) {
    emulation::fail("a copy of 16 bytes must go from and to multiples of 16 bytes");
  }
  detail::copies_under_way().push_back({shared, present ? global : nullptr});
}

inline void end_copy_group() { detail::copies_under_way().push_back({nullptr, nullptr}); }

template <int kLeft>
void wait_copy_groups() {
  auto& copies = detail::copies_under_way();
  auto groups = std::count_if(copies.begin(), copies.end(), [](auto& c) { return !c.to; });
  auto copy = copies.begin();
  for (; groups > kLeft; ++copy) {
    if (!copy->to) {
      --groups;
    } else if (copy->from) {
      std::memcpy(copy->to, copy->from, 16);
    } else {
      std::memset(copy->to, 0, 16);
    }
  }
  copies.erase(copies.begin(), copy);
}

}  // namespace anybev::cuda
