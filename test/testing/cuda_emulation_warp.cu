// One warp's tensor-core instruction or copies, on numbers from the standard input; prints what
// each lane has afterwards. Which one is named by the argument.
#include <cstdio>
#include <string>
#include <vector>

#include "common/cuda/async_copy.h"
#include "common/cuda/mma.h"

using namespace anybev::cuda;

namespace {

struct NoMemory final : Context {
  NoMemory() : Context(nullptr) {}
  void* allocate(size_t) override { return nullptr; }
};

// in: 4 registers of the left factor, 2 of the right one and 4 sums, lane by lane.
__global__ void multiply(int kind, const unsigned* in, unsigned* out) {
  unsigned a[4], b[2];
  float sums[4];
  for (int i = 0; i < 4; ++i) a[i] = in[threadIdx.x * 10 + i];
  for (int i = 0; i < 2; ++i) b[i] = in[threadIdx.x * 10 + 4 + i];
  for (int i = 0; i < 4; ++i) sums[i] = __uint_as_float(in[threadIdx.x * 10 + 6 + i]);
  if (kind == 0) multiply_16x8x16<__half>(sums, a, b);
  if (kind == 1) multiply_16x8x16<__nv_bfloat16>(sums, a, b);
  if (kind == 2) multiply_16x8x8_tf32(sums, a, b);
  for (int i = 0; i < 4; ++i) out[threadIdx.x * 4 + i] = __float_as_uint(sums[i]);
}

__global__ void round_floats(const unsigned* in, unsigned* out) {
  out[threadIdx.x] = to_tf32(__uint_as_float(in[threadIdx.x]));
}

// in: 32 rows of 8 numbers of 16 bits, two to a word.
template <bool kTransposed>
__global__ void load(const unsigned* in, unsigned* out) {
  ANYBEV_DYNAMIC_SHARED(uint4, row);
  row[threadIdx.x] = reinterpret_cast<const uint4*>(in)[threadIdx.x];
  __syncwarp();
  load_matrices<kTransposed>(out + threadIdx.x * 4, row + threadIdx.x);
}

// Three groups of one copy each, the second without a source; what is there before any wait, when
// one group may be under way, and after the last.
__global__ void copies(const unsigned* in, unsigned* out) {
  ANYBEV_DYNAMIC_SHARED(uint4, there);
  for (int i = 0; i < 3; ++i) {
    copy_16_async(there + i, in + 4 * i, i != 1);
    end_copy_group();
  }
  for (int i = 0; i < 3; ++i) out[i] = there[i].x;
  wait_copy_groups<1>();
  for (int i = 0; i < 3; ++i) out[3 + i] = there[i].x;
  wait_copy_groups<0>();
  for (int i = 0; i < 3; ++i) out[6 + i] = there[i].x;
}

}  // namespace

int main(int, char** arguments) {
  const std::string name = arguments[1];
  alignas(16) static unsigned in[512], out[512];
  int given = 0;
  while (given < 512 && std::scanf("%u", &in[given]) == 1) ++given;
  NoMemory context;
  int count = 128;
  if (name == "half") launch(context, multiply, 1, 32, 0, 0, in, out);
  if (name == "bfloat16") launch(context, multiply, 1, 32, 0, 1, in, out);
  if (name == "tf32") launch(context, multiply, 1, 32, 0, 2, in, out);
  if (name == "matrices") launch(context, load<false>, 1, 32, 512, in, out);
  if (name == "transposed") launch(context, load<true>, 1, 32, 512, in, out);
  if (name == "round") {
    count = given;
    launch(context, round_floats, 1, given, 0, in, out);
  }
  if (name == "copies") {
    count = 9;
    launch(context, copies, 1, 1, 48, in, out);
  }
  for (int i = 0; i < count; ++i) std::printf("%u ", out[i]);
  return 0;
}
