// What MindSpore's Custom operators ("aot") are given: tensors by number, inputs first.
#pragma once

#include <cmath>
#include <cstdint>
#include <exception>

#include "norm.h"

// The exported functions have MindSpore's signature; a result other than 0 is an error there.
#define EFFNET_OPERATOR(name)                                                                       \
  extern "C" int name(int, void** data, int* ranks, int64_t** shapes, const char**, void*, void*)

namespace effnet {

constexpr int kFailed = 1;

class Tensors {
 public:
  Tensors(void** data, int* ranks, int64_t** shapes) : data_(data), ranks_(ranks), shapes_(shapes) {}

  float* operator[](int index) const { return static_cast<float*>(data_[index]); }

  int64_t dim(int index, int axis) const { return shapes_[index][axis]; }

  int64_t size(int index, int first_axis = 0) const {
    int64_t product = 1;
    for (int axis = first_axis; axis < ranks_[index]; ++axis) product *= shapes_[index][axis];
    return product;
  }

 private:
  void** data_;
  int* ranks_;
  int64_t** shapes_;
};

// The last input of each layer's operators; operators.py writes it.
struct Settings {
  float eps, momentum;  // momentum: share of the old running statistics that is kept
  Act act;
  int stride;
  bool same_padding, batch_statistics;

  explicit Settings(const float* values)
      : eps(values[0]),
        momentum(values[1]),
        act(static_cast<Act>(static_cast<int>(values[2]))),
        stride(static_cast<int>(values[3])),
        same_padding(values[4] != 0.0f),
        batch_statistics(values[5] != 0.0f) {}
};

// Call body(constant) with the activation as a constant of the compiler's.
template <Act act>
struct ActConstant {
  static constexpr Act value = act;
};
template <typename Body>
void with_act(Act act, Body body) {
  switch (act) {
    case Act::kNone:
      return body(ActConstant<Act::kNone>{});
    case Act::kSilu:
      return body(ActConstant<Act::kSilu>{});
    case Act::kRelu6:
      return body(ActConstant<Act::kRelu6>{});
  }
}

inline float rstd_of(double variance, float eps) {
  return static_cast<float>(1.0 / std::sqrt(variance + static_cast<double>(eps)));
}

// What a training step keeps of a channel's statistics, each (C,).
struct Statistics {
  const float *old_mean, *old_variance;
  float *mean, *rstd, *new_mean, *new_variance;

  // Returns the factor 1 / deviation of this batch.
  float keep(int64_t c, const Moments& moments, const Settings& settings) const {
    const double spread = moments.deviations / std::max(moments.count - 1.0, 1.0);
    const double share = static_cast<double>(settings.momentum);
    mean[c] = static_cast<float>(moments.mean);
    rstd[c] = rstd_of(moments.deviations / moments.count, settings.eps);
    new_mean[c] = static_cast<float>(old_mean[c] * share + moments.mean * (1.0 - share));
    new_variance[c] = static_cast<float>(old_variance[c] * share + spread * (1.0 - share));
    return rstd[c];
  }
};

template <typename Body>
int guarded(Body body) {
  try {
    body();
    return 0;
  } catch (const std::exception&) {  // memory; MindSpore's caller knows no exceptions of ours
    return kFailed;
  }
}

}  // namespace effnet
