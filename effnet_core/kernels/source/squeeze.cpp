// Squeeze-excite as one operator, and the mean over an image's pixels.
#include <vector>

#include "operator.h"
#include "threads.h"

namespace effnet {
namespace {

float sum(const float* x, int64_t size) {
  double total = 0;
  for (int64_t start = 0; start < size; start += kBlock) {
    Wide lanes{};
    for_vectors(std::min(kBlock, size - start),
                [&](int64_t i, int64_t count) { lanes += load_lanes(x + start + i, count); });
    total += sum_of_lanes(lanes);
  }
  return static_cast<float>(total);
}

float dot(const float* a, const float* b, int64_t size) {
  double total = 0;
  for (int64_t start = 0; start < size; start += kBlock) {
    Wide lanes{};
    for_vectors(std::min(kBlock, size - start), [&](int64_t i, int64_t count) {
      lanes += load_lanes(a + start + i, count) * load_lanes(b + start + i, count);
    });
    total += sum_of_lanes(lanes);
  }
  return static_cast<float>(total);
}

// to += factor * from.
void add_scaled(float* to, float factor, const float* from, int64_t size) {
  for_vectors(size, [&](int64_t i, int64_t count) {
    store_lanes(to + i, load_lanes(to + i, count) + factor * load_lanes(from + i, count), count);
  });
}

void scale(const float* x, float factor, float shift, float* y, int64_t size) {
  for_vectors(size, [&](int64_t i, int64_t count) {
    store_lanes(y + i, load_lanes(x + i, count) * factor + shift, count);
  });
}

float logistic(float x) { return 1.0f / (1.0f + std::exp(-x)); }

struct Layer {
  int64_t images, channels, size, hidden;

  Layer(const Tensors& t, int x, int reduce)
      : images(t.dim(x, 0)), channels(t.dim(x, 1)), size(t.size(x, 2)), hidden(t.dim(reduce, 0)) {}
};

// Inputs x (N, C, H, W), weights and biases of the two 1x1 convolutions; outputs y, the means (N, C), the
// hidden layer before its activation (N, S) and the gates (N, C).
void squeeze_excite(const Tensors& t) {
  const Layer l(t, 0, 1);
  const int64_t C = l.channels, S = l.hidden;
  const float *reduce = t[1], *reduce_bias = t[2], *expand = t[3], *expand_bias = t[4];
  float *means = t[6], *hidden = t[7], *gates = t[8];
  const float share = 1.0f / static_cast<float>(l.size);
  in_parallel(l.images, [&](int64_t n) {
    for (int64_t c = 0; c < C; ++c) {
      means[n * C + c] = sum(t[0] + (n * C + c) * l.size, l.size) * share;
    }
    std::vector<float> active(static_cast<size_t>(S));
    for (int64_t s = 0; s < S; ++s) {
      const float h = dot(means + n * C, reduce + s * C, C) + reduce_bias[s];
      hidden[n * S + s] = h;
      active[static_cast<size_t>(s)] = h * logistic(h);
    }
    for (int64_t c = 0; c < C; ++c) {
      const float gate = logistic(dot(active.data(), expand + c * S, S) + expand_bias[c]);
      gates[n * C + c] = gate;
      scale(t[0] + (n * C + c) * l.size, gate, 0.0f, t[5] + (n * C + c) * l.size, l.size);
    }
  });
}

// Inputs x, the two weights, means, hidden, gates, dy; outputs the gradients of x, weights and biases in
// the order of the layer's inputs.
void squeeze_excite_backward(const Tensors& t) {
  const Layer l(t, 0, 1);
  const int64_t N = l.images, C = l.channels, S = l.hidden;
  const float *reduce = t[1], *expand = t[2], *means = t[3], *hidden = t[4], *gates = t[5];
  std::vector<float> d_gate(static_cast<size_t>(N * C)), d_hidden(static_cast<size_t>(N * S)),
      active(static_cast<size_t>(N * S));
  const float share = 1.0f / static_cast<float>(l.size);
  in_parallel(N, [&](int64_t n) {
    float* before_gate = d_gate.data() + n * C;
    float* before_act = d_hidden.data() + n * S;
    for (int64_t c = 0; c < C; ++c) {
      const int64_t at = (n * C + c) * l.size;
      const float gate = gates[n * C + c];
      before_gate[c] = dot(t[0] + at, t[6] + at, l.size) * gate * (1.0f - gate);
      add_scaled(before_act, before_gate[c], expand + c * S, S);
    }
    std::vector<float> d_mean(static_cast<size_t>(C));
    for (int64_t s = 0; s < S; ++s) {
      const float h = hidden[n * S + s], g = logistic(h);
      active[static_cast<size_t>(n * S + s)] = h * g;
      before_act[s] *= g * (1.0f + h * (1.0f - g));
      add_scaled(d_mean.data(), before_act[s], reduce + s * C, C);
    }
    for (int64_t c = 0; c < C; ++c) {
      const int64_t at = (n * C + c) * l.size;
      scale(t[6] + at, gates[n * C + c], d_mean[static_cast<size_t>(c)] * share, t[7] + at, l.size);
    }
  });
  std::memset(t[8], 0, static_cast<size_t>(S * C) * sizeof(float));
  std::memset(t[9], 0, static_cast<size_t>(S) * sizeof(float));
  std::memset(t[10], 0, static_cast<size_t>(C * S) * sizeof(float));
  std::memset(t[11], 0, static_cast<size_t>(C) * sizeof(float));
  for (int64_t n = 0; n < N; ++n) {  // in this order, whatever thread did what
    add_scaled(t[9], 1.0f, d_hidden.data() + n * S, S);
    add_scaled(t[11], 1.0f, d_gate.data() + n * C, C);
    for (int64_t s = 0; s < S; ++s) {
      add_scaled(t[8] + s * C, d_hidden[static_cast<size_t>(n * S + s)], means + n * C, C);
    }
    for (int64_t c = 0; c < C; ++c) {
      add_scaled(t[10] + c * S, d_gate[static_cast<size_t>(n * C + c)], active.data() + n * S, S);
    }
  }
}

// Input x (N, C, H, W); output (N, C).
void global_mean(const Tensors& t) {
  const int64_t planes = t.dim(0, 0) * t.dim(0, 1), size = t.size(0, 2);
  in_parallel(t.dim(0, 0), [&](int64_t n) {
    const Range mine = share(planes, n, t.dim(0, 0));
    for (int64_t i = mine.begin; i < mine.end; ++i) {
      t[1][i] = sum(t[0] + i * size, size) / static_cast<float>(size);
    }
  });
}

// Inputs x, dy (N, C); output the gradient of x.
void global_mean_backward(const Tensors& t) {
  const int64_t planes = t.size(1), size = t.size(0, 2);
  for (int64_t i = 0; i < planes; ++i) {
    std::fill_n(t[2] + i * size, size, t[1][i] / static_cast<float>(size));
  }
}

}  // namespace
}  // namespace effnet

EFFNET_OPERATOR(effnet_squeeze_excite) {
  return effnet::guarded([&] { effnet::squeeze_excite({data, ranks, shapes}); });
}

EFFNET_OPERATOR(effnet_squeeze_excite_backward) {
  return effnet::guarded([&] { effnet::squeeze_excite_backward({data, ranks, shapes}); });
}

EFFNET_OPERATOR(effnet_global_mean) {
  return effnet::guarded([&] { effnet::global_mean({data, ranks, shapes}); });
}

EFFNET_OPERATOR(effnet_global_mean_backward) {
  return effnet::guarded([&] { effnet::global_mean_backward({data, ranks, shapes}); });
}
