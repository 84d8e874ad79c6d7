// Rotated overlap: boxes are prepared once, then each thread holds a column and walks rows.
#include "ops/cuda/box_iou_rotated_kernel.h"
#include "ops/cuda/rotated_boxes.h"

namespace anybev::cuda {
namespace {

constexpr int kColumns = 128, kRows = 16;  // of a block
constexpr int64_t kMostGridRows = 65535;

template <class T>
__global__ void __launch_bounds__(kColumns)
    overlap_pairs(const RotatedBox<T>* row, int64_t rows, const RotatedBox<T>* column,
                  int64_t columns, bool as_iou, T* overlap) {
  const int64_t j = first_item();
  if (j >= columns) return;
  const RotatedBox<T> own = column[j];
  for (int64_t first = int64_t{blockIdx.y} * kRows; first < rows;
       first += int64_t{gridDim.y} * kRows) {
    const int64_t last = min(first + kRows, rows);
    for (int64_t i = first; i < last; ++i) {
      overlap[i * columns + j] =
          as_iou ? rotated_iou(row[i], own) : rotated_intersection(row[i], own);
    }
  }
}

}  // namespace

template <class T>
void box_iou_rotated(Context& context, const T* row, int64_t rows, const T* column, int64_t columns,
                     bool as_iou, T* overlap) {
  if (rows == 0 || columns == 0) return;
  const RotatedBox<T>* a = prepare_boxes(context, row, nullptr, rows);
  const RotatedBox<T>* b = prepare_boxes(context, column, nullptr, columns);
  const dim3 grid(blocks_for(columns, kColumns), blocks_for(rows, kRows, kMostGridRows));
  launch(context, overlap_pairs<T>, grid, kColumns, 0, a, rows, b, columns, as_iou, overlap);
}

template void box_iou_rotated(Context&, const float*, int64_t, const float*, int64_t, bool, float*);
template void box_iou_rotated(Context&, const double*, int64_t, const double*, int64_t, bool,
                              double*);

}  // namespace anybev::cuda
