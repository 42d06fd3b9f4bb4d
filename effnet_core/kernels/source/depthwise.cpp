// Depthwise convolution, BatchNorm and activation as one operator. All three treat each channel apart, so
// one thread does a whole channel, whose images stay in its cache, and the convolution's own output is
// never written to memory: the backward pass computes it again.
#include "correlate.h"
#include "operator.h"
#include "threads.h"

namespace effnet {
namespace {

enum Slot { kInput, kConvolved, kGradient, kPaddedGradient, kInputGradient, kPhases };

struct Layer {
  Settings settings;
  Plane plane;
  int64_t images, channels, taps;

  Layer(const Tensors& t, int x, int w, int values)
      : settings(t[values]),
        plane(t.dim(x, 2), t.dim(x, 3), static_cast<int>(t.dim(w, 2)), settings.stride,
              settings.same_padding),
        images(t.dim(x, 0)),
        channels(t.dim(x, 1)),
        taps(t.dim(w, 2) * t.dim(w, 3)) {}

  int64_t count() const { return images * plane.out_size(); }
};

// Convolves the images of one channel into scratch memory, one after the other.
float* convolve_channel(const Layer& layer, const float* x, const float* weights, int64_t c) {
  const Plane& p = layer.plane;
  Padded padded = padded_input_shape(p);
  padded.data = scratch(kInput, padded.size() + padded.pitch);
  padded.clear(padded.pitch);
  float* row = padded.data + padded.size();
  float* out = scratch(kConvolved, layer.count() + kLanes);
  const Taps taps = forward_taps(p, padded, weights + c * layer.taps);
  for (int64_t n = 0; n < layer.images; ++n) {
    pad_input(p, x + (n * layer.channels + c) * p.size(), padded, row);
    convolve(p, padded, taps, out + n * p.out_size());
  }
  return out;
}

// Inputs x, weight, gamma, beta, running mean, running variance, settings; outputs y and Statistics.
void train(const Tensors& t) {
  const Layer layer(t, 0, 1, 6);
  const Statistics statistics{t[4], t[5], t[8], t[9], t[10], t[11]};
  const int64_t size = layer.plane.out_size();
  in_parallel(layer.channels, [&](int64_t c) {
    const float* u = convolve_channel(layer, t[0], t[1], c);
    const Moments m = moments(u, layer.count());
    const float rstd = statistics.keep(c, m, layer.settings);
    const Channel channel = channel_of(statistics.mean[c], rstd, t[2][c], t[3][c]);
    with_act(layer.settings.act, [&](auto act) {
      for (int64_t n = 0; n < layer.images; ++n) {
        apply<act.value>(channel, u + n * size, t[7] + (n * layer.channels + c) * size, size);
      }
    });
  });
}

// As train, with running statistics; output y.
void infer(const Tensors& t) {
  const Layer layer(t, 0, 1, 6);
  const int64_t size = layer.plane.out_size();
  in_parallel(layer.channels, [&](int64_t c) {
    const float* u = convolve_channel(layer, t[0], t[1], c);
    const float rstd = rstd_of(t[5][c], layer.settings.eps);
    const Channel channel = channel_of(t[4][c], rstd, t[2][c], t[3][c]);
    with_act(layer.settings.act, [&](auto act) {
      for (int64_t n = 0; n < layer.images; ++n) {
        apply<act.value>(channel, u + n * size, t[7] + (n * layer.channels + c) * size, size);
      }
    });
  });
}

// Inputs x, weight, gamma, beta, mean, 1 / deviation, dy, settings; outputs the gradients of x, weight,
// gamma, beta.
void backward_pass(const Tensors& t) {
  const Layer layer(t, 0, 1, 7);
  const Plane& p = layer.plane;
  const int64_t size = p.out_size();
  in_parallel(layer.channels, [&](int64_t c) {
    const float* u = convolve_channel(layer, t[0], t[1], c);
    float* du = scratch(kGradient, layer.count());
    const float mean = t[4][c], rstd = t[5][c];
    const Channel channel = channel_of(mean, rstd, t[2][c], t[3][c]);
    Sums sums;
    with_act(layer.settings.act, [&](auto act) {
      for (int64_t n = 0; n < layer.images; ++n) {
        const float* dy = t[6] + (n * layer.channels + c) * size;
        sums.add(backward_sums<act.value>(channel, u + n * size, dy, du + n * size, size));
      }
    });
    t[10][c] = static_cast<float>(sums.dz_x * rstd);
    t[11][c] = static_cast<float>(sums.dz);
    const Backward back = backward_of(channel, sums, rstd, static_cast<double>(layer.count()),
                                      layer.settings.batch_statistics);
    backward_from_dz(back, u, du, du, layer.count());

    Padded x = padded_input_shape(p);
    x.data = scratch(kInput, x.size() + x.pitch);  // as convolve_channel left it, with its zeros
    PaddedGradient grad = padded_gradient_shape(p);
    // A vector of the last row may reach beyond it.
    grad.data = scratch(kPaddedGradient, grad.size() + kLanes);
    grad.clear(kLanes);
    float* dx = scratch(kInputGradient, p.size() + kLanes);
    float* phases = scratch(kPhases, 2 * ((p.height / 2 + 1) * (p.width / 2 + 1) + kLanes));
    const float* weights = t[1] + c * layer.taps;
    double dw[kMaxTaps] = {};
    for (int64_t n = 0; n < layer.images; ++n) {
      const int64_t at = (n * layer.channels + c) * p.size();
      pad_input(p, t[0] + at, x, x.data + x.size());
      pad_gradient(p, du + n * size, grad);
      weight_gradient_of_plane(p, x, grad, dw);
      input_gradient_of_plane(p, grad, weights, dx, phases);
      std::memcpy(t[8] + at, dx, static_cast<size_t>(p.size()) * sizeof(float));
    }
    for (int64_t k = 0; k < layer.taps; ++k) t[9][c * layer.taps + k] = static_cast<float>(dw[k]);
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
