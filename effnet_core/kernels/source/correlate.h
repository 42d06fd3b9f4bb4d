// Depthwise convolution of one plane, forward and backward, as sums over shifted rows.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "vector.h"

namespace effnet {

constexpr int kMaxKernel = 5;
constexpr int kMaxTaps = kMaxKernel * kMaxKernel;

constexpr int64_t round_up(int64_t value, int64_t to) { return (value + to - 1) / to * to; }

// Sizes of a depthwise convolution over a plane.
struct Plane {
  int64_t height, width, out_height, out_width;
  int kernel, stride;
  int64_t top, left;  // rows and columns of zeros before the first

  Plane(int64_t height, int64_t width, int kernel, int stride, bool same)
      : height(height), width(width), kernel(kernel), stride(stride) {
    out_height = (height + stride - 1) / stride;  // either padding rounds up, as kernels are odd
    out_width = (width + stride - 1) / stride;
    top = before(height, out_height, same);
    left = before(width, out_width, same);
  }

  int64_t size() const { return height * width; }
  int64_t out_size() const { return out_height * out_width; }

 private:
  int64_t before(int64_t in, int64_t out, bool same) const {
    if (!same) return (kernel - 1) / 2;
    return std::max<int64_t>((out - 1) * stride + kernel - in, 0) / 2;
  }
};

// Rows that start `pitch` floats apart in memory, with zeros around the image.
struct Padded {
  float* data;
  int64_t rows, pitch;

  int64_t size() const { return rows * pitch; }
  void clear(int64_t more) { std::fill_n(data, size() + more, 0.0f); }
};

// A sum of rows: out[i][j] = sum over taps of weight * in[offset + i * row_step + j].
struct Taps {
  int count = 0;
  int64_t offsets[kMaxTaps];
  float weights[kMaxTaps];

