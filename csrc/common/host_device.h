// Marks functions that processors and CUDA kernels share.
#pragma once

#ifdef __CUDACC__
#define ANYBEV_HD __host__ __device__
#else
#define ANYBEV_HD
#endif
