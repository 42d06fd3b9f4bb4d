// 1x1 convolution as products of matrices, for the operators that contain one.
#pragma once

#include "operator.h"

namespace effnet {

struct Pointwise {
  int64_t images, in_channels, out_channels, size;

  Pointwise(const Tensors& t, int x, int w)
      : images(t.dim(x, 0)), in_channels(t.dim(x, 1)), out_channels(t.dim(w, 0)), size(t.size(x, 2)) {}

  int64_t columns() const { return images * size; }
  int64_t out_at(int64_t n, int64_t c) const { return (n * out_channels + c) * size; }
};

struct PointwiseInputs {
  const float *x, *weights, *u, *dy;
};

// u = weights * x.
void pointwise_product(const Pointwise& l, const float* x, const float* weights, float* u);

// The gradients of x and of the weights, where the output u went through BatchNorm (`back`, one a channel)
// and the activation. The sum over pixels is cut into as many ranges as there are threads.
void pointwise_gradients(const Pointwise& l, Act act, const Backward* back, const PointwiseInputs& in,
                         float* dx, float* dw);

}  // namespace effnet
