// What the operators with a depthwise convolution share: one channel of all images at a time.
//
// Where the channel's planes come from, and where their gradients go, is a `Source`: plane(n) is the input
// of image n, plane_again(n) the same while gradients are made, take(n, dx) is given its gradient.
#pragma once

#include "correlate.h"
#include "operator.h"
#include "threads.h"

namespace effnet {

// Scratch memory; the last two belong to sources.
enum DepthwiseSlot {
  kInput,
  kConvolved,
  kGradient,
  kPaddedGradient,
  kInputGradient,
  kPhases,
  kActivated,
  kSlopes
};

struct Depthwise {
  Settings settings;
  Plane plane;
  int64_t images, channels, taps;

  // x is the index of a tensor with the input's shape.
  Depthwise(const Tensors& t, int x, int w, int values)
      : settings(t[values]),
        plane(t.dim(x, 2), t.dim(x, 3), static_cast<int>(t.dim(w, 2)), settings.stride,
              settings.same_padding),
        images(t.dim(x, 0)),
        channels(t.dim(w, 0)),
        taps(t.dim(w, 2) * t.dim(w, 3)) {}

  int64_t count() const { return images * plane.out_size(); }
  int64_t at(int64_t n, int64_t c) const { return (n * channels + c) * plane.size(); }
  int64_t out_at(int64_t n, int64_t c) const { return (n * channels + c) * plane.out_size(); }
};

// Convolves the images of one channel into scratch memory, one after the other. With `keep` the padded inputs
// of all images stay in scratch memory, else of one.
template <typename Source>
float* convolve_channel(const Depthwise& layer, Source& source, const float* weights, bool keep = false) {
  const Plane& p = layer.plane;
  Padded padded = padded_input_shape(p);
  const int64_t step = keep ? padded.size() : 0, last = step * (layer.images - 1);
  padded.data = scratch(kInput, last + padded.size() + padded.pitch);
  padded.clear(last + padded.pitch);
  float* row = padded.data + last + padded.size();
  float* out = scratch(kConvolved, layer.count() + kLanes);
  const Taps taps = forward_taps(p, padded, weights);
  for (int64_t n = 0; n < layer.images; ++n, padded.data += step) {
    pad_input(p, source.plane(n), padded, row);
    convolve(p, padded, taps, out + n * p.out_size());
  }
  return out;
}

// Convolution, BatchNorm by the batch's statistics and activation of one channel.
template <typename Source>
void train_channel(const Depthwise& layer, Source& source, int64_t c, const float* weights,
                   const Statistics& statistics, float gamma, float beta, float* y) {
  const float* u = convolve_channel(layer, source, weights);
  const Moments m = moments(u, layer.count());
  const float rstd = statistics.keep(c, m, layer.settings);
  const Channel channel = channel_of(statistics.mean[c], rstd, gamma, beta);
  const int64_t size = layer.plane.out_size();
  with_act(layer.settings.act, [&](auto act) {
    for (int64_t n = 0; n < layer.images; ++n) {
      apply<act.value>(channel, u + n * size, y + layer.out_at(n, c), size);
    }
  });
}

// The gradients of one channel: those of its weights, gamma and beta are written, those of its input taken
// by the source.
template <typename Source>
void backward_channel(const Depthwise& layer, Source& source, int64_t c, const float* weights,
                      const Channel& channel, float rstd, const float* dy, float* dw, float* d_gamma,
                      float* d_beta) {
  const Plane& p = layer.plane;
  const int64_t size = p.out_size();
  const float* u = convolve_channel(layer, source, weights, true);
  float* du = scratch(kGradient, layer.count());
  Sums sums;
  with_act(layer.settings.act, [&](auto act) {
    for (int64_t n = 0; n < layer.images; ++n) {
      const float* of_image = dy + layer.out_at(n, c);
      sums.add(backward_sums<act.value>(channel, u + n * size, of_image, du + n * size, size));
    }
  });
  d_gamma[c] = static_cast<float>(sums.dz_x * rstd);
  d_beta[c] = static_cast<float>(sums.dz);
  const Backward back = backward_of(channel, sums, rstd, static_cast<double>(layer.count()),
                                    layer.settings.batch_statistics);
  backward_from_dz(back, u, du, du, layer.count());

  Padded x = padded_input_shape(p);
  x.data = scratch(kInput, layer.images * x.size() + x.pitch);  // as convolve_channel left it
  PaddedGradient grad = padded_gradient_shape(p);
  // A vector of the last row may reach beyond it.
  grad.data = scratch(kPaddedGradient, grad.size() + kLanes);
  grad.clear(kLanes);
  float* dx = scratch(kInputGradient, p.size() + kLanes);
  float* phases = scratch(kPhases, 2 * ((p.height / 2 + 1) * (p.width / 2 + 1) + kLanes));
  double sums_of_taps[kMaxTaps] = {};
  for (int64_t n = 0; n < layer.images; ++n, x.data += x.size()) {
    pad_gradient(p, du + n * size, grad);
    weight_gradient_of_plane(p, x, grad, sums_of_taps);
    input_gradient_of_plane(p, grad, weights, dx, phases);
    source.take(n, dx);
  }
  for (int64_t k = 0; k < layer.taps; ++k) dw[k] = static_cast<float>(sums_of_taps[k]);
}

}  // namespace effnet
