// Tensor-core products of a warp. Who holds which element is the PTX ISA's ("Matrix fragments for
// mma.m16n8k16" and "... mma.m16n8k8"), with group = lane / 4 and member = lane % 4. For a product
// (16 x K) @ (K x 8) each lane holds, of
//   left, 16-bit:  {rows group, group + 8} x {columns 2 member, + 1}, then the same 8 columns on
//   left, tf32:    rows {group, group + 8} at column member, then the same 4 columns on
//   right, 16-bit: rows {2 member, + 1} of column group, then the same 8 rows on
//   right, tf32:   row member of column group, then 4 rows on
//   sums:          row group, columns {2 member, + 1}, then the same 8 rows on
// Of two 16-bit numbers in a register the lower half is the first.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#ifdef ANYBEV_EMULATION
#include "mma_emulated.h"
#else

namespace anybev::cuda {

// sums += left (16 x 16) @ right (16 x 8); products exact, added in float32.
template <class T>
__device__ __forceinline__ void multiply_16x8x16(float* sums, const uint32_t* left,
                                                 const uint32_t* right);
template <>
__device__ __forceinline__ void multiply_16x8x16<__half>(float* sums, const uint32_t* left,
                                                         const uint32_t* right) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right[0]), "r"(right[1]));
}
template <>
__device__ __forceinline__ void multiply_16x8x16<__nv_bfloat16>(float* sums, const uint32_t* left,
                                                                const uint32_t* right) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right[0]), "r"(right[1]));
}

// sums += left (16 x 8) @ right (8 x 8), of floats that `to_tf32` has rounded.
__device__ __forceinline__ void multiply_16x8x8_tf32(float* sums, const uint32_t* left,
                                                     const uint32_t* right) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right[0]), "r"(right[1]));
}

// A float32 rounded to 10 bits of mantissa, ties away from zero, as the bits of a float32.
__device__ __forceinline__ uint32_t to_tf32(float value) {
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
  return bits;
}

// Four 8 x 8 matrices of 16-bit numbers in shared memory; lane l gives the address of row l % 8 of
// matrix l / 8 (16 bytes, aligned). Register m gets columns {2 member, + 1} of row `group` of
// matrix m; transposed, rows {2 member, + 1} of column `group`.
template <bool kTransposed>
__device__ __forceinline__ void load_matrices(uint32_t* to, const void* row) {
  const auto from = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  if constexpr (kTransposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(from)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(from)
                 : "memory");
  }
}

}  // namespace anybev::cuda
#endif
