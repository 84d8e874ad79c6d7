// The kernel table of one vector type.
#pragma once

#include "ops/cpu/lift_splat_kernel_gradient.h"
#include "ops/cpu/lift_splat_kernel_splat.h"

namespace anybev::lift_splat {

template <class V>
constexpr LiftKernels<typename V::Number> lift_kernels() {
  return {[](const Problem& p) { return Scratch<V>(p, nullptr).bytes; },
          &Block<V>::columns_together, &splat<V>, &gradient<V>};
}

}  // namespace anybev::lift_splat
