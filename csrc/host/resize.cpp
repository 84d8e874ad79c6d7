// Resize as Pillow computes it (bicubic, antialiased, 8 bits between the passes), of the part that
// a crop keeps alone, and turns about the centre by the nearest pixel. Sources: Keys 1981 for the
// filter; behaviour of Pillow's Resample.c and Geometry.c.
#include "host/resize.h"

#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "common/isa.h"

namespace anybev::resize {
namespace {

constexpr double kSupport = 2.0;
constexpr int64_t kMaxSide = 1 << 15;  // keeps 16.16 fixed-point coordinates in 32 bits

double bicubic(double x) {
  constexpr double a = -0.5;
  x = std::abs(x);
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
  if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
  return 0.0;
}

// The part of one axis of the resized picture that stays: [first, last) of it go to `offset`.
struct Kept {
  int64_t first, last, offset;
  int64_t count() const { return last - first; }
};

Kept kept_part(int64_t resized, int64_t crop_first, int64_t crop_size) {
  const int64_t first = std::clamp<int64_t>(crop_first, 0, resized);
  const int64_t last = std::clamp<int64_t>(crop_first + crop_size, first, resized);
  return {first, last, first - crop_first};
}

struct Axis {
  int groups = 0;
  std::vector<int32_t> start;
  std::vector<int16_t> words;
  int32_t last_start = 0;

  Taps taps() const { return {groups, start.data(), words.data()}; }
  const int16_t* of(int64_t output) const { return words.data() + output * groups * kGroupWords; }
};

// Weights of the kept outputs, `mirrored` in reverse order, filled up to a multiple of `round_to`
// by outputs that sum nothing. Double precision in Pillow's order of operations: the rounding to
// fixed point follows.
Axis weights(int64_t in_size, int64_t out_size, const Kept& kept, bool mirrored, int64_t round_to) {
  const double scale = static_cast<double>(in_size) / static_cast<double>(out_size);
  const double filter_scale = std::max(scale, 1.0), support = kSupport * filter_scale;
  const double step = 1.0 / filter_scale;
  Axis axis;
  const int64_t most = static_cast<int64_t>(std::ceil(support)) * 2 + 1;
  axis.groups = static_cast<int>((std::min(most, in_size) + kGroup - 1) / kGroup);
  const int64_t outputs = (kept.count() + round_to - 1) / round_to * round_to;
  axis.start.assign(outputs, 0);
  axis.words.assign(outputs * axis.groups * kGroupWords, 0);
  std::vector<double> exact(most);
  for (int64_t i = 0; i < kept.count(); ++i) {
    const double centre = (static_cast<double>(kept.first + i) + 0.5) * scale;
    const int64_t low = std::max<int64_t>(static_cast<int64_t>(centre - support + 0.5), 0);
    const int64_t high = std::min<int64_t>(static_cast<int64_t>(centre + support + 0.5), in_size);
    double total = 0.0;
    for (int64_t t = 0; t < high - low; ++t) {
      exact[t] = bicubic((static_cast<double>(t + low) - centre + 0.5) * step);
      total += exact[t];
    }
    const int64_t output = mirrored ? kept.count() - 1 - i : i;
    axis.start[output] = static_cast<int32_t>(low);
    axis.last_start = std::max(axis.last_start, axis.start[output]);
    int16_t* words = axis.words.data() + output * axis.groups * kGroupWords;
    for (int64_t t = 0; t < high - low; ++t) {
      const double value = (total != 0.0 ? exact[t] / total : exact[t]) * (1 << kPrecision);
      const auto fixed = static_cast<int32_t>(value < 0 ? value - 0.5 : value + 0.5);
      int16_t* group = words + t / kGroup * kGroupWords + t % kGroup;
      group[0] = static_cast<int16_t>(fixed >> kSplit);
      group[kGroup] = static_cast<int16_t>(fixed & ((1 << kSplit) - 1));
    }
  }
  return axis;
}

Passes best_passes(bool portable) {
#if defined(__x86_64__)
  if (!portable && best_isa() != Isa::kPortable) return passes_avx2();
#endif
  return passes_portable();
}

void check_image(const at::Tensor& image, const char* name) {
  TORCH_CHECK_TYPE(image.scalar_type() == at::kByte, name, " must be uint8, got ",
                   image.scalar_type());
  TORCH_CHECK_VALUE(image.dim() == 3 && image.size(2) == kChannels && image.is_contiguous(), name,
                    " must be a contiguous (H, W, 3), got shape ", image.sizes());
  TORCH_CHECK_VALUE(image.size(0) > 0 && image.size(1) > 0 && image.size(0) < kMaxSide &&
                        image.size(1) < kMaxSide,
                    name, " must have sides in 1..", kMaxSide - 1, ", got ", image.sizes());
}

// Rows of the picture, resized along x as they are asked for, in ascending order.
class Rows {
 public:
  Rows(const at::Tensor& image, const Axis& axis, int64_t first, int64_t count, int64_t stride,
       const Passes& passes)
      : in_(image.const_data_ptr<uint8_t>()),
        row_bytes_(image.size(1) * kChannels),
        end_(in_ + image.numel()),
        taps_(axis.taps()),
        quads_(static_cast<int>(axis.start.size()) / kQuad),
        reach_((axis.last_start + axis.groups * kGroup) * kChannels + kReadBeyond),
        first_(first),
        stride_(stride),
        passes_(passes),
        done_(count * stride) {}

