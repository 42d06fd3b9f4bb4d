// BatchNorm of one channel, with the activation that follows it.
#pragma once

#include <algorithm>
#include <cmath>

#include "vector.h"

namespace effnet {

enum class Act { kNone = 0, kSilu = 1, kRelu6 = 2 };

// Values are summed in single precision over so many, and in double precision over the sums.
constexpr int64_t kBlock = 2048;

// Mean and sum of squared deviations, merged as Chan, Golub and LeVeque (1983) do.
struct Moments {
  double count = 0, mean = 0, deviations = 0;

  void merge(const Moments& other) {
    if (other.count == 0) return;
    const double total = count + other.count, delta = other.mean - mean;
    mean += delta * other.count / total;
    deviations += other.deviations + delta * delta * count * other.count / total;
    count = total;
  }
};

inline Moments moments_of_block(const float* x, int64_t size) {
  Wide sums[4] = {};
  const int64_t whole = size / (4 * kLanes) * (4 * kLanes);
  for (int64_t i = 0; i < whole; i += 4 * kLanes) {
    for (int j = 0; j < 4; ++j) sums[j] += load<Wide>(x + i + j * kLanes);
  }
  float sum = sum_of_lanes<Wide>((sums[0] + sums[1]) + (sums[2] + sums[3]));
  for (int64_t i = whole; i < size; ++i) sum += x[i];
  const float middle = sum / static_cast<float>(size);
  Wide squares[2] = {}, rests[2] = {};
  const int64_t pairs = size / (2 * kLanes) * (2 * kLanes);
  for (int64_t i = 0; i < pairs; i += 2 * kLanes) {
    for (int j = 0; j < 2; ++j) {
      const Wide d = load<Wide>(x + i + j * kLanes) - middle;
      rests[j] += d;
      squares[j] += d * d;
    }
  }
  float square = sum_of_lanes<Wide>(squares[0] + squares[1]);
  float rest = sum_of_lanes<Wide>(rests[0] + rests[1]);
  for (int64_t i = pairs; i < size; ++i) {
    const float d = x[i] - middle;
    rest += d;
    square += d * d;
  }
  // `middle` was rounded; the rest corrects for that.
  const double count = static_cast<double>(size), off = rest / count;
  return {count, middle + off, square - off * rest};
}

inline Moments moments(const float* x, int64_t size) {
  Moments all;
  for (int64_t i = 0; i < size; i += kBlock) {
    all.merge(moments_of_block(x + i, std::min(kBlock, size - i)));
  }
  return all;
}

// What maps an input x of a channel to z = (x - mean) * scale + beta, which the activation gets.
struct Channel {
  float mean, scale, beta;
};

inline Channel channel_of(float mean, float rstd, float gamma, float beta) {
  return {mean, gamma * rstd, beta};
}

template <Act act>
EFFNET_INLINE Wide activate(Wide z) {
  if (act == Act::kSilu) return z * sigmoid(z);
  if (act == Act::kRelu6) {
    const Wide zero{}, six = spread<Wide>(6.0f);
    z = z < zero ? zero : z;
    return z > six ? six : z;
  }
  return z;
}

// The derivative of the activation at z.
template <Act act>
EFFNET_INLINE Wide slope(Wide z) {
  if (act == Act::kSilu) {
    const Wide s = sigmoid(z);
    return s * (1.0f + z * (1.0f - s));
  }
  const Wide one = spread<Wide>(1.0f);
  if (act == Act::kRelu6) return ((z > 0.0f) & (z < 6.0f)) ? one : Wide{};
  return one;
}

// Call each(offset, count) for the vectors of 0 .. size - 1; the last may have fewer lanes.
template <typename Each>
EFFNET_INLINE void for_vectors(int64_t size, Each each) {
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) each(i, static_cast<int64_t>(kLanes));
  if (i < size) each(i, size - i);
}

EFFNET_INLINE Wide load_lanes(const float* from, int64_t count) {
  return count == kLanes ? load<Wide>(from) : load_first<Wide>(from, count);
}

EFFNET_INLINE void store_lanes(float* to, Wide value, int64_t count) {
  if (count == kLanes) {
    store(to, value);
  } else {
    store_first(to, value, count);
  }
}

// y = act(norm(x)).
template <Act act>
void apply(const Channel& channel, const float* x, float* y, int64_t size) {
  for_vectors(size, [&](int64_t i, int64_t count) {
    const Wide z = (load_lanes(x + i, count) - channel.mean) * channel.scale + channel.beta;
    store_lanes(y + i, activate<act>(z), count);
  });
}

