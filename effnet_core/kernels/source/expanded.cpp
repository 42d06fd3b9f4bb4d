// An expansion and the depthwise layer after it as one operator: 1x1 convolution, BatchNorm, activation,
// depthwise convolution, BatchNorm, activation. Only the first convolution's output is written to memory. The
// depthwise part activates it while a channel lies in the cache; backward it also multiplies with the
// slope there, so that the expansion's gradients need one pass over memory in place of two.
#include <vector>

#include "depthwise.h"
#include "pointwise.h"

namespace effnet {
namespace {

// A channel that is activated as it is read; its gradient becomes that of BatchNorm's output.
template <Act act>
struct Activated {
  const Depthwise& layer;
  int64_t c;
  const float* u;
  Channel channel;
  float* dz = nullptr;
  Sums sums{};

  float* slopes(int64_t n) const {
    const int64_t size = layer.plane.size();
    return scratch(kSlopes, layer.images * size) + n * size;
  }
  const float* plane(int64_t n) const {
    const float* x = u + layer.at(n, c);
    float* y = scratch(kActivated, layer.plane.size());
    if (dz == nullptr) {
      apply<act>(channel, x, y, layer.plane.size());
    } else {
      apply_with_slope<act>(channel, x, y, slopes(n), layer.plane.size());
    }
    return y;
  }
  void take(int64_t n, const float* gradient) {
    const int64_t at = layer.at(n, c);
    sums.add(
        backward_sums_of_slopes(channel, u + at, gradient, slopes(n), dz + at, layer.plane.size()));
  }
};

// Inputs x; weight, gamma, beta, running mean, running variance of the expansion; the same of the depthwise
// layer; settings, whose stride is the latter's. Outputs y, the expansion's u, and Statistics of both.
void train(const Tensors& t) {
  const Pointwise expansion(t, 0, 1);
  float* u = t[13];
  pointwise_product(expansion, t[0], t[1], u);
  const Depthwise layer(t, 13, 6, 11);
  const Statistics first{t[4], t[5], t[14], t[15], t[16], t[17]};
  const Statistics second{t[9], t[10], t[18], t[19], t[20], t[21]};
  in_parallel(layer.channels, [&](int64_t c) {
    Moments all;
    for (int64_t n = 0; n < layer.images; ++n) {
      all.merge(moments(u + layer.at(n, c), layer.plane.size()));
    }
    const float rstd = first.keep(c, all, layer.settings);
    const Channel channel = channel_of(first.mean[c], rstd, t[2][c], t[3][c]);
    with_act(layer.settings.act, [&](auto act) {
      Activated<act.value> source{layer, c, u, channel};
      train_channel(layer, source, c, t[6] + c * layer.taps, second, t[7][c], t[8][c], t[12]);
    });
  });
}

// Inputs x; weight, gamma, beta of both; mean and 1 / deviation of both; u, dy, settings. Outputs the gradients
// of x and of weight, gamma, beta of both, and memory of u's size.
void backward_pass(const Tensors& t) {
  const Pointwise expansion(t, 0, 1);
  const Depthwise layer(t, 11, 4, 13);
  const float* u = t[11];
  float* dz = t[21];
  std::vector<Backward> back(static_cast<size_t>(layer.channels));
  in_parallel(layer.channels, [&](int64_t c) {
    const Channel first = channel_of(t[7][c], t[8][c], t[2][c], t[3][c]);
    const Channel second = channel_of(t[9][c], t[10][c], t[5][c], t[6][c]);
    with_act(layer.settings.act, [&](auto act) {
      Activated<act.value> source{layer, c, u, first, dz};
      backward_channel(layer, source, c, t[4] + c * layer.taps, second, t[10][c], t[12],
                       t[18] + c * layer.taps, t[19], t[20]);
      t[16][c] = static_cast<float>(source.sums.dz_x * t[8][c]);
      t[17][c] = static_cast<float>(source.sums.dz);
      back[static_cast<size_t>(c)] =
          backward_of(first, source.sums, t[8][c], static_cast<double>(expansion.columns()),
                      layer.settings.batch_statistics);
    });
  });
  pointwise_gradients(expansion, Act::kNone, back.data(), {t[0], t[1], u, dz}, t[14], t[15]);
}

}  // namespace
}  // namespace effnet

EFFNET_OPERATOR(effnet_expanded_train) {
  return effnet::guarded([&] { effnet::train({data, ranks, shapes}); });
}

EFFNET_OPERATOR(effnet_expanded_backward) {
  return effnet::guarded([&] { effnet::backward_pass({data, ranks, shapes}); });
}
