// Which instruction set kernels may use on this machine.
#pragma once

#include <ATen/Version.h>

#include <string>

namespace anybev {

enum class Isa { kPortable, kAvx2, kAvx512 };

// The widest set that the processor has and that torch was not told to leave alone:
// ATEN_CPU_CAPABILITY=avx2 or =default narrows our kernels together with torch's own. kAvx512
// stands for everything that *_avx512.cpp files are compiled with, so an older AVX-512 machine gets
// kAvx2.
inline Isa best_isa() {
#if defined(__x86_64__)
  static const Isa isa = [] {
    const std::string allowed = at::get_cpu_capability();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                      __builtin_cpu_supports("f16c");
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                        __builtin_cpu_supports("avx512vpopcntdq") &&
                        __builtin_cpu_supports("avx512bf16");
    if (avx2 && avx512 && allowed == "AVX512") return Isa::kAvx512;
    return avx2 && allowed != "DEFAULT" ? Isa::kAvx2 : Isa::kPortable;
  }();
  return isa;
#else
  return Isa::kPortable;
#endif
}

}  // namespace anybev
