// Rotated suppression: for a panel of the ranked boxes, one bit a pair says who would suppress
// whom; then one block walks the panel, 64 boxes at a time, and takes along what is already
// suppressed.
#include "ops/cuda/nms_rotated_kernel.h"
#include "ops/cuda/rotated_boxes.h"

namespace anybev::cuda {
namespace {

using Word = unsigned long long;

constexpr int kBlock = 64;  // boxes of a word
constexpr int kWalkThreads = 1024;
constexpr int64_t kPanel = 4096;  // boxes
constexpr int64_t kPanelWords = int64_t{1} << 24;

// suppresses[(i - first) * words + w]: which boxes of word w box i would suppress, for words from
// its own on. Boxes that are already suppressed are left out.
template <class T>
__global__ void __launch_bounds__(kBlock)
    compare_boxes(const RotatedBox<T>* box, int64_t boxes, int64_t first, int64_t words,
                  T iou_threshold, const Word* suppressed, Word* suppresses) {
  ANYBEV_SHARED(RotatedBox<T>, others, kBlock);
  const int lane = threadIdx.x;
  const int64_t own_word = first / kBlock + blockIdx.y, word = own_word + blockIdx.x;
  if (word >= words) return;
  const int64_t i = own_word * kBlock + lane, other = word * kBlock + lane;
  if (other < boxes) others[lane] = box[other];
  __syncthreads();
  if (i >= boxes) return;
  Word found = 0;
  if (!(suppressed[own_word] >> lane & 1)) {
    const RotatedBox<T> own = box[i];
    const Word gone = suppressed[word];
    const int count = static_cast<int>(min(boxes - word * kBlock, int64_t{kBlock}));
    for (int j = word == own_word ? lane + 1 : 0; j < count; ++j) {
      if (gone >> j & 1) continue;
      if (rotated_iou(own, others[j]) > iou_threshold) found |= Word{1} << j;
    }
  }
  suppresses[(i - first) * words + word] = found;
}

// One block; `count` boxes are kept before.
__global__ void __launch_bounds__(kWalkThreads)
    keep_greedily(const Word* suppresses, int64_t boxes, int64_t first, int64_t last, int64_t words,
                  const int64_t* order, Word* suppressed, int64_t* kept, int64_t* count) {
  ANYBEV_SHARED(Word, among, kBlock);
  ANYBEV_SHARED(Word, chosen, 1);
  const int thread = threadIdx.x;
  int64_t before = *count;
  for (int64_t begin = first; begin < last; begin += kBlock) {
    const int64_t own_word = begin / kBlock;
    const int members = static_cast<int>(min(last - begin, int64_t{kBlock}));
    if (thread < members) among[thread] = suppresses[(begin - first + thread) * words + own_word];
    __syncthreads();
    if (thread == 0) {
      Word gone = suppressed[own_word], keep = 0;
      for (int i = 0; i < members; ++i) {
        if (gone >> i & 1) continue;
        keep |= Word{1} << i;
        gone |= among[i];
      }
      chosen[0] = keep;
    }
    __syncthreads();
    const Word keep = chosen[0];
    if (thread < kBlock && keep >> thread & 1) {
      const int rank = __popcll(keep & ((Word{1} << thread) - 1));
      kept[before + rank] = order[begin + thread];
    }
    before += __popcll(keep);
    for (int64_t word = own_word + 1 + thread; word < words; word += kWalkThreads) {
      Word gone = suppressed[word];
      for (Word left = keep; left; left &= left - 1) {
        gone |= suppresses[(begin - first + __ffsll(left) - 1) * words + word];
      }
      suppressed[word] = gone;
    }
    __syncthreads();
  }
  if (thread == 0) *count = before;
}

}  // namespace

template <class T>
void nms_rotated(Context& context, const T* box, const int64_t* order, int64_t boxes,
                 T iou_threshold, int64_t* kept, int64_t* count) {
  fill_bytes(context, count, 0, sizeof(int64_t));
  if (boxes == 0) return;
  const int64_t words = (boxes + kBlock - 1) / kBlock;
  const int64_t fit = std::max<int64_t>(kPanelWords / words / kBlock * kBlock, kBlock);
  const int64_t panel = std::min(std::min(kPanel, fit), words * kBlock);
  const RotatedBox<T>* ranked = prepare_boxes(context, box, order, boxes);
  Word* suppressed = context.buffer<Word>(words);
  Word* suppresses = context.buffer<Word>(panel * words);
  fill_bytes(context, suppressed, 0, words * sizeof(Word));
  for (int64_t first = 0; first < boxes; first += panel) {
    const int64_t last = std::min(first + panel, boxes);
    const dim3 grid(static_cast<unsigned>(words - first / kBlock),
                    blocks_for(last - first, kBlock));
    launch(context, compare_boxes<T>, grid, kBlock, 0, ranked, boxes, first, words, iou_threshold,
           suppressed, suppresses);
    launch(context, keep_greedily, 1, kWalkThreads, 0, suppresses, boxes, first, last, words, order,
           suppressed, kept, count);
  }
}

template void nms_rotated(Context&, const float*, const int64_t*, int64_t, float, int64_t*,
                          int64_t*);
template void nms_rotated(Context&, const double*, const int64_t*, int64_t, double, int64_t*,
                          int64_t*);

}  // namespace anybev::cuda