  void add(int64_t offset, float weight) {
    offsets[count] = offset;
    weights[count++] = weight;
  }
};

template <int Lanes, int Rows>
EFFNET_INLINE void correlate_rows(const float* in, const Taps& taps, int64_t row_step, float* out,
                                  int64_t columns) {
  using V = Floats<Lanes>;
  for (int64_t j = 0;; j += Lanes) {
    // The last vector overlaps the one before; a plane that is narrower writes beyond its row, which the
    // next row puts right.
    if (j + Lanes > columns) j = std::max<int64_t>(columns - Lanes, 0);
    V sums[Rows] = {};
    for (int t = 0; t < taps.count; ++t) {
      const float* from = in + taps.offsets[t] + j;
      const V weight = spread<V>(taps.weights[t]);
      for (int r = 0; r < Rows; ++r) sums[r] += load<V>(from + r * row_step) * weight;
    }
    for (int r = 0; r < Rows; ++r) store(out + r * columns + j, sums[r]);
    if (j + Lanes >= columns) return;
  }
}

template <int Lanes>
void correlate_lanes(const float* in, const Taps& taps, int64_t row_step, float* out, int64_t rows,
                     int64_t columns) {
  int64_t i = 0;
  for (; i + 7 <= rows; i += 7) {
    correlate_rows<Lanes, 7>(in + i * row_step, taps, row_step, out + i * columns, columns);
  }
  for (; i + 3 <= rows; i += 3) {
    correlate_rows<Lanes, 3>(in + i * row_step, taps, row_step, out + i * columns, columns);
  }
  for (; i < rows; ++i) {
    correlate_rows<Lanes, 1>(in + i * row_step, taps, row_step, out + i * columns, columns);
  }
}

// Whether vectors of 16 waste no more lanes on a row than vectors of 8.
inline bool wide_fits(int64_t columns) {
  return kLanes == 16 && round_up(columns, 16) == round_up(columns, 8);
}

// Writes rows x columns floats, and up to kLanes more after them.
inline void correlate(const float* in, const Taps& taps, int64_t row_step, float* out, int64_t rows,
                      int64_t columns) {
  if (wide_fits(columns)) {
    correlate_lanes<kLanes>(in, taps, row_step, out, rows, columns);
  } else {
    correlate_lanes<8>(in, taps, row_step, out, rows, columns);
  }
}

// The input with its zeros. At stride 2 a row is its even columns, then its odd ones, so that a tap's
// values lie side by side.
inline Padded padded_input_shape(const Plane& p) {
  const int64_t columns = round_up(p.out_width, kLanes) + p.kernel;
  return {nullptr, (p.out_height - 1) * p.stride + p.kernel, columns * p.stride};
}

// Copies a plane to its place; all around it must be zero before. At stride 2, `row` is a row's memory,
// zero before as well.
inline void pad_input(const Plane& p, const float* x, const Padded& to, float* row) {
  const int64_t rows = std::min(p.height, to.rows - p.top), half = to.pitch / 2;
  for (int64_t i = 0; i < rows; ++i) {
    float* out = to.data + (i + p.top) * to.pitch;
    if (p.stride == 1) {
      copy_few(x + i * p.width, out + p.left, p.width);
      continue;
    }
    copy_few(x + i * p.width, row + p.left, p.width);
    const int64_t pairs = (p.left + p.width + 1) / 2;
    for (int64_t j = 0; j < pairs; ++j) {
      out[j] = row[2 * j];
      out[half + j] = row[2 * j + 1];
    }
  }
}

// Where a tap's values begin in the padded input.
inline int64_t input_offset(const Plane& p, const Padded& in, int ky, int kx) {
  if (p.stride == 1) return ky * in.pitch + kx;
  return ky * in.pitch + (kx % 2) * (in.pitch / 2) + kx / 2;
}

inline Taps forward_taps(const Plane& p, const Padded& in, const float* weights) {
  Taps taps;
  for (int ky = 0; ky < p.kernel; ++ky) {
    for (int kx = 0; kx < p.kernel; ++kx) {
      taps.add(input_offset(p, in, ky, kx), weights[ky * p.kernel + kx]);
    }
  }
  return taps;
}

inline void convolve(const Plane& p, const Padded& in, const Taps& taps, float* out) {
  correlate(in.data, taps, p.stride * in.pitch, out, p.out_height, p.out_width);
}

// The gradient of the output with zeros around it, as the gradient of the input needs it.
struct PaddedGradient : Padded {
  int64_t above, before;  // rows and columns of zeros
};

inline PaddedGradient padded_gradient_shape(const Plane& p) {
  PaddedGradient g;
  g.data = nullptr;
  if (p.stride == 1) {
    g.above = p.kernel - 1 - p.top;
    g.before = p.kernel - 1 - p.left;
    g.rows = p.height + p.kernel - 1;
    g.pitch = round_up(p.width, kLanes) + p.kernel - 1;
  } else {
    g.above = g.before = (p.kernel - 1) / 2;
    g.rows = (p.height - 1 + p.top) / 2 + 1 + g.above;
    g.rows = std::max(g.rows, g.above + p.out_height);
    const int64_t columns = std::max((p.width - 1 + p.left) / 2 + 1, p.out_width);
    g.pitch = round_up(columns, kLanes) + kLanes + g.before;
  }
  return g;
}

// As pad_input, for the gradient of the output.
inline void pad_gradient(const Plane& p, const float* du, const PaddedGradient& to) {
  for (int64_t i = 0; i < p.out_height; ++i) {
    copy_few(du + i * p.out_width, to.data + (i + to.above) * to.pitch + to.before, p.out_width);
  }
}

// One parity of the rows or columns of the input at stride 2: those i with (i + before) % 2 == parity.
struct Phase {
  int64_t first, count, start;  // first i, how many, and the output position of tap `parity` there

