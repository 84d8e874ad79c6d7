// Any processor: 16-byte vectors that the compiler lowers to what it has; halves one by one.
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <cstring>

#include "ops/cpu/bev_pool_kernel_rows.h"

namespace anybev::bev_pool {
namespace {

template <class Number>
struct Bytes16 {
  typedef Number Vector __attribute__((vector_size(16)));
  using Stored = Number;
  using Sum = Number;
  static constexpr int64_t kLanes = 16 / sizeof(Number);
  static ANYBEV_INLINE Vector load_sum(const Sum* p) {
    Vector v;
    std::memcpy(&v, p, sizeof(v));
    return v;
  }
  static ANYBEV_INLINE void store_sum(Sum* p, Vector v) { std::memcpy(p, &v, sizeof(v)); }
  static ANYBEV_INLINE Vector load(const Stored* p) { return load_sum(p); }
  static ANYBEV_INLINE Sum load_one(const Stored* p) { return *p; }
  static ANYBEV_INLINE void store(Stored* p, Vector v) { store_sum(p, v); }
  static ANYBEV_INLINE void store_one(Stored* p, Sum v) { *p = v; }
};

template <class Number>
struct OneByOne {
  using Stored = Number;
  using Sum = float;
  static constexpr int64_t kLanes = 1;
  static ANYBEV_INLINE float load_sum(const Sum* p) { return *p; }
  static ANYBEV_INLINE void store_sum(Sum* p, float v) { *p = v; }
  static ANYBEV_INLINE float load(const Stored* p) { return static_cast<float>(*p); }
  static ANYBEV_INLINE float load_one(const Stored* p) { return load(p); }
  static ANYBEV_INLINE void store(Stored* p, float v) { *p = Number(v); }
  static ANYBEV_INLINE void store_one(Stored* p, float v) { store(p, v); }
};

}  // namespace

const Kernels kDouble = kernels<Bytes16<double>>();
const FloatSet kPortable = {kernels<Bytes16<float>>(), kernels<OneByOne<c10::Half>>(),
                            kernels<OneByOne<c10::BFloat16>>()};

}  // namespace anybev::bev_pool
