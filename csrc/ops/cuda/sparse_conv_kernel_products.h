// How a block multiplies two matrices that lie in shared memory, for each kind of number: tensor
// cores for 16-bit numbers and tf32, multiply-adds of threads for exact float32 and float64.
#pragma once

#include <type_traits>

#include "common/cuda/device.h"
#include "common/cuda/mma.h"
#include "common/cuda/numbers.h"
#include "ops/cuda/sparse_conv_kernel.h"

namespace anybev::cuda {

template <class T, Product kProduct>
inline constexpr bool kTensorCores = sizeof(T) == 2 || kProduct == Product::tf32;

template <class T, int kCount>
struct alignas(kCount * sizeof(T) < 16 ? kCount * sizeof(T) : 16) Numbers {
  T x[kCount];
};

// A lane's share of (16 kSlabs x kInner) @ (kInner x kColumns) on tensor cores; the matrices are
// rows of shared memory with `stride` numbers from one to the next. The left one is stored as it is
// or, kLeftTurned, as its transposition; kRightRounded: floats of the right one are tf32 already.
template <class T, int kSlabs, int kColumns, bool kLeftTurned, bool kRightRounded>
struct WarpProduct {
  static constexpr int kTiles = kColumns / 8, kInner = sizeof(T) == 2 ? 16 : 8;
  static constexpr int kSums = kSlabs * kTiles * 4;

  // Of sum i: its row and column in the product.
  static __device__ int row(int i) { return i / (kTiles * 4) * 16 + lane() / 4 + i % 4 / 2 * 8; }
  static __device__ int column(int i) { return i / 4 % kTiles * 8 + lane() % 4 * 2 + i % 2; }

  // sums += left[:, k : k + kInner] @ right[k : k + kInner, :]; slabs of 16 rows whose bit of
  // kSlabBits is 0 are left alone.
  template <unsigned kSlabBits>
  static __device__ __forceinline__ void multiply(const T* left, int left_stride, const T* right,
                                                  int right_stride, float* sums) {
    uint32_t a[kSlabs][4];
#pragma unroll
    for (int s = 0; s < kSlabs; ++s) {
      if (kSlabBits >> s & 1) load_left(left, left_stride, s * 16, a[s]);
    }
#pragma unroll
    for (int n = 0; n < kTiles; n += 2) {
      uint32_t b[4];
      load_right(right, right_stride, n * 8, b);
#pragma unroll
      for (int s = 0; s < kSlabs; ++s) {
        if (!(kSlabBits >> s & 1)) continue;
        float* to = sums + (s * kTiles + n) * 4;
        if constexpr (sizeof(T) == 2) {
          multiply_16x8x16<T>(to, a[s], b);
          multiply_16x8x16<T>(to + 4, a[s], b + 2);
        } else {
          multiply_16x8x8_tf32(to, a[s], b);
          multiply_16x8x8_tf32(to + 4, a[s], b + 2);
        }
      }
    }
  }

 private:
  static __device__ int lane() { return threadIdx.x % kWarp; }

  static __device__ __forceinline__ void load_left(const T* left, int stride, int row,
                                                   uint32_t* a) {
    const int l = lane();
    if constexpr (sizeof(T) == 2) {
      // Matrices in the order of the fragment: rows 0-7, rows 8-15, then the same 8 columns on.
      if constexpr (kLeftTurned) {
        load_matrices<true>(a, left + (l / 16 * 8 + l % 8) * stride + row + l / 8 % 2 * 8);
      } else {
        load_matrices<false>(a, left + (row + l % 16) * stride + l / 16 * 8);
      }
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int r = row + l / 4 + i % 2 * 8, c = l % 4 + i / 2 * 4;
        a[i] = to_tf32(kLeftTurned ? left[c * stride + r] : left[r * stride + c]);
      }
    }
  }

  // Two tiles of 8 columns.
  static __device__ __forceinline__ void load_right(const T* right, int stride, int column,
                                                    uint32_t* b) {
    const int l = lane();
    if constexpr (sizeof(T) == 2) {
      load_matrices<true>(b, right + l % 16 * stride + column + l / 16 * 8);
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float x = right[(l % 4 + i % 2 * 4) * stride + column + i / 2 * 8 + l / 4];
        b[i] = kRightRounded ? __float_as_uint(x) : to_tf32(x);
      }
    }
  }
};

}  // namespace anybev::cuda
