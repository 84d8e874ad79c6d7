// Kernels that ask the emulator for one thing each; main() runs the one named by its argument and
// prints what it computed.
#include <cstdio>
#include <string>
#include <vector>

#include "common/cuda/algorithms.h"
#include "common/cuda/device.h"

using namespace anybev::cuda;

namespace {

struct Heap final : Context {
  Heap() : Context(nullptr) {}
  ~Heap() override {
    for (void* block : blocks) std::free(block);
  }
  void* allocate(size_t bytes) override {
    blocks.push_back(std::calloc(bytes + 1, 1));
    return blocks.back();
  }
  std::vector<void*> blocks;
};

// Sum of the thread numbers, by halves: every step needs the barrier.
__global__ void sum_of_block(int* out, bool barrier) {
  ANYBEV_DYNAMIC_SHARED(int, value);
  const int me = threadIdx.x;
  value[me] = me;
  __syncthreads();
  for (int half = blockDim.x / 2; half > 0; half /= 2) {
    const int other = me < half ? value[me + half] : 0;
    if (barrier) __syncthreads();
    if (me < half) value[me] += other;
    if (barrier) __syncthreads();
  }
  if (me == 0) out[blockIdx.x] = value[0] + static_cast<int>(blockIdx.x);
}

__global__ void warp_calls(int* out) {
  const int me = threadIdx.x, lane = me % kWarp;
  int sum = lane;
  for (int far = 16; far > 0; far /= 2) sum += __shfl_xor_sync(kFullWarp, sum, far);
  const unsigned odd = __ballot_sync(kFullWarp, lane & 1);
  const int left = __shfl_up_sync(kFullWarp, lane, 1), third = __shfl_sync(kFullWarp, lane, 3, 8);
  int half = 0;
  if (lane < 16) half = __reduce_add_sync(0x0000ffffu, 1);
  const int here[] = {sum,  static_cast<int>(odd),
                      left, third,
                      half, static_cast<int>(__match_any_sync(kFullWarp, lane / 4))};
  for (int i = 0; i < 6; ++i) out[i * blockDim.x + me] = here[i];
}

__global__ void early_exit(int* out) {
  if (threadIdx.x >= 40) return;
  const int voters = __syncthreads_count(threadIdx.x % 2), all = __syncthreads_and(1);
  atomicAdd(out, voters * 10 + all);
}

__global__ void half_waits() {
  if (threadIdx.x < 5) __syncwarp();
  __syncthreads();
}

__global__ void reads_before_writing(unsigned* out) {
  ANYBEV_DYNAMIC_SHARED(unsigned, value);
  out[0] = value[0];
}

void print(const int* values, int count) {
  for (int i = 0; i < count; ++i) std::printf("%d ", values[i]);
  std::printf("\n");
}

}  // namespace

int main(int, char** arguments) {
  const std::string probe = arguments[1];
  Heap heap;
  int* out = heap.buffer<int>(1024);
  try {
    if (probe == "barrier" || probe == "missing barrier") {
      launch(heap, sum_of_block, 3, 64, 64 * sizeof(int), out, probe == "barrier");
      print(out, 3);
    } else if (probe == "warp") {
      launch(heap, warp_calls, 1, 64, 0, out);
      print(out, 6 * 64);
    } else if (probe == "exit") {
      launch(heap, early_exit, 1, 64, 0, out);
      print(out, 1);
    } else if (probe == "deadlock") {
      launch(heap, half_waits, 1, 32, 0);
    } else if (probe == "poison") {
      launch(heap, reads_before_writing, 1, 1, 4, reinterpret_cast<unsigned*>(out));
      print(out, 1);
    } else if (probe == "algorithms") {
      const unsigned keys[] = {5, 1, 5, 4, 1};
      const int values[] = {0, 1, 2, 3, 4};
      unsigned* sorted = heap.buffer<unsigned>(5);
      sort_pairs(heap, keys, sorted, values, out, 5, 0, 2);  // by the low two bits alone
      exclusive_sum(heap, values, out + 5, 5);
      inclusive_sum(heap, values, out + 10, 5);
      print(out, 15);
    }
  } catch (const std::exception& error) {
    std::printf("error: %s\n", error.what());
    return 1;
  }
  return 0;
}
