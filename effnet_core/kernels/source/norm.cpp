// BatchNorm and activation after a convolution of another kind.
#include "operator.h"
#include "threads.h"

namespace effnet {
namespace {

struct Layer {
  Settings settings;
  int64_t images, channels, size;

  Layer(const Tensors& t, int x, int values)
      : settings(t[values]), images(t.dim(x, 0)), channels(t.dim(x, 1)), size(t.size(x, 2)) {}

  int64_t at(int64_t n, int64_t c) const { return (n * channels + c) * size; }
};

void apply_channel(const Layer& layer, const Channel& channel, const float* x, float* y, int64_t c) {
  with_act(layer.settings.act, [&](auto act) {
    for (int64_t n = 0; n < layer.images; ++n) {
      apply<act.value>(channel, x + layer.at(n, c), y + layer.at(n, c), layer.size);
    }
  });
}

// Inputs x, gamma, beta, running mean, running variance, settings; outputs y and Statistics.
void train(const Tensors& t) {
  const Layer layer(t, 0, 5);
  const Statistics statistics{t[3], t[4], t[7], t[8], t[9], t[10]};
  in_parallel(layer.channels, [&](int64_t c) {
    Moments all;
    for (int64_t n = 0; n < layer.images; ++n) all.merge(moments(t[0] + layer.at(n, c), layer.size));
    const float rstd = statistics.keep(c, all, layer.settings);
    apply_channel(layer, channel_of(statistics.mean[c], rstd, t[1][c], t[2][c]), t[0], t[6], c);
  });
}

// As train, with running statistics; output y.
void infer(const Tensors& t) {
  const Layer layer(t, 0, 5);
  in_parallel(layer.channels, [&](int64_t c) {
    const float rstd = rstd_of(t[4][c], layer.settings.eps);
    apply_channel(layer, channel_of(t[3][c], rstd, t[1][c], t[2][c]), t[0], t[6], c);
  });
}

// Inputs x, gamma, beta, mean, 1 / deviation, dy, settings; outputs the gradients of x, gamma, beta.
void backward_pass(const Tensors& t) {
  const Layer layer(t, 0, 6);
  in_parallel(layer.channels, [&](int64_t c) {
    const float rstd = t[4][c];
    const Channel channel = channel_of(t[3][c], rstd, t[1][c], t[2][c]);
    Sums sums;
    with_act(layer.settings.act, [&](auto act) {
      for (int64_t n = 0; n < layer.images; ++n) {
        const int64_t i = layer.at(n, c);
        sums.add(backward_sums<act.value>(channel, t[0] + i, t[5] + i, t[7] + i, layer.size));
      }
    });
    t[8][c] = static_cast<float>(sums.dz_x * rstd);
    t[9][c] = static_cast<float>(sums.dz);
    const double count = static_cast<double>(layer.images * layer.size);
    const Backward back =
        backward_of(channel, sums, rstd, count, layer.settings.batch_statistics);
    for (int64_t n = 0; n < layer.images; ++n) {
      const int64_t i = layer.at(n, c);
      backward_from_dz(back, t[0] + i, t[7] + i, t[7] + i, layer.size);
    }
  });
}

}  // namespace
}  // namespace effnet

EFFNET_OPERATOR(effnet_norm_train) {
  return effnet::guarded([&] { effnet::train({data, ranks, shapes}); });
}

EFFNET_OPERATOR(effnet_norm_infer) {
  return effnet::guarded([&] { effnet::infer({data, ranks, shapes}); });
}

EFFNET_OPERATOR(effnet_norm_backward) {
  return effnet::guarded([&] { effnet::backward_pass({data, ranks, shapes}); });
}
