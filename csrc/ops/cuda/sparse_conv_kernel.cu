// Sparse convolution: a block owns the 128 output rows of a tile and up to 128 output channels.
// From the tile's pair lists it makes a table in shared memory, then multiplies, for each kernel
// offset that occurs, the gathered feature rows by that offset's weight: masked implicit GEMM.
// Sums stay in registers, in the order of the offsets, whatever the launch: the same bits each run.
#include "common/cuda/async_copy.h"
#include "ops/cuda/sparse_conv_kernel_tile.h"

namespace anybev::cuda {
namespace {

constexpr int kStages = 3;  // pairs of matrices that are loaded or multiplied at a time

template <class T>
struct ConvArguments {
  SparsePairs pairs;
  const T* features;
  int channels;
  const T* weight;   // [offset][depth][width], zeros beyond the weight's own
  int depth, width;  // multiples of kDepth and kColumns
  const Sum<T>* bias;
  int outputs;
  T* out;
};

// The steps of a block: offsets that occur, and parts of kDepth channels of each.
struct Steps {
  __device__ void next(int parts) {
    if (++part == parts) part = 0, present &= present - 1;
  }
  __device__ int offset() const { return __ffs(static_cast<int>(present)) - 1; }

  unsigned present;
  int part;
};

template <class T, int kColumns, int kDepth, Product kProduct>
struct Stage {
  using Tile = TileProduct<T, kColumns, kDepth, kProduct>;
  alignas(16) T left[kRows * Tile::kLeftStride];
  alignas(16) T right[kDepth * Tile::kRightStride];

