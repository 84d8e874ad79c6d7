// Gradient of the sparse convolution's weight: for each kernel offset the product of gathered
// gradient rows, turned, and gathered feature rows. The tiles are cut into a fixed number of chunks
// by the sizes alone; a block sums one chunk of one offset into its part of a workspace, and the
// chunks are added in order: the same bits each run.
#include <algorithm>

#include "common/cuda/async_copy.h"
#include "ops/cuda/sparse_conv_kernel_products.h"

namespace anybev::cuda {
namespace {

constexpr int kTileRows = SparsePairs::kTileRows, kStages = 3;
constexpr int kTilesAtOnce = 8;  // whose pairs of the offset are listed together
// Blocks that keep a device busy, and bytes of workspace that more chunks may take.
constexpr int64_t kWantedBlocks = 2048, kWorkspaceBytes = int64_t{64} << 20;

// How a block of threads shares a kSide x kSide part of the gradient.
template <class T, int kSide, Product kProduct>
struct SideProduct {
  // Two by two warps.
  static constexpr int kThreads = 4 * kWarp, kHalf = kSide / 2, kStride = kSide + 8;
  static constexpr int kPairs = 64 / sizeof(T);  // of one stage
  using Warp = WarpProduct<T, kHalf / 16, kHalf, true, false>;
  static constexpr int kSums = Warp::kSums;

  static __device__ int row(int i) { return threadIdx.x / kWarp / 2 * kHalf + Warp::row(i); }
  static __device__ int column(int i) { return threadIdx.x / kWarp % 2 * kHalf + Warp::column(i); }

  static __device__ __forceinline__ void multiply(const T* grad, const T* features, float* sums) {
    grad += threadIdx.x / kWarp / 2 * kHalf;
    features += threadIdx.x / kWarp % 2 * kHalf;
#pragma unroll
    for (int k = 0; k < kPairs; k += Warp::kInner) {
      Warp::template multiply<(1u << kHalf / 16) - 1>(grad + k * kStride, kStride,
                                                      features + k * kStride, kStride, sums);
    }
  }
};

// The same by threads: 16 x 16 of them.
template <class T, int kSide>
  requires(sizeof(T) > 2)
struct SideProduct<T, kSide, Product::exact> {
  static constexpr int kThreads = 256, kWide = kSide / 16, kStride = kSide + 16 / sizeof(T);
  static constexpr int kPairs = 64 / sizeof(T), kSums = kWide * kWide;
  using Share = Numbers<T, kWide>;

  static __device__ int row(int i) { return threadIdx.x / 16 * kWide + i / kWide; }
  static __device__ int column(int i) { return threadIdx.x % 16 * kWide + i % kWide; }