// y = act(norm(x)), and the slope of the activation there.
template <Act act>
void apply_with_slope(const Channel& channel, const float* x, float* y, float* slopes, int64_t size) {
  for_vectors(size, [&](int64_t i, int64_t count) {
    const Wide z = (load_lanes(x + i, count) - channel.mean) * channel.scale + channel.beta;
    if (act == Act::kSilu) {
      const Wide s = sigmoid(z);
      store_lanes(y + i, z * s, count);
      store_lanes(slopes + i, s * (1.0f + z * (1.0f - s)), count);
    } else {
      store_lanes(y + i, activate<act>(z), count);
      store_lanes(slopes + i, slope<act>(z), count);
    }
  });
}

// Sums of dz and of dz * (x - mean), where dz is the gradient of z.
struct Sums {
  double dz = 0, dz_x = 0;

  void add(const Sums& other) {
    dz += other.dz;
    dz_x += other.dz_x;
  }
};

// The sums, and dz itself unless `dz` is null.
template <Act act>
Sums backward_sums(const Channel& channel, const float* x, const float* dy, float* dz, int64_t size) {
  Sums total;
  for (int64_t start = 0; start < size; start += kBlock) {
    Wide sum{}, sum_x{};
    for_vectors(std::min(kBlock, size - start), [&](int64_t offset, int64_t count) {
      const int64_t i = start + offset;
      const Wide centred = load_lanes(x + i, count) - channel.mean;
      const Wide grad = load_lanes(dy + i, count) * slope<act>(centred * channel.scale + channel.beta);
      sum += grad;  // the lanes beyond `count` have dy = 0
      sum_x += grad * centred;
      if (dz != nullptr) store_lanes(dz + i, grad, count);
    });
    total.dz += sum_of_lanes(sum);
    total.dz_x += sum_of_lanes(sum_x);
  }
  return total;
}

// The sums, and dz = dy * slopes itself.
inline Sums backward_sums_of_slopes(const Channel& channel, const float* x, const float* dy,
                                    const float* slopes, float* dz, int64_t size) {
  Sums total;
  for (int64_t start = 0; start < size; start += kBlock) {
    Wide sum{}, sum_x{};
    for_vectors(std::min(kBlock, size - start), [&](int64_t offset, int64_t count) {
      const int64_t i = start + offset;
      const Wide grad = load_lanes(dy + i, count) * load_lanes(slopes + i, count);
      sum += grad;
      sum_x += grad * (load_lanes(x + i, count) - channel.mean);
      store_lanes(dz + i, grad, count);
    });
    total.dz += sum_of_lanes(sum);
    total.dz_x += sum_of_lanes(sum_x);
  }
  return total;
}

// What maps dz and x to dx = scale * (dz - dz_mean - (x - mean) * slope).
struct Backward {
  Channel channel;
  float dz_mean, slope;
};

// With batch statistics over `count` values; with fixed ones, which have no gradient, dx = scale * dz.
inline Backward backward_of(const Channel& channel, const Sums& sums, float rstd, double count,
                            bool batch_statistics) {
  if (!batch_statistics) return {channel, 0.0f, 0.0f};
  return {channel, static_cast<float>(sums.dz / count),
          static_cast<float>(sums.dz_x * rstd * rstd / count)};
}

EFFNET_INLINE Wide input_gradient(const Backward& b, Wide dz, Wide x) {
  return b.channel.scale * (dz - b.dz_mean - (x - b.channel.mean) * b.slope);
}

// dx from dz.
inline void backward_from_dz(const Backward& b, const float* x, const float* dz, float* dx,
                             int64_t size) {
  for_vectors(size, [&](int64_t i, int64_t count) {
    store_lanes(dx + i, input_gradient(b, load_lanes(dz + i, count), load_lanes(x + i, count)), count);
  });
}

// dx from dy.
template <Act act>
EFFNET_INLINE void backward(const Backward& b, const float* x, const float* dy, float* dx,
                            int64_t size) {
  for_vectors(size, [&](int64_t i, int64_t count) {
    const Wide value = load_lanes(x + i, count);
    const Wide z = (value - b.channel.mean) * b.channel.scale + b.channel.beta;
    const Wide dz = load_lanes(dy + i, count) * slope<act>(z);
    store_lanes(dx + i, input_gradient(b, dz, value), count);
  });
}

}  // namespace effnet
