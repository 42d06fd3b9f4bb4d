// Resizes a picture and cuts a square out of it, to Pillow's pixels bit by bit, several times faster.
//
// As Pillow does (libImaging/Resample.c): weights in double precision, rounded to 22 bits behind the point;
// first along the rows, with 8 bits in between, then along the columns. Only what the square shows is
// computed, which changes no pixel of it. No state: threads may call side by side.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "../vector.h"

namespace effnet {
namespace {

constexpr int kBits = 22;      // behind the point of a weight
constexpr int kLeastSide = 1;

// A vector holds a few pixels of four bytes each, as 32-bit integers. Compilers make a dozen instructions
// of these two conversions where x86 has one.
#if defined(__AVX512F__)
using Ints = VectorOf<16>::Int;
EFFNET_INLINE Ints widen(const uint8_t* from) {
  return (Ints)_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}
EFFNET_INLINE void narrow(Ints sums, uint8_t* to) {
  const __m512i kept = _mm512_max_epi32((__m512i)(sums >> kBits), _mm512_setzero_si512());
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtusepi32_epi8(kept));
}
#elif defined(__AVX2__)
using Ints = VectorOf<8>::Int;
EFFNET_INLINE Ints widen(const uint8_t* from) {
  return (Ints)_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
}
EFFNET_INLINE void narrow(Ints sums, uint8_t* to) {
  const __m256i shifted = (__m256i)(sums >> kBits);
  const __m128i words =
      _mm_packus_epi32(_mm256_castsi256_si128(shifted), _mm256_extracti128_si256(shifted, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_packus_epi16(words, words));
}
#else
using Ints = VectorOf<8>::Int;
EFFNET_INLINE Ints widen(const uint8_t* from) {
  int32_t lanes[8];
  for (int i = 0; i < 8; ++i) lanes[i] = from[i];
  Ints value;
  std::memcpy(&value, lanes, sizeof value);
  return value;
}
EFFNET_INLINE void narrow(Ints sums, uint8_t* to) {
  sums >>= kBits;
  for (int i = 0; i < 8; ++i) {
    to[i] = static_cast<uint8_t>(sums[i] < 0 ? 0 : sums[i] > 255 ? 255 : sums[i]);
  }
}
#endif
constexpr int64_t kInts = sizeof(Ints) / sizeof(int32_t);
constexpr int64_t kTogether = kInts / 4;  // pixels

typedef int32_t Four __attribute__((vector_size(16)));

enum Filter : int { kBilinear = 0, kBicubic = 1 };

double reach(int filter) { return filter == kBicubic ? 2.0 : 1.0; }

double weight(int filter, double x) {
  x = std::fabs(x);
  if (filter == kBilinear) return x < 1.0 ? 1.0 - x : 0.0;
  constexpr double a = -0.5;
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
  if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
  return 0.0;
}

// For each place of the square along one axis: the first pixel that counts, and the weights from there.
struct Axis {
  int64_t taps = 0;
  std::vector<int64_t> first;
  std::vector<int32_t> weights;  // taps for each place; zero behind the last that counts

  // `whole` pixels become `resized`, of which `side` are wanted from `start` on.
  Axis(int64_t whole, int64_t resized, int64_t start, int64_t side, int filter) {
    const double scale = static_cast<double>(static_cast<float>(whole)) / static_cast<double>(resized);
    const double wide = scale < 1.0 ? 1.0 : scale, support = reach(filter) * wide;
    const int64_t most = static_cast<int64_t>(std::ceil(support)) * 2 + 1;
    taps = (most + kTogether - 1) / kTogether * kTogether;
    first.resize(static_cast<size_t>(side));
    weights.assign(static_cast<size_t>(side * taps), 0);
    std::vector<double> exact(static_cast<size_t>(most));
    for (int64_t place = 0; place < side; ++place) {
      const double centre = (static_cast<double>(start + place) + 0.5) * scale;
      int64_t low = static_cast<int64_t>(centre - support + 0.5);
      if (low < 0) low = 0;
      int64_t high = static_cast<int64_t>(centre + support + 0.5);
      if (high > whole) high = whole;
      double sum = 0.0;
      for (int64_t i = 0; i < high - low; ++i) {
        exact[static_cast<size_t>(i)] =
            weight(filter, (static_cast<double>(i + low) - centre + 0.5) / wide);
        sum += exact[static_cast<size_t>(i)];
      }
      int64_t from = low;  // reads stay inside the picture
      if (from + taps > whole) from = whole > taps ? whole - taps : 0;
      first[static_cast<size_t>(place)] = from;
      for (int64_t i = 0; i < high - low; ++i) {
        const double share = sum != 0.0 ? exact[static_cast<size_t>(i)] / sum
                                        : exact[static_cast<size_t>(i)];
        const double scaled = share * (int64_t{1} << kBits);
        weights[static_cast<size_t>(place * taps + low - from + i)] =
            static_cast<int32_t>(scaled < 0 ? scaled - 0.5 : scaled + 0.5);
      }
    }
  }
};

EFFNET_INLINE Four sum_of_pixels(Ints value) {
  Four parts[kTogether];
  std::memcpy(parts, &value, sizeof value);
  Four sum = parts[0];
  for (int64_t i = 1; i < kTogether; ++i) sum += parts[i];
  return sum;
}

// One row of four-byte pixels to `places` pixels of three bytes; writes up to 4 bytes more.
template <int kSteps>
void along_row(const uint8_t* row, const int64_t* first, const Ints* weights, int64_t places,
               int64_t all_steps, uint8_t* out) {
  const int64_t steps = kSteps ? kSteps : all_steps;
  for (int64_t place = 0; place < places; place += kTogether) {
    Four sums[kTogether];
    for (int64_t i = 0; i < kTogether; ++i) {
      const uint8_t* from = row + 4 * first[place + i];
      const Ints* of_place = weights + (place + i) * steps;
      Ints sum = {};
      for (int64_t step = 0; step < steps; ++step) sum += widen(from + kInts * step) * of_place[step];
      sums[i] = sum_of_pixels(sum);
    }
    Ints together;
    std::memcpy(&together, sums, sizeof together);
    uint8_t bytes[kInts];
    narrow(together + (1 << (kBits - 1)), bytes);
    for (int64_t i = 0; i < kTogether; ++i) std::memcpy(out + 3 * (place + i), bytes + 4 * i, 4);
  }
}

// One row of the square from the rows between; writes up to a vector more.
void along_column(const uint8_t* rows, int64_t stride, const int32_t* weights, int64_t taps,
                  int64_t count, uint8_t* out) {
  for (int64_t i = 0; i < count; i += kInts) {
    Ints sum = Ints{} + (1 << (kBits - 1));
    for (int64_t tap = 0; tap < taps; ++tap) sum += widen(rows + tap * stride + i) * weights[tap];
    narrow(sum, out + i);
  }
}

bool resize(const uint8_t* pixels, int64_t width, int64_t height, int64_t new_width,
            int64_t new_height, int64_t left, int64_t top, int64_t side, int filter, uint8_t* out) {
  if (width < kLeastSide || height < kLeastSide || side < 1 || left < 0 || top < 0) return false;
  if (left + side > new_width || top + side > new_height) return false;
  const Axis across(width, new_width, left, side, filter);
  const Axis down(height, new_height, top, side, filter);
  if (across.taps > width || down.taps > height) return false;  // enlarged from next to nothing
  const int64_t steps = across.taps / kTogether;
  const int64_t places = (side + kTogether - 1) / kTogether * kTogether;
  std::vector<int64_t> first(across.first);
  first.resize(static_cast<size_t>(places), 0);
  // Kept by each thread: fresh memory of this size would be asked from the system for each picture.
  thread_local std::vector<Ints> spread;
  thread_local std::vector<uint8_t> between;
  spread.assign(static_cast<size_t>(places * steps), Ints{});
  for (size_t step = 0; step < static_cast<size_t>(side * steps); ++step) {
    int32_t lanes[kInts];
    for (size_t i = 0; i < kInts; ++i) lanes[i] = across.weights[step * kTogether + i / 4];
    std::memcpy(&spread[step], lanes, sizeof lanes);
  }
  const auto row = steps == 1 ? along_row<1> : steps == 2 ? along_row<2> : steps == 4 ? along_row<4> : along_row<0>;
  const int64_t begin = down.first.front(), end = down.first.back() + down.taps;
  const int64_t stride = 3 * places + kInts;
  const auto needed = static_cast<size_t>((end - begin) * stride + kInts);
  if (between.size() < needed) between.resize(needed);
  for (int64_t y = begin; y < end; ++y) {
    uint8_t* to = &between[static_cast<size_t>((y - begin) * stride)];
    row(pixels + 4 * width * y, first.data(), spread.data(), places, steps, to);
  }
  std::vector<uint8_t> last(static_cast<size_t>(stride));  // in which the vectors may end behind the row
  for (int64_t place = 0; place < side; ++place) {
    const int64_t from = down.first[static_cast<size_t>(place)] - begin;
    uint8_t* to = place < side - 1 ? out + 3 * side * place : last.data();
    along_column(&between[static_cast<size_t>(from * stride)], stride,
                 &down.weights[static_cast<size_t>(place * down.taps)], down.taps, 3 * side, to);
  }
  std::memcpy(out + 3 * side * (side - 1), last.data(), static_cast<size_t>(3 * side));
  return true;
}

// The same with plain loops over every pixel.
bool is_right(int64_t width, int64_t height, int64_t new_width, int64_t new_height, int64_t left,
              int64_t top, int64_t side, int filter) {
  std::vector<uint8_t> pixels(static_cast<size_t>(4 * width * height));
  uint32_t state = 1;
  for (uint8_t& value : pixels) value = static_cast<uint8_t>((state = state * 1664525u + 1013904223u) >> 24);
  std::vector<uint8_t> found(static_cast<size_t>(3 * side * side));
  if (!resize(pixels.data(), width, height, new_width, new_height, left, top, side, filter, found.data())) return false;
  const Axis across(width, new_width, left, side, filter), down(height, new_height, top, side, filter);
  const auto rounded = [](int64_t sum) {
    sum = (sum + (1 << (kBits - 1))) >> kBits;
    return sum < 0 ? 0 : sum > 255 ? 255 : sum;
  };
  for (int64_t i = 0; i < 3 * side * side; ++i) {
    const int64_t channel = i % 3, x = i / 3 % side, y = i / 3 / side;
    int64_t sum = 0;
    for (int64_t v = 0; v < down.taps; ++v) {
      const int64_t row = down.first[static_cast<size_t>(y)] + v;
      int64_t inner = 0;
      for (int64_t h = 0; h < across.taps; ++h) {
        const int64_t column = across.first[static_cast<size_t>(x)] + h;
        inner += int64_t{pixels[static_cast<size_t>(4 * (row * width + column) + channel)]} *
                 across.weights[static_cast<size_t>(x * across.taps + h)];
      }
      sum += rounded(inner) * down.weights[static_cast<size_t>(y * down.taps + v)];
    }
    if (found[static_cast<size_t>(i)] != rounded(sum)) return false;
  }
  return true;
}

}  // namespace
}  // namespace effnet