  // Start the copies of a step: gathered rows (absent ones as zeros) and the weight.
  __device__ __forceinline__ void load(const ConvArguments<T>& conv, const Table& table, int first,
                                       const Steps& at) {
    constexpr int kPiece = 16 / sizeof(T), kPieces = kDepth / kPiece;
    const int k = at.offset();
    const unsigned slabs = table.slabs[k];
#pragma unroll
    for (int i = threadIdx.x; i < kRows * kPieces; i += Tile::kThreads) {
      const int row = i / kPieces, piece = i % kPieces * kPiece;
      if (!(slabs >> row / kSlabRows & 1)) continue;  // nobody reads it
      const int source = table.source[k][row], channel = at.part * kDepth + piece;
      const bool present = source >= 0 && channel < conv.channels;
      const T* from = conv.features + (present ? int64_t{source} * conv.channels + channel : 0);
      copy_16_async(left + row * Tile::kLeftStride + piece, from, present);
    }
    constexpr int kAcross = kColumns / kPiece;
    const T* weight = conv.weight +
                      (int64_t{first + k} * conv.depth + at.part * kDepth) * conv.width +
                      blockIdx.y * kColumns;
#pragma unroll
    for (int i = threadIdx.x; i < kDepth * kAcross; i += Tile::kThreads) {
      const int row = i / kAcross, piece = i % kAcross * kPiece;
      copy_16_async(right + row * Tile::kRightStride + piece,
                    weight + int64_t{row} * conv.width + piece, true);
    }
  }
};

template <class T>
__device__ T rounded(Sum<T> sum) {
  return sum;
}
template <>
__device__ __half rounded<__half>(float sum) {
  return __float2half_rn(sum);
}
template <>
__device__ __nv_bfloat16 rounded<__nv_bfloat16>(float sum) {
  return __float2bfloat16_rn(sum);
}

// Two neighbouring columns of a row, the first of them even; those beyond the last are left out.
template <class T>
__device__ __forceinline__ void store_pair(const Numbers<T, 2>& pair, T* row, int column,
                                           int columns) {
  if (columns % 2 == 0) {
    if (column < columns) *reinterpret_cast<Numbers<T, 2>*>(row + column) = pair;
  } else {
    if (column < columns) row[column] = pair.x[0];
    if (column + 1 < columns) row[column + 1] = pair.x[1];
  }
}

template <class T, int kColumns, int kDepth, Product kProduct>
__global__ void __launch_bounds__(TileProduct<T, kColumns, kDepth, kProduct>::kThreads, 1)
    convolve(ConvArguments<T> conv) {
  using Tile = TileProduct<T, kColumns, kDepth, kProduct>;
  using Matrices = Stage<T, kColumns, kDepth, kProduct>;
  ANYBEV_DYNAMIC_SHARED(Matrices, stage);
  Table& table = *reinterpret_cast<Table*>(stage + kStages);
  const int first_column = blockIdx.y * kColumns, parts = conv.depth / kDepth;
  const int lane = threadIdx.x % kWarp;

  Sum<T> sums[Tile::kSums];
#pragma unroll
  for (int i = 0; i < Tile::kSums; ++i) {
    const int column = first_column + Tile::column(i);
    sums[i] = conv.bias && column < conv.outputs ? conv.bias[column] : Sum<T>(0);
  }
  if (threadIdx.x < kRows / 32) table.damaged[threadIdx.x] = 0;
  for (int first = 0; first < conv.pairs.offsets; first += kOffsetsAtOnce) {
    const int count = min(kOffsetsAtOnce, conv.pairs.offsets - first);
    expand(conv.pairs, first, count, table);
    const unsigned present = __ballot_sync(kFullWarp, lane < count && table.slabs[lane]);
    const int steps = __popc(present) * parts;
    Steps loaded{present, 0}, used{present, 0};
    for (int step = 0; step < steps + kStages - 1; ++step) {
      // The first rounds only load, the last ones only multiply.
      if (step >= kStages - 1) {
        wait_copy_groups<kStages - 2>();
        __syncthreads();
      }
      if (step < steps) {
        stage[step % kStages].load(conv, table, first, loaded);
        loaded.next(parts);
      }
      end_copy_group();
      if (step >= kStages - 1) {
        const Matrices& matrices = stage[(step - kStages + 1) % kStages];
        __syncwarp();  // lanes that loaded nothing are ahead
        Tile::multiply(matrices.left, matrices.right, table.slabs[used.offset()], sums);
        used.next(parts);
      }
    }
    __syncthreads();  // the table and the stages are free again
  }

  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * kRows;
#pragma unroll
  for (int i = 0; i < Tile::kSums; i += 2) {
    const int row = Tile::row(i), column = first_column + Tile::column(i);
    if (first_row + row >= conv.pairs.rows) continue;
    const bool damaged = table.damaged[row / 32] >> row % 32 & 1;
    const Sum<T> nan = static_cast<Sum<T>>(NAN);
    const Numbers<T, 2> pair{
        {rounded<T>(damaged ? nan : sums[i]), rounded<T>(damaged ? nan : sums[i + 1])}};
    store_pair(pair, conv.out + (first_row + row) * conv.outputs, column, conv.outputs);
  }
}

// Weight of any strides -> [offset][depth][width], zeros where there is none.
template <class T, Product kProduct>
__global__ void __launch_bounds__(256)
    pack_weight(ConvWeight<T> weight, int64_t count, int depth, int width, T* to) {
  for (int64_t i = first_item(); i < count; i += item_stride()) {
    const int64_t output = i % width, input = i / width % depth, k = i / width / depth;
    T value = T(0.0f);
    if (output < weight.outputs && input < weight.inputs) {
      value = weight.data[output * weight.step_output + k * weight.step_offset +
                          input * weight.step_input];
    }
    if constexpr (kProduct == Product::tf32) value = __uint_as_float(to_tf32(value));
    to[i] = value;
  }
}

constexpr int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

template <class T, int kColumns, int kDepth, Product kProduct>
void run(Context& context, const T* features, int64_t channels, const ConvWeight<T>& weight,
         const Sum<T>* bias, const SparsePairs& pairs, T* out) {
  const int64_t depth = round_up(weight.inputs, kDepth);
  const int64_t width = round_up(weight.outputs, kColumns);
  const int64_t numbers = pairs.offsets * depth * width;
  T* packed = context.buffer<T>(numbers);
  launch(context, pack_weight<T, kProduct>, blocks_for(numbers, 256), 256, 0, weight, numbers,
         depth, width, packed);
  const ConvArguments<T> conv{pairs,
                              features,
                              static_cast<int>(channels),
                              packed,
                              static_cast<int>(depth),
                              static_cast<int>(width),
                              bias,
                              static_cast<int>(weight.outputs),
                              out};
  const dim3 grid(static_cast<unsigned>(pairs.tiles()), static_cast<unsigned>(width / kColumns));
  launch(context, convolve<T, kColumns, kDepth, kProduct>, grid,
         TileProduct<T, kColumns, kDepth, kProduct>::kThreads,
         kStages * sizeof(Stage<T, kColumns, kDepth, kProduct>) + sizeof(Table), conv);
}

// 16-bit numbers: a row of a stage is 32 or 64 bytes.
template <class T, class... Arguments>
void run_half(int64_t inputs, int64_t outputs, Arguments&&... arguments) {
  if (inputs <= 16 && outputs <= 16) {
    run<T, 16, 16, Product::exact>(arguments...);
  } else if (inputs <= 16 && outputs <= 32) {
    run<T, 32, 16, Product::exact>(arguments...);
  } else if (outputs <= 16) {
    run<T, 16, 32, Product::exact>(arguments...);
  } else if (outputs <= 32) {
    run<T, 32, 32, Product::exact>(arguments...);
  } else if (outputs <= 64) {
    run<T, 64, 32, Product::exact>(arguments...);
  } else {
    run<T, 128, 32, Product::exact>(arguments...);
  }
}

template <class... Arguments>
void run_tf32(int64_t outputs, Arguments&&... arguments) {
  if (outputs <= 16) {
    run<float, 16, 16, Product::tf32>(arguments...);
  } else if (outputs <= 32) {
    run<float, 32, 16, Product::tf32>(arguments...);
  } else if (outputs <= 64) {
    run<float, 64, 16, Product::tf32>(arguments...);
  } else {
    run<float, 128, 16, Product::tf32>(arguments...);
  }
}

template <class T, class... Arguments>
void run_exact(int64_t outputs, Arguments&&... arguments) {
  constexpr int kDepth = 64 / sizeof(T);
  if (outputs <= 32) {
    run<T, 32, kDepth, Product::exact>(arguments...);
  } else {
    run<T, 64, kDepth, Product::exact>(arguments...);
  }
}

}  // namespace

template <class T>
void sparse_conv(Context& context, const T* features, int64_t channels, const ConvWeight<T>& weight,
                 const Sum<T>* bias, const SparsePairs& pairs, Product product, T* out) {
  if (pairs.rows == 0 || weight.outputs == 0) return;
  if constexpr (sizeof(T) == 2) {
    run_half<T>(weight.inputs, weight.outputs, context, features, channels, weight, bias, pairs,
                out);
  } else if constexpr (sizeof(T) == 4) {
    if (product == Product::tf32) {
      run_tf32(weight.outputs, context, features, channels, weight, bias, pairs, out);
    } else {
      run_exact<T>(weight.outputs, context, features, channels, weight, bias, pairs, out);
    }
  } else {
    run_exact<T>(weight.outputs, context, features, channels, weight, bias, pairs, out);
  }
}

#define ANYBEV_INSTANTIATE(T)                                                                 \
  template void sparse_conv(Context&, const T*, int64_t, const ConvWeight<T>&, const Sum<T>*, \
                            const SparsePairs&, Product, T*);
ANYBEV_INSTANTIATE(float)
ANYBEV_INSTANTIATE(double)
ANYBEV_INSTANTIATE(__half)
ANYBEV_INSTANTIATE(__nv_bfloat16)
#undef ANYBEV_INSTANTIATE

}  // namespace anybev::cuda
