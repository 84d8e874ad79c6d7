// Copies from global to shared memory that a thread starts and later waits for, in groups.
#pragma once

#include <cstdint>

#include "common/cuda/device.h"

#ifdef ANYBEV_EMULATION
#include "async_copy_emulated.h"
#else

namespace anybev::cuda {

// Start a copy of 16 aligned bytes; `present` false writes zeros and reads nothing.
__device__ __forceinline__ void copy_16_async(void* shared, const void* global, bool present) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
               :
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(shared))), "l"(global),
                 "r"(present ? 16 : 0)
               : "memory");
}

// End this thread's current group of copies; it may be empty.
__device__ __forceinline__ void end_copy_group() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

// Wait until at most `kLeft` of this thread's last groups are under way. Other threads see the data
// after a barrier.
template <int kLeft>
__device__ __forceinline__ void wait_copy_groups() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
}

}  // namespace anybev::cuda
#endif
