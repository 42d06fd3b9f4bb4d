// Depthwise convolution, BatchNorm and activation as one operator. All three treat each channel apart, so
// one thread does a whole channel, whose images stay in its cache, and the convolution's own output is
// never written to memory: the backward pass computes it again.
#include "depthwise.h"

namespace effnet {
namespace {

// A channel of a tensor in memory.
struct Stored {
  const Depthwise& layer;
  int64_t c;
  const float* x;
  float* dx;

  const float* plane(int64_t n) const { return x + layer.at(n, c); }
  void take(int64_t n, const float* gradient) const {
    std::memcpy(dx + layer.at(n, c), gradient, static_cast<size_t>(layer.plane.size()) * sizeof(float));
  }
};

// Inputs x, weight, gamma, beta, running mean, running variance, settings; outputs y and Statistics.
void train(const Tensors& t) {
  const Depthwise layer(t, 0, 1, 6);
  const Statistics statistics{t[4], t[5], t[8], t[9], t[10], t[11]};
  in_parallel(layer.channels, [&](int64_t c) {
    Stored source{layer, c, t[0], nullptr};
    train_channel(layer, source, c, t[1] + c * layer.taps, statistics, t[2][c], t[3][c], t[7]);
  });
}

// As train, with running statistics; output y.
void infer(const Tensors& t) {
  const Depthwise layer(t, 0, 1, 6);
  const int64_t size = layer.plane.out_size();
  in_parallel(layer.channels, [&](int64_t c) {
    Stored source{layer, c, t[0], nullptr};
    const float* u = convolve_channel(layer, source, t[1] + c * layer.taps);
    const float rstd = rstd_of(t[5][c], layer.settings.eps);
    const Channel channel = channel_of(t[4][c], rstd, t[2][c], t[3][c]);
    with_act(layer.settings.act, [&](auto act) {
      for (int64_t n = 0; n < layer.images; ++n) {
        apply<act.value>(channel, u + n * size, t[7] + layer.out_at(n, c), size);
      }
    });
  });
}

// Inputs x, weight, gamma, beta, mean, 1 / deviation, dy, settings; outputs the gradients of x, weight,
// gamma, beta.
void backward_pass(const Tensors& t) {
  const Depthwise layer(t, 0, 1, 7);
  in_parallel(layer.channels, [&](int64_t c) {
    Stored source{layer, c, t[0], t[8]};
    const Channel channel = channel_of(t[4][c], t[5][c], t[2][c], t[3][c]);
    backward_channel(layer, source, c, t[1] + c * layer.taps, channel, t[5][c], t[6],
                     t[9] + c * layer.taps, t[10], t[11]);
  });
}

}  // namespace
}  // namespace effnet

EFFNET_OPERATOR(effnet_depthwise_train) {
  return effnet::guarded([&] { effnet::train({data, ranks, shapes}); });
}

EFFNET_OPERATOR(effnet_depthwise_infer) {
  return effnet::guarded([&] { effnet::infer({data, ranks, shapes}); });
}

EFFNET_OPERATOR(effnet_depthwise_backward) {
  return effnet::guarded([&] { effnet::backward_pass({data, ranks, shapes}); });
}
