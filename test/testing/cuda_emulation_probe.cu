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

__global__ void reads_fixed_memory(unsigned* out) {
  ANYBEV_SHARED(unsigned, value, 2);
  out[blockIdx.x] = value[0];
  value[0] = 1;
}

__global__ void votes_after_an_end(int* out) {
  if (threadIdx.x < 8) return;
  const unsigned votes = __ballot_sync(kFullWarp, 1);
  const int all = __all_sync(kFullWarp, 1);
  out[threadIdx.x - 8] = static_cast<int>(votes >> 1) * all;
}

__global__ void shuffles_from(int source, unsigned mask) {
  if (threadIdx.x < 16) __shfl_sync(mask, 1, source);
}

__global__ void loads_a_vector(const float* from, float* out) {
  out[0] = reinterpret_cast<const float4*>(from)->y;
}

__global__ void shifts_by(int bits, unsigned* out) { out[0] = 1u << bits; }

__global__ void does_nothing() {}

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
    } else if (probe == "fixed poison") {
      launch(heap, reads_fixed_memory, 2, 1, 0, reinterpret_cast<unsigned*>(out));
      print(out, 2);
    } else if (probe == "ended lanes") {
      launch(heap, votes_after_an_end, 1, 32, 0, out);
      print(out, 24);
    } else if (probe == "absent lane") {
      launch(heap, shuffles_from, 1, 32, 0, 20, 0x0000ffffu);
    } else if (probe == "wrong mask") {
      launch(heap, shuffles_from, 1, 32, 0, 0, 0xffff0000u);
    } else if (probe == "high grid") {
      launch(heap, does_nothing, dim3(1, 65536), 1, 0);
    } else if (probe == "aligned load" || probe == "misaligned load") {
      const int first = probe == "aligned load" ? 0 : 1;
      auto* numbers = static_cast<float*>(heap.allocate(64));
      numbers[first + 1] = 7;
      launch(heap, loads_a_vector, 1, 1, 0, numbers + first, numbers + 8);
      std::printf("%d", static_cast<int>(numbers[8]));
    } else if (probe == "shift" || probe == "wide shift") {
      launch(heap, shifts_by, 1, 1, 0, probe == "shift" ? 3 : 32, reinterpret_cast<unsigned*>(out));
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