  // Rows up to `last`, exclusive; their first byte. Rows never made are zero.
  const uint8_t* up_to(int64_t last) {
    for (; made_ < last - first_; ++made_) {
      const uint8_t* row = in_ + (first_ + made_) * row_bytes_;
      if (end_ - row < reach_) {  // taps of weight 0 would be read outside the picture
        padded_.assign(std::max(reach_, row_bytes_), 0);
        std::memcpy(padded_.data(), row, row_bytes_);
        row = padded_.data();
      }
      passes_.row(row, taps_, quads_, done_.data() + made_ * stride_);
    }
    return done_.data();
  }

 private:
  const uint8_t* in_;
  int64_t row_bytes_;
  const uint8_t* end_;
  Taps taps_;
  int quads_;
  int64_t reach_, first_, stride_;
  Passes passes_;
  std::vector<uint8_t> done_, padded_;
  int64_t made_ = 0;
};

// out (h, w, 3) = crop of the picture resized to (height, width), its upper left corner at (top,
// left), mirrored left-right on demand; black outside. `portable` does without vector
// instructions, with the same result.
void resize_crop(const at::Tensor& image, at::Tensor out, int64_t height, int64_t width,
                 int64_t top, int64_t left, bool flip, bool portable) {
  check_image(image, "resize_crop: image");
  check_image(out, "resize_crop: out");
  TORCH_CHECK_VALUE(height > 0 && width > 0 && height < kMaxSide && width < kMaxSide,
                    "resize_crop: height and width must be in 1..", kMaxSide - 1, ", got ", height,
                    " x ", width);
  const Kept rows = kept_part(height, top, out.size(0)),
             columns = kept_part(width, left, out.size(1));
  uint8_t* target = out.mutable_data_ptr<uint8_t>();
  if (rows.count() < out.size(0) || columns.count() < out.size(1)) {
    std::memset(target, 0, out.numel());
  }
  if (rows.count() == 0 || columns.count() == 0) return;
  const Axis x = weights(image.size(1), width, columns, flip, kQuad);
  const Axis y = weights(image.size(0), height, rows, false, 1);

  const int64_t bytes = columns.count() * kChannels;
  const int blocks = static_cast<int>((x.start.size() * kChannels + kBlock - 1) / kBlock);
  const int64_t stride = static_cast<int64_t>(blocks) * kBlock;
  const int64_t first = y.start.front(), last = y.last_start + y.groups * kGroup;
  const Passes passes = best_passes(portable);
  Rows resized(image, x, first, last - first, stride, passes);
  std::vector<uint8_t> line(stride);
  const int64_t offset = flip ? out.size(1) - columns.offset - columns.count() : columns.offset;
  for (int64_t i = 0; i < rows.count(); ++i) {
    const int64_t from = y.start[i];
    const int64_t to = std::min<int64_t>(from + y.groups * kGroup, image.size(0));
    const uint8_t* made = resized.up_to(to) + (from - first) * stride;
    passes.column(made, stride, y.of(i), y.groups, blocks, line.data());
    uint8_t* row = target + ((rows.offset + i) * out.size(1) + offset) * kChannels;
    std::memcpy(row, line.data(), bytes);
  }
}

int64_t fixed(double value) { return static_cast<int64_t>(std::floor(value * 65536.0 + 0.5)); }

// out(x, y) = image(a x + b y + c, d x + e y + f) at pixel centres, the nearest pixel; black
// outside.
void turn(const at::Tensor& image, at::Tensor out, at::ArrayRef<double> matrix) {
  check_image(image, "turn: image");
  check_image(out, "turn: out");
  TORCH_CHECK_VALUE(matrix.size() == 6, "turn: matrix must be a, b, c, d, e, f, got ",
                    matrix.size(), " numbers");
  const double a = matrix[0], b = matrix[1], c = matrix[2];
  const double d = matrix[3], e = matrix[4], f = matrix[5];
  const int64_t height = image.size(0), width = image.size(1);
  const uint8_t* in = image.const_data_ptr<uint8_t>();
  uint8_t* target = out.mutable_data_ptr<uint8_t>();
  const int64_t x_step = fixed(a), y_step = fixed(d);
  int64_t x_row = fixed(c + a * 0.5 + b * 0.5), y_row = fixed(f + d * 0.5 + e * 0.5);
  std::memset(target, 0, out.numel());
  for (int64_t row = 0; row < out.size(0); ++row, x_row += fixed(b), y_row += fixed(e)) {
    const auto inside = [&](int64_t i) {
      const int64_t x = (x_row + i * x_step) >> 16, y = (y_row + i * y_step) >> 16;
      return x >= 0 && x < width && y >= 0 && y < height;
    };
    // A straight line enters the picture once and leaves it once.
    int64_t first = 0, last = out.size(1);
    while (first < last && !inside(first)) ++first;
    while (last > first && !inside(last - 1)) --last;
    uint8_t* pixel = target + (row * out.size(1) + first) * kChannels;
    int64_t x = x_row + first * x_step, y = y_row + first * y_step;
    for (int64_t i = first; i < last; ++i, pixel += kChannels, x += x_step, y += y_step) {
      const uint8_t* from = in + ((y >> 16) * width + (x >> 16)) * kChannels;
      pixel[0] = from[0];
      pixel[1] = from[1];
      pixel[2] = from[2];
    }
  }
}

TORCH_LIBRARY_FRAGMENT(anybev_host, m) {
  m.def(
      "resize_crop(Tensor image, Tensor(a!) out, int height, int width, int top, int left, bool "
      "flip, bool portable=False) -> ()",
      resize_crop);
  m.def("turn(Tensor image, Tensor(a!) out, float[] matrix) -> ()", turn);
}

}  // namespace
}  // namespace anybev::resize