// A square of `side` px, from (left, top) of the picture that `pixels` becomes at the new size.
// `pixels`: height x width x 4 bytes, the fourth is ignored. `out`: side x side x 3 bytes.
// Returns 0, or 1 where the picture is too small for this way.
extern "C" int effnet_resize(const uint8_t* pixels, int64_t width, int64_t height, int64_t new_width,
                             int64_t new_height, int64_t left, int64_t top, int64_t side, int filter,
                             uint8_t* out) {
  return effnet::resize(pixels, width, height, new_width, new_height, left, top, side, filter, out) ? 0 : 1;
}

// Returns 0, or the number of the first case that is wrong.
extern "C" int effnet_self_test(int) {
  using effnet::is_right;
  if (!is_right(61, 45, 40, 30, 5, 1, 28, effnet::kBicubic)) return 1;
  if (!is_right(61, 45, 40, 30, 0, 0, 29, effnet::kBilinear)) return 2;
  if (!is_right(20, 33, 40, 66, 3, 9, 35, effnet::kBicubic)) return 3;
  if (!is_right(300, 200, 24, 16, 4, 0, 16, effnet::kBicubic)) return 4;
  if (!is_right(64, 64, 64, 64, 1, 2, 50, effnet::kBicubic)) return 5;
  return 0;
}
