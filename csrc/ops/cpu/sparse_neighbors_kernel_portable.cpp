#include "ops/cpu/sparse_neighbors_kernel_scalar.h"

namespace anybev::sparse_neighbors {

NeighborKernels neighbor_kernels_portable() { return {find_windows_scalar, emit_pairs_scalar}; }

}  // namespace anybev::sparse_neighbors
