// Stored numbers, and the numbers that they are summed in: float64 for float64, else float32.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cmath>

namespace anybev::cuda {

template <class T>
struct SumOf {
  using Type = float;
};
template <>
struct SumOf<double> {
  using Type = double;
};
template <class T>
using Sum = typename SumOf<T>::Type;

__device__ inline float to_sum(float x) { return x; }
__device__ inline double to_sum(double x) { return x; }
__device__ inline float to_sum(__half x) { return __half2float(x); }
__device__ inline float to_sum(__nv_bfloat16 x) { return __bfloat162float(x); }

template <class T>
__device__ T from_sum(Sum<T> x) {
  return x;
}
template <>
__device__ inline __half from_sum<__half>(float x) {
  return __float2half_rn(x);
}
template <>
__device__ inline __nv_bfloat16 from_sum<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}

// One rounding.
__device__ inline float multiply_add(float a, float b, float sum) { return fmaf(a, b, sum); }
__device__ inline double multiply_add(double a, double b, double sum) { return fma(a, b, sum); }

}  // namespace anybev::cuda
