// Vectors of floats without a processor's own intrinsics: GCC and Clang lower them to AVX2, AVX-512 or
// NEON, and split what a register cannot hold.
#pragma once

#include <cstdint>
#include <cstring>

#define EFFNET_INLINE inline __attribute__((always_inline))

namespace effnet {

template <int Lanes>
struct VectorOf;

template <>
struct VectorOf<8> {
  typedef float Float __attribute__((vector_size(32)));
  typedef int32_t Int __attribute__((vector_size(32)));
};

template <>
struct VectorOf<16> {
  typedef float Float __attribute__((vector_size(64)));
  typedef int32_t Int __attribute__((vector_size(64)));
};

template <int Lanes>
using Floats = typename VectorOf<Lanes>::Float;

// What elementwise passes use; the widest register there is.
#if defined(__AVX512F__)
constexpr int kLanes = 16;
#else
constexpr int kLanes = 8;
#endif

using Wide = Floats<kLanes>;

template <typename V>
EFFNET_INLINE V load(const float* from) {
  V value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

template <typename V>
EFFNET_INLINE void store(float* to, V value) {
  std::memcpy(to, &value, sizeof value);
}

template <typename V>
EFFNET_INLINE V spread(float value) {
  return value - V{};
}

template <int Count>
EFFNET_INLINE void copy_exactly(const float* from, float* to) {
  float values[Count];
  std::memcpy(values, from, sizeof values);
  std::memcpy(to, values, sizeof values);
}

// Copies a few floats without a call. Pieces may overlap, which writes some floats twice.
EFFNET_INLINE void copy_below_8(const float* from, float* to, int64_t count) {
  if (count >= 4) {
    copy_exactly<4>(from, to);
    copy_exactly<4>(from + count - 4, to + count - 4);
  } else {
    for (int64_t i = 0; i < count; ++i) to[i] = from[i];
  }
}

EFFNET_INLINE void copy_few(const float* from, float* to, int64_t count) {
  if (count < 8) return copy_below_8(from, to, count);
  for (int64_t i = 0; i + 8 < count; i += 8) copy_exactly<8>(from + i, to + i);
  copy_exactly<8>(from + count - 8, to + count - 8);
}

// Fewer floats than a vector has.
template <typename V>
EFFNET_INLINE void copy_part(const float* from, float* to, int64_t count) {
  if constexpr (sizeof(V) > 8 * sizeof(float)) {
    copy_few(from, to, count);
  } else {
    copy_below_8(from, to, count);
  }
}

// The first `count` lanes; the others are zero.
template <typename V>
EFFNET_INLINE V load_first(const float* from, int64_t count) {
  float lanes[sizeof(V) / sizeof(float)] = {};
  copy_part<V>(from, lanes, count);
  return load<V>(lanes);
}

template <typename V>
EFFNET_INLINE void store_first(float* to, V value, int64_t count) {
  float lanes[sizeof(V) / sizeof(float)];
  store(lanes, value);
  copy_part<V>(lanes, to, count);
}

template <typename V>
EFFNET_INLINE float sum_of_lanes(V value) {
  float lanes[sizeof(V) / sizeof(float)];
  std::memcpy(lanes, &value, sizeof value);
  for (size_t half = sizeof(V) / sizeof(float) / 2; half > 0; half /= 2) {
    for (size_t i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

// e to the power of x within 2 units in the last place; x is held within what a float can express.
// Source: Cody and Waite's reduction by ln 2, the polynomial of Cephes' expf.
EFFNET_INLINE Wide exponential(Wide x) {
  using Int = VectorOf<kLanes>::Int;
  const Wide low = spread<Wide>(-87.3f), high = spread<Wide>(88.3f);
  x = x < low ? low : x;
  x = x > high ? high : x;
  const Wide shift = spread<Wide>(12582912.0f);  // 1.5 * 2^23: adding it rounds to a whole number
  const Wide shifted = x * 1.44269504088896341f + shift;
  const Wide power = shifted - shift;
  Wide r = x - power * 0.693359375f;
  r = r - power * -2.12194440e-4f;
  Wide p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  Int bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  bits = (bits - 0x4b400000 + 127) << 23;
  Wide scale;
  std::memcpy(&scale, &bits, sizeof scale);
  return p * scale;
}

EFFNET_INLINE Wide sigmoid(Wide x) { return 1.0f / (1.0f + exponential(-x)); }

}  // namespace effnet
