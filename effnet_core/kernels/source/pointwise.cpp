// 1x1 convolution, BatchNorm and activation as one operator: products of matrices over blocks of pixels
// that fit into the cache. The backward pass makes the gradient of the convolution's output block by
// block, uses it for both products, and never writes it to memory.
#include "pointwise.h"

#include "gemm.h"
#include "threads.h"

namespace effnet {
namespace {

constexpr int64_t kBlockFloats = 96 * 1024;  // of a block of columns: what a core's own cache holds
constexpr int64_t kBlockColumns = 512;

// Slots of scratch memory: of the calling thread, and of each working one.
enum CallerSlot { kStrips = 4, kPartials = 5, kBack = 6 };
enum WorkerSlot { kInput, kGradient, kTurned };

struct Layer : Pointwise {
  Settings settings;

  Layer(const Tensors& t, int x, int w, int values) : Pointwise(t, x, w), settings(t[values]) {}
};

// Columns of a block that has so many rows.
int64_t columns_of_block(int64_t rows) {
  const int64_t fit = kBlockFloats / rows / kPanel * kPanel;
  return std::clamp<int64_t>(fit, kPanel, kBlockColumns / kPanel * kPanel);
}

// y = change(strips * x), by blocks of columns.
template <typename Change>
void convolve(const Pointwise& l, const float* x, const float* strips, float* y, Change change) {
  const int64_t block = columns_of_block(l.in_channels), blocks = (l.columns() + block - 1) / block;
  in_parallel(blocks, [&](int64_t b) {
    thread_local std::vector<Piece> pieces;
    const int64_t begin = b * block, end = std::min(begin + block, l.columns());
    cut_into_pieces(begin, end, l.size, pieces);
    float* panels = scratch(kInput, l.in_channels * panels_of(block) * kPanel);
    pack_columns(x, l.in_channels, l.size, pieces, panels);
    multiply_block(strips, l.out_channels, l.in_channels, panels, pieces, l.size, y, change);
  });
}

float* strips_of_weights(const Pointwise& l, const float* weights) {
  float* strips = scratch(kStrips, strips_of(l.out_channels) * kTileRows * l.in_channels);
  pack_rows(weights, l.out_channels, l.in_channels, l.in_channels, 1, strips);
  return strips;
}

// Inputs x, weight, gamma, beta, running mean, running variance, settings; outputs y, the convolution's
// own output u, and Statistics.
void train(const Tensors& t) {
  const Layer l(t, 0, 1, 6);
  float *y = t[7], *u = t[8];
  const Statistics statistics{t[4], t[5], t[9], t[10], t[11], t[12]};
  pointwise_product(l, t[0], t[1], u);
  in_parallel(l.out_channels, [&](int64_t c) {
    Moments all;
    for (int64_t n = 0; n < l.images; ++n) all.merge(moments(u + l.out_at(n, c), l.size));
    const float rstd = statistics.keep(c, all, l.settings);
    const Channel channel = channel_of(statistics.mean[c], rstd, t[2][c], t[3][c]);
    with_act(l.settings.act, [&](auto act) {
      for (int64_t n = 0; n < l.images; ++n) {
        apply<act.value>(channel, u + l.out_at(n, c), y + l.out_at(n, c), l.size);
      }
    });
  });
}

// As train, with running statistics, folded into the weights; output y.
void infer(const Tensors& t) {
  const Layer l(t, 0, 1, 6);
  const int64_t C = l.in_channels, M = l.out_channels;
  float* folded = scratch(kPartials, M * C + M);
  float* shifts = folded + M * C;
  for (int64_t m = 0; m < M; ++m) {
    const float factor = t[2][m] * rstd_of(t[5][m], l.settings.eps);
    shifts[m] = t[3][m] - t[4][m] * factor;
    for (int64_t c = 0; c < C; ++c) folded[m * C + c] = t[1][m * C + c] * factor;
  }
  const float* strips = strips_of_weights(l, folded);
  with_act(l.settings.act, [&](auto act) {
    convolve(l, t[0], strips, t[7],
             [&](int64_t row, Wide value) { return activate<act.value>(value + shifts[row]); });
  });
}

// The gradient of u for a block of columns, in panels.
template <Act act>
void gradient_panels(const Pointwise& l, const Backward* back, const float* u, const float* dy,
                     const std::vector<Piece>& pieces, float* panels) {
  for_runs(l.out_channels, l.size, pieces, [&](int64_t m, int64_t from, int64_t to, int64_t count) {
    if (count == kPanel) {
      backward<act>(back[m], u + from, dy + from, panels + to, kPanel);
    } else {
      backward<act>(back[m], u + from, dy + from, panels + to, count);
    }
  });
  clear_rest(l.out_channels, pieces, panels);
}

// What each channel's gradient is made with; writes the gradients of gamma and beta.
const Backward* channel_gradients(const Layer& l, const Tensors& t) {
  float* memory = scratch(kBack, l.out_channels * static_cast<int64_t>(sizeof(Backward) / sizeof(float)));
  auto* back = reinterpret_cast<Backward*>(memory);
  in_parallel(l.out_channels, [&](int64_t c) {
    const float rstd = t[5][c];
    const Channel channel = channel_of(t[4][c], rstd, t[2][c], t[3][c]);
    Sums sums;
    with_act(l.settings.act, [&](auto act) {
      for (int64_t n = 0; n < l.images; ++n) {
        const int64_t at = l.out_at(n, c);
        sums.add(backward_sums<act.value>(channel, t[6] + at, t[7] + at, nullptr, l.size));
      }
    });
    t[11][c] = static_cast<float>(sums.dz_x * rstd);
    t[12][c] = static_cast<float>(sums.dz);
    back[c] = backward_of(channel, sums, rstd, static_cast<double>(l.columns()),
                          l.settings.batch_statistics);
  });
  return back;
}

// Inputs x, weight, gamma, beta, mean, 1 / deviation, u, dy, settings; outputs the gradients of x, weight,
// gamma, beta.
void backward_pass(const Tensors& t) {
  const Layer l(t, 0, 1, 8);
  const Backward* back = channel_gradients(l, t);
  pointwise_gradients(l, l.settings.act, back, {t[0], t[1], t[6], t[7]}, t[9], t[10]);
}

}  // namespace

void pointwise_product(const Pointwise& l, const float* x, const float* weights, float* u) {
  convolve(l, x, strips_of_weights(l, weights), u, [](int64_t, Wide value) { return value; });
}

void pointwise_gradients(const Pointwise& l, Act act, const Backward* back, const PointwiseInputs& in,
                         float* dx, float* dw) {
  const int64_t C = l.in_channels, M = l.out_channels;
  float* strips = scratch(kStrips, strips_of(C) * kTileRows * M);
  pack_rows(in.weights, C, M, 1, C, strips);

  const bool turn_input = C <= M;  // the smaller is turned, and lies along the vectors of the product
  const int64_t tall = turn_input ? M : C, flat = turn_input ? C : M;
  const int64_t width = panels_of(flat) * kPanel, partial = tall * width;
  const int64_t block = columns_of_block(C + M + width);
  const int64_t blocks = (l.columns() + block - 1) / block;
  const int64_t ranges = std::min<int64_t>(thread_count(), blocks);
  float* partials = scratch(kPartials, ranges * partial);
  in_parallel(ranges, [&](int64_t range) {
    thread_local std::vector<Piece> pieces;
    const int64_t panel_floats = panels_of(block) * kPanel;
    float* input = scratch(kInput, C * panel_floats);
    float* gradient = scratch(kGradient, M * panel_floats);
    float* turned = scratch(kTurned, width * panel_floats);
    float* total = partials + range * partial;
    std::memset(total, 0, static_cast<size_t>(partial) * sizeof(float));
    const Range mine = share(blocks, range, ranges);
    for (int64_t b = mine.begin; b < mine.end; ++b) {
      const int64_t begin = b * block, end = std::min(begin + block, l.columns());
      const int64_t panels = panels_of(end - begin);
      cut_into_pieces(begin, end, l.size, pieces);
      pack_columns(in.x, C, l.size, pieces, input);
      with_act(act, [&](auto constant) {
        gradient_panels<constant.value>(l, back, in.u, in.dy, pieces, gradient);
      });
      multiply_block(strips, C, M, gradient, pieces, l.size, dx,
                     [](int64_t, Wide value) { return value; });
      turn_panels(turn_input ? input : gradient, flat, panels, turned);
      add_outer_products(turn_input ? gradient : input, tall, turned, flat, panels, total);
    }
  });
  for (int64_t range = 1; range < ranges; ++range) {
    for (int64_t i = 0; i < partial; ++i) partials[i] += partials[range * partial + i];
  }
  for (int64_t m = 0; m < M; ++m) {
    for (int64_t c = 0; c < C; ++c) {
      dw[m * C + c] = turn_input ? partials[m * width + c] : partials[c * width + m];
    }
  }
}

}  // namespace effnet

EFFNET_OPERATOR(effnet_pointwise_train) {
  return effnet::guarded([&] { effnet::train({data, ranks, shapes}); });
}

EFFNET_OPERATOR(effnet_pointwise_infer) {
  return effnet::guarded([&] { effnet::infer({data, ranks, shapes}); });
}

EFFNET_OPERATOR(effnet_pointwise_backward) {
  return effnet::guarded([&] { effnet::backward_pass({data, ranks, shapes}); });
}
