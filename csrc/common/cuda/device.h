// What every CUDA kernel file includes: the language (nvcc's, or the emulator's when the file is
// compiled for the processor) and kernel launches. No torch header here: kernels compile in
// seconds.
#pragma once

#include <utility>

#include "common/cuda/context.h"

namespace anybev::cuda {

constexpr int kWarp = 32;
constexpr unsigned kFullWarp = 0xffffffffu;

// Blocks of `threads` that cover `count` items, at most `limit` (a kernel with a grid-stride loop
// may be given fewer than cover them).
inline unsigned blocks_for(int64_t count, int threads, int64_t limit = (int64_t{1} << 31) - 1) {
  const int64_t blocks = (count + threads - 1) / threads;
  return static_cast<unsigned>(blocks < limit ? blocks : limit);
}

// Start `kernel` on the context's stream. A grid without blocks is no launch.
template <class... Parameters, class... Arguments>
void launch(Context& context, void (*kernel)(Parameters...), dim3 grid, dim3 block,
            size_t shared_bytes, Arguments&&... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
#ifdef ANYBEV_EMULATION
  emulation::run(grid, block, shared_bytes, [&] { kernel(static_cast<Parameters>(arguments)...); });
#else
  if (shared_bytes > 48 * 1024) {
    check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                               cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shared_bytes)),
          "shared memory of a kernel");
  }
  // clang-format off
  kernel<<<grid, block, shared_bytes, context.stream>>>(
      static_cast<Parameters>(std::forward<Arguments>(arguments))...);
  // clang-format on
  check(cudaGetLastError(), "launch of a kernel");
#endif
}

// Item of a grid-stride loop: for (int64_t i = first_item(); i < n; i += item_stride()).
__device__ inline int64_t first_item() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}
__device__ inline int64_t item_stride() { return static_cast<int64_t>(gridDim.x) * blockDim.x; }

}  // namespace anybev::cuda

// Shared memory of a block, uninitialised: an array of `count`, and one whose size the launch
// gives, 16-byte aligned.
#ifdef ANYBEV_EMULATION
#define ANYBEV_SHARED(Type, name, count)                           \
  static ::anybev::emulation::Shared<Type, (count)> anybev_##name; \
  Type(&name)[count] = anybev_##name.numbers
#define ANYBEV_DYNAMIC_SHARED(Type, name) \
  Type* name = static_cast<Type*>(::anybev::emulation::dynamic_shared())
#else
#define ANYBEV_SHARED(Type, name, count) __shared__ Type name[count]
#define ANYBEV_DYNAMIC_SHARED(Type, name)                          \
  extern __shared__ __align__(16) unsigned char anybev_dynamic_[]; \
  Type* name = reinterpret_cast<Type*>(anybev_dynamic_)
#endif
