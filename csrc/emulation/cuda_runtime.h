// CUDA's language and the few runtime calls that the kernels use, on the processor.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <type_traits>

#define ANYBEV_EMULATION 1
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define __constant__ static

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(8) int2 {
  int x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct float3 {
  float x, y, z;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) double2 {
  double x, y;
};
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float3 make_float3(float x, float y, float z) { return {x, y, z}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

namespace anybev::emulation {

constexpr size_t kSlotBytes = 64;
struct alignas(16) Slot {
  unsigned char bytes[kSlotBytes];
};

// Run one kernel: every thread of every block calls `body`.
void run(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& body);
void* dynamic_shared();
// Memory that every block finds uninitialised.
void share(void* memory, size_t bytes);
template <class T, size_t kCount>
struct Shared {
  Shared() { share(numbers, sizeof numbers); }
  T numbers[kCount];
};
// End the kernel: the launch throws what a thread has done that hardware does not allow.
[[noreturn]] void fail(const char* what);
void block_barrier();
// Wait for the lanes of `mask`, then see what each of them gave: slots by lane.
const Slot* exchange(unsigned mask, const void* mine, size_t bytes);
// Lanes that took part in this thread's last exchange: those of its mask that have not ended.
unsigned met();
unsigned lane();

inline thread_local uint3 thread_index{}, block_index{};
inline thread_local dim3 block_size{}, grid_size{};

template <class T>
T read(const Slot* slots, unsigned lane) {
  T value;
  std::memcpy(&value, slots[lane].bytes, sizeof(T));
  return value;
}
template <class T>
T take(unsigned mask, T value, unsigned from, int width, bool inside) {
  static_assert(sizeof(T) <= kSlotBytes);
  const Slot* slots = exchange(mask, &value, sizeof(T));
  if (!inside) return value;
  if (!(met() >> from & 1)) fail("a shuffle must read a lane that takes part in it");
  return read<T>(slots, from);
}
template <class T, class Change>
T update(T* address, Change change) {
  const T before = *address;
  *address = change(before);
  return before;
}

}  // namespace anybev::emulation

#define threadIdx (::anybev::emulation::thread_index)
#define blockIdx (::anybev::emulation::block_index)
#define blockDim (::anybev::emulation::block_size)
#define gridDim (::anybev::emulation::grid_size)
constexpr int warpSize = 32;

inline void __syncthreads() { ::anybev::emulation::block_barrier(); }
int __syncthreads_count(int predicate);
inline int __syncthreads_or(int predicate) { return __syncthreads_count(predicate) != 0; }
int __syncthreads_and(int predicate);
inline void __syncwarp(unsigned mask = 0xffffffffu) {
  const char nothing = 0;
  ::anybev::emulation::exchange(mask, &nothing, 1);
}

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  const unsigned lane = ::anybev::emulation::lane(), base = lane & ~(width - 1u);
  return ::anybev::emulation::take(mask, value, base + (source & (width - 1)), width, true);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const unsigned lane = ::anybev::emulation::lane(), base = lane & ~(width - 1u);
  return ::anybev::emulation::take(mask, value, lane - delta, width, lane >= base + delta);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const unsigned lane = ::anybev::emulation::lane(), base = lane & ~(width - 1u);
  return ::anybev::emulation::take(mask, value, lane + delta, width, lane + delta < base + width);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32) {
  const unsigned lane = ::anybev::emulation::lane(), base = lane & ~(width - 1u);
  const unsigned from = lane ^ lanes;
  return ::anybev::emulation::take(mask, value, from, width, from < base + width);
}
unsigned __ballot_sync(unsigned mask, int predicate);
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) {
  return __ballot_sync(mask, predicate) == ::anybev::emulation::met();
}
unsigned __match_any_sync(unsigned mask, unsigned long long value);
template <class T>
T __reduce_add_sync(unsigned mask, T value) {
  const auto* slots = ::anybev::emulation::exchange(mask, &value, sizeof(T));
  T sum = 0;
  for (unsigned lane = 0; lane < 32; ++lane) {
    if (::anybev::emulation::met() >> lane & 1) sum += ::anybev::emulation::read<T>(slots, lane);
  }
  return sum;
}
inline unsigned __reduce_or_sync(unsigned mask, unsigned value) {
  const auto* slots = ::anybev::emulation::exchange(mask, &value, sizeof value);
  unsigned any = 0;
  for (unsigned lane = 0; lane < 32; ++lane) {
    if (::anybev::emulation::met() >> lane & 1)
      any |= ::anybev::emulation::read<unsigned>(slots, lane);
  }
  return any;
}

inline int __popc(unsigned x) { return std::popcount(x); }
inline int __popcll(unsigned long long x) { return std::popcount(x); }
inline int __ffs(int x) { return x ? std::countr_zero(static_cast<unsigned>(x)) + 1 : 0; }
inline int __ffsll(long long x) {
  return x ? std::countr_zero(static_cast<unsigned long long>(x)) + 1 : 0;
}
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
inline int __clzll(long long x) { return std::countl_zero(static_cast<unsigned long long>(x)); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
template <class T>
T __ldg(const T* address) {
  return *address;
}
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }
inline float __expf(float x) { return std::exp(x); }
inline void sincosf(float x, float* sin, float* cos) { *sin = std::sin(x), *cos = std::cos(x); }
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __trap() { std::abort(); }
using std::isfinite;
using std::isnan;
template <class T>
constexpr T min(T a, std::type_identity_t<T> b) {
  return b < a ? b : a;
}
template <class T>
constexpr T max(T a, std::type_identity_t<T> b) {
  return a < b ? b : a;
}

// Threads take turns, so that a plain read and write are one step.
template <class T>
T atomicAdd(T* address, std::type_identity_t<T> value) {
  return ::anybev::emulation::update(address, [=](T old) { return static_cast<T>(old + value); });
}
template <class T>
T atomicOr(T* address, std::type_identity_t<T> value) {
  return ::anybev::emulation::update(address, [=](T old) { return old | value; });
}
template <class T>
T atomicAnd(T* address, std::type_identity_t<T> value) {
  return ::anybev::emulation::update(address, [=](T old) { return old & value; });
}
template <class T>
T atomicMax(T* address, std::type_identity_t<T> value) {
  return ::anybev::emulation::update(address, [=](T old) { return old < value ? value : old; });
}
template <class T>
T atomicMin(T* address, std::type_identity_t<T> value) {
  return ::anybev::emulation::update(address, [=](T old) { return value < old ? value : old; });
}
template <class T>
T atomicExch(T* address, std::type_identity_t<T> value) {
  return ::anybev::emulation::update(address, [=](T) { return value; });
}
template <class T>
T atomicCAS(T* address, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
  return ::anybev::emulation::update(address, [=](T old) { return old == expected ? value : old; });
}

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess = 0 };
enum cudaMemcpyKind { cudaMemcpyDeviceToDevice, cudaMemcpyDeviceToHost, cudaMemcpyHostToDevice };
inline const char* cudaGetErrorString(cudaError_t) { return "no error"; }
inline cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
  std::memset(to, value, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind,
                                   cudaStream_t) {
  std::memmove(to, from, bytes);
  return cudaSuccess;
}
// Waits of the host for the device so far, for tests (exported under the same name).
extern "C" __attribute__((visibility("default"))) int64_t anybev_emulation_waits();
cudaError_t cudaStreamSynchronize(cudaStream_t);
