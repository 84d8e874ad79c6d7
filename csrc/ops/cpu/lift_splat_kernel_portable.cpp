// Any processor: 16-byte vectors that the compiler lowers to what it has; float32 and float64.
#include <cmath>
#include <cstring>

#include "ops/cpu/lift_splat_kernel_table.h"

namespace anybev::lift_splat {
namespace {

template <class T>
struct Bytes16 {
  typedef T Vector __attribute__((vector_size(16)));
  using Number = T;
  static constexpr int kLanes = 16 / sizeof(T);
  static constexpr int kVectors = 10;
  static constexpr int kGradVectors = 4;
  static constexpr int kTile = 4;

  static ANYBEV_INLINE Vector load(const T* p) {
    Vector v;
    std::memcpy(&v, p, sizeof(v));
    return v;
  }
  static ANYBEV_INLINE void store(T* p, Vector v) { std::memcpy(p, &v, sizeof(v)); }
  static ANYBEV_INLINE Vector load_partial(const T* p, int64_t count) {
    Vector v{};
    for (int64_t i = 0; i < count; ++i) v[i] = p[i];
    return v;
  }
  static ANYBEV_INLINE void store_partial(T* p, int64_t count, Vector v) {
    for (int64_t i = 0; i < count; ++i) p[i] = v[i];
  }
  static ANYBEV_INLINE Vector spread(T x) { return x - Vector{}; }
  static ANYBEV_INLINE Vector multiply_add(Vector a, Vector b, Vector sum) { return a * b + sum; }
  static ANYBEV_INLINE Vector max(Vector a, Vector b) { return a > b ? a : b; }
  static ANYBEV_INLINE Vector exp(Vector x) {
    for (int i = 0; i < kLanes; ++i) x[i] = std::exp(x[i]);
    return x;
  }
  static ANYBEV_INLINE T max_lane(Vector v) {
    T largest = v[0];
    for (int i = 1; i < kLanes; ++i) largest = v[i] > largest ? v[i] : largest;
    return largest;
  }
  static ANYBEV_INLINE T sum_lanes(Vector v) {
    T sum = v[0];
    for (int i = 1; i < kLanes; ++i) sum += v[i];
    return sum;
  }
  static ANYBEV_INLINE Vector sum_each(const Vector* part) {
    Vector sums;
    for (int i = 0; i < kLanes; ++i) sums[i] = sum_lanes(part[i]);
    return sums;
  }
  static ANYBEV_INLINE void transpose(const T* from, int64_t from_stride, T* to,
                                      int64_t to_stride) {
    for (int i = 0; i < kTile; ++i) {
      for (int j = 0; j < kTile; ++j) to[j * to_stride + i] = from[i * from_stride + j];
    }
  }
  static ANYBEV_INLINE uint32_t changes(const int32_t* cells) {
    uint32_t bits = 0;
    for (int i = 0; i < 16; ++i) bits |= static_cast<uint32_t>(cells[i] != cells[i + 1]) << i;
    return bits;
  }
};

}  // namespace

const LiftKernels<float> kFloatLiftPortable = lift_kernels<Bytes16<float>>();
const LiftKernels<double> kDoubleLiftPortable = lift_kernels<Bytes16<double>>();

}  // namespace anybev::lift_splat