  static __device__ __forceinline__ void multiply(const T* grad, const T* features, T* sums) {
#pragma unroll 4
    for (int k = 0; k < kPairs; ++k) {
      const auto a = *reinterpret_cast<const Share*>(grad + k * kStride + row(0));
      const auto b = *reinterpret_cast<const Share*>(features + k * kStride + column(0));
#pragma unroll
      for (int i = 0; i < kSums; ++i) {
        sums[i] = multiply_add(a.x[i / kWide], b.x[i % kWide], sums[i]);
      }
    }
  }
};

template <class T>
struct GradArguments {
  SparsePairs pairs;
  const T *features, *grad;
  int channels, grad_channels;  // of a row in memory
  int inputs, outputs;
  int64_t groups;  // of kTilesAtOnce tiles
  int chunks;
  Sum<T>* partial;  // [chunk][offset][outputs][inputs]
};

// Pairs of one offset in a group of tiles, in order; what names nothing that exists is left out.
struct MergedPairs {
  int32_t source[kTilesAtOnce * kTileRows];
  int32_t row[kTilesAtOnce * kTileRows];  // counted from the first row of the group
  int begin[kTilesAtOnce], first[kTilesAtOnce + 1];
  int damaged;
};

__device__ void collect(const SparsePairs& pairs, int64_t first_tile, int offset,
                        MergedPairs& merged) {
  const int tiles = static_cast<int>(min(int64_t{kTilesAtOnce}, pairs.tiles() - first_tile));
  if (threadIdx.x < kWarp) {
    const int lane = threadIdx.x;
    int begin = 0, count = 0;
    if (lane < tiles) {
      const int64_t list = (first_tile + lane) * pairs.offsets + offset;
      begin = pairs.start[list];
      count = pairs.start[list + 1] - begin;
      const bool sound =
          begin >= 0 && count >= 0 && count <= kTileRows && int64_t{begin} + count <= pairs.count;
      if (!sound) merged.damaged = 1, count = 0;
    }
    int sum = count;
    for (int step = 1; step < kTilesAtOnce; step *= 2) {
      const int below = __shfl_up_sync(kFullWarp, sum, step);
      if (lane >= step) sum += below;
    }
    if (lane < kTilesAtOnce) {
      merged.begin[lane] = begin;
      merged.first[lane + 1] = sum;
      if (lane == 0) merged.first[0] = 0;
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < tiles * kTileRows; i += blockDim.x) {
    const int tile = i / kTileRows, p = i % kTileRows;
    if (p >= merged.first[tile + 1] - merged.first[tile]) continue;
    int32_t source = pairs.source[merged.begin[tile] + p];
    const int row = pairs.row[merged.begin[tile] + p];
    const int64_t height = min(int64_t{kTileRows}, pairs.rows - (first_tile + tile) * kTileRows);
    if (source < 0 || source >= pairs.sources || row < 0 || row >= height) {
      merged.damaged = 1;
      source = -1;
    }
    merged.source[merged.first[tile] + p] = source;
    merged.row[merged.first[tile] + p] = tile * kTileRows + row;
  }
  __syncthreads();
}

template <class T, int kSide, Product kProduct>
struct GradStage {
  using Side = SideProduct<T, kSide, kProduct>;
  alignas(16) T grad[Side::kPairs * Side::kStride];
  alignas(16) T features[Side::kPairs * Side::kStride];

  // Start the copies of kPairs pairs: their channels from `output` and `input` on, zeros beyond.
  __device__ __forceinline__ void load(const GradArguments<T>& conv, const MergedPairs& merged,
                                       int first_pair, int64_t first_row, int output, int input) {
    constexpr int kPiece = 16 / sizeof(T), kPieces = kSide / kPiece;
    const int count = merged.first[kTilesAtOnce];
    for (int i = threadIdx.x; i < Side::kPairs * kPieces; i += Side::kThreads) {
      const int pair = i / kPieces, piece = i % kPieces * kPiece;
      const int32_t source = first_pair + pair < count ? merged.source[first_pair + pair] : -1;
      const int64_t row = source < 0 ? 0 : first_row + merged.row[first_pair + pair];
      copy(grad + pair * Side::kStride + piece, conv.grad, conv.grad_channels, row, output + piece,
           source >= 0);
      copy(features + pair * Side::kStride + piece, conv.features, conv.channels, source,
           input + piece, source >= 0);
    }
  }

 private:
  static __device__ __forceinline__ void copy(T* to, const T* from, int channels, int64_t row,
                                              int channel, bool present) {
    present = present && channel < channels;
    copy_16_async(to, from + (present ? row * channels + channel : 0), present);
  }
};

// Block (part of the gradient, offset, chunk).
template <class T, int kSide, Product kProduct>
__global__ void __launch_bounds__(SideProduct<T, kSide, kProduct>::kThreads)
    sum_chunk(GradArguments<T> conv) {
  using Side = SideProduct<T, kSide, kProduct>;
  using Matrices = GradStage<T, kSide, kProduct>;
  ANYBEV_DYNAMIC_SHARED(Matrices, stage);
  MergedPairs& merged = *reinterpret_cast<MergedPairs*>(stage + kStages);
  const int across = (conv.inputs + kSide - 1) / kSide;
  const int output = blockIdx.x / across * kSide, input = blockIdx.x % across * kSide;
  const int offset = blockIdx.y;
  const int64_t chunk = blockIdx.z;

  Sum<T> sums[Side::kSums];
#pragma unroll
  for (int i = 0; i < Side::kSums; ++i) sums[i] = 0;
  if (threadIdx.x == 0) merged.damaged = 0;
  __syncthreads();
  for (int64_t group = conv.groups * chunk / conv.chunks;
       group < conv.groups * (chunk + 1) / conv.chunks; ++group) {
    collect(conv.pairs, group * kTilesAtOnce, offset, merged);
    const int64_t first_row = group * kTilesAtOnce * kTileRows;
    const int steps = (merged.first[kTilesAtOnce] + Side::kPairs - 1) / Side::kPairs;
    for (int step = 0; step < steps + kStages - 1; ++step) {
      if (step >= kStages - 1) {
        wait_copy_groups<kStages - 2>();
        __syncthreads();
      }
      if (step < steps) {
        stage[step % kStages].load(conv, merged, step * Side::kPairs, first_row, output, input);
      }
      end_copy_group();
      if (step >= kStages - 1) {
        const Matrices& matrices = stage[(step - kStages + 1) % kStages];
        __syncwarp();
        Side::multiply(matrices.grad, matrices.features, sums);
      }
    }
    __syncthreads();  // the list and the stages are free again
  }

  const bool damaged = merged.damaged;
#pragma unroll
  for (int i = 0; i < Side::kSums; ++i) {
    const int o = output + Side::row(i), c = input + Side::column(i);
    if (o >= conv.outputs || c >= conv.inputs) continue;
    const int64_t at = ((chunk * conv.pairs.offsets + offset) * conv.outputs + o) * conv.inputs + c;
    conv.partial[at] = damaged ? static_cast<Sum<T>>(NAN) : sums[i];
  }
}

// partial [chunk][offset][output][input] -> out [output][offset][input], chunks in order.
template <class T>
__global__ void __launch_bounds__(256) add_chunks(const T* partial, int chunks, int64_t offsets,
                                                  int64_t outputs, int64_t inputs, T* out) {
  const int64_t numbers = offsets * outputs * inputs;
  for (int64_t i = first_item(); i < numbers; i += item_stride()) {
    T sum = partial[i];
    for (int c = 1; c < chunks; ++c) sum += partial[c * numbers + i];
    const int64_t input = i % inputs, output = i / inputs % outputs, k = i / inputs / outputs;
    out[(output * offsets + k) * inputs + input] = sum;
  }
}

template <class T, int kSide, Product kProduct>
void run(Context& context, GradArguments<T> conv, Sum<T>* out) {
  const int64_t offsets = conv.pairs.offsets;
  const int64_t numbers = offsets * conv.outputs * conv.inputs;
  const int64_t parts =
      int64_t{(conv.outputs + kSide - 1) / kSide} * ((conv.inputs + kSide - 1) / kSide);
  const int64_t wanted = (kWantedBlocks + parts * offsets - 1) / (parts * offsets);
  const int64_t room = kWorkspaceBytes / (numbers * static_cast<int64_t>(sizeof(Sum<T>)));
  conv.groups = (conv.pairs.tiles() + kTilesAtOnce - 1) / kTilesAtOnce;
  conv.chunks = static_cast<int>(std::max<int64_t>(1, std::min({conv.groups, wanted, room})));
  conv.partial = context.buffer<Sum<T>>(numbers * conv.chunks);
  const dim3 grid(static_cast<unsigned>(parts), static_cast<unsigned>(offsets),
                  static_cast<unsigned>(conv.chunks));
  launch(context, sum_chunk<T, kSide, kProduct>, grid, SideProduct<T, kSide, kProduct>::kThreads,
         kStages * sizeof(GradStage<T, kSide, kProduct>) + sizeof(MergedPairs), conv);
  launch(context, add_chunks<Sum<T>>, blocks_for(numbers, 256), 256, 0, conv.partial, conv.chunks,
         offsets, conv.outputs, conv.inputs, out);
}

template <class T, Product kProduct>
void run_side(Context& context, const GradArguments<T>& conv, Sum<T>* out) {
  if (std::max(conv.inputs, conv.outputs) <= 32) {
    run<T, 32, kProduct>(context, conv, out);
  } else {
    run<T, 64, kProduct>(context, conv, out);
  }
}

}  // namespace

template <class T>
void sparse_conv_grad_weight(Context& context, const T* features, int64_t channels, int64_t inputs,
                             const T* grad, int64_t grad_channels, int64_t outputs,
                             const SparsePairs& pairs, Product product, Sum<T>* out) {
  if (outputs == 0 || inputs == 0 || pairs.offsets == 0) return;
  GradArguments<T> conv{};
  conv.pairs = pairs;
  conv.features = features;
  conv.grad = grad;
  conv.channels = static_cast<int>(channels);
  conv.grad_channels = static_cast<int>(grad_channels);
  conv.inputs = static_cast<int>(inputs);
  conv.outputs = static_cast<int>(outputs);
  if constexpr (sizeof(T) == 4) {
    if (product == Product::tf32) return run_side<T, Product::tf32>(context, conv, out);
  }
  run_side<T, Product::exact>(context, conv, out);
}

#define ANYBEV_INSTANTIATE(T)                                                                    \
  template void sparse_conv_grad_weight(Context&, const T*, int64_t, int64_t, const T*, int64_t, \
                                        int64_t, const SparsePairs&, Product, Sum<T>*);
ANYBEV_INSTANTIATE(float)
ANYBEV_INSTANTIATE(double)
ANYBEV_INSTANTIATE(__half)
ANYBEV_INSTANTIATE(__nv_bfloat16)
#undef ANYBEV_INSTANTIATE

}  // namespace anybev::cuda