  Phase(int64_t size, int64_t before, int parity) {
    first = (before + parity) & 1;
    count = (size - first + 1) / 2;
    start = (first + before - parity) / 2;
  }
};

// Writes the gradient of the input, height x width floats, and up to kLanes more after them. `phases` has
// room for two planes of an input's quarter, each with kLanes more.
inline void input_gradient_of_plane(const Plane& p, const PaddedGradient& du, const float* weights,
                                    float* dx, float* phases) {
  const int k = p.kernel;
  if (p.stride == 1) {
    Taps taps;
    for (int ky = 0; ky < k; ++ky) {
      for (int kx = 0; kx < k; ++kx) {
        taps.add(ky * du.pitch + kx, weights[(k - 1 - ky) * k + k - 1 - kx]);
      }
    }
    correlate(du.data, taps, du.pitch, dx, p.height, p.width);
    return;
  }
  for (int parity_y = 0; parity_y < 2; ++parity_y) {
    const Phase rows(p.height, p.top, parity_y);
    float* columns_of[2] = {phases, phases + (p.height / 2 + 1) * (p.width / 2 + 1) + kLanes};
    int64_t counts[2] = {0, 0};
    for (int parity_x = 0; parity_x < 2; ++parity_x) {
      const Phase columns(p.width, p.left, parity_x);
      Taps taps;
      for (int ky = parity_y; ky < k; ky += 2) {
        for (int kx = parity_x; kx < k; kx += 2) {
          const int64_t row = rows.start - ky / 2 + du.above;
          taps.add(row * du.pitch + columns.start - kx / 2 + du.before, weights[ky * k + kx]);
        }
      }
      counts[columns.first] = columns.count;
      if (columns.count > 0 && rows.count > 0) {
        correlate(du.data, taps, du.pitch, columns_of[columns.first], rows.count, columns.count);
      }
    }
    for (int64_t r = 0; r < rows.count; ++r) {
      float* out = dx + (rows.first + 2 * r) * p.width;
      const float *even = columns_of[0] + r * counts[0], *odd = columns_of[1] + r * counts[1];
      for (int64_t j = 0; j < counts[1]; ++j) {
        out[2 * j] = even[j];
        out[2 * j + 1] = odd[j];
      }
      if (counts[0] > counts[1]) out[p.width - 1] = even[counts[0] - 1];
    }
  }
}

template <int Lanes, int Count>
EFFNET_INLINE void weight_gradient_taps(const Plane& p, const Padded& x, const PaddedGradient& du,
                                        const int64_t* offsets, double* dw) {
  using V = Floats<Lanes>;
  V sums[Count] = {};
  for (int64_t i = 0; i < p.out_height; ++i) {
    const float* grads = du.data + (i + du.above) * du.pitch + du.before;
    const float* values = x.data + i * p.stride * x.pitch;
    for (int64_t j = 0; j < p.out_width; j += Lanes) {  // beyond a row's end the gradient is zero
      const V grad = load<V>(grads + j);
      for (int t = 0; t < Count; ++t) sums[t] += load<V>(values + offsets[t] + j) * grad;
    }
  }
  for (int t = 0; t < Count; ++t) dw[t] += sum_of_lanes(sums[t]);
}

template <int Lanes>
void weight_gradient_lanes(const Plane& p, const Padded& x, const PaddedGradient& du,
                           const int64_t* offsets, double* dw) {
  if (p.kernel == 3) {
    weight_gradient_taps<Lanes, 9>(p, x, du, offsets, dw);
    return;
  }
  weight_gradient_taps<Lanes, 10>(p, x, du, offsets, dw);
  weight_gradient_taps<Lanes, 10>(p, x, du, offsets + 10, dw + 10);
  weight_gradient_taps<Lanes, 5>(p, x, du, offsets + 20, dw + 20);
}

// Adds this plane's share to the gradient of the weights, kernel x kernel.
inline void weight_gradient_of_plane(const Plane& p, const Padded& x, const PaddedGradient& du,
                                     double* dw) {
  int64_t offsets[kMaxTaps];
  for (int t = 0; t < p.kernel * p.kernel; ++t) {
    offsets[t] = input_offset(p, x, t / p.kernel, t % p.kernel);
  }
  if (wide_fits(p.out_width)) {
    weight_gradient_lanes<kLanes>(p, x, du, offsets, dw);
  } else {
    weight_gradient_lanes<8>(p, x, du, offsets, dw);
  }
}

}  // namespace effnet
