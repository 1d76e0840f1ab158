// Rotary position embedding (Su et al., 2021).
#include <cstring>

#include "abi.h"
#include "rows.h"
#include "vec.h"

namespace {

struct Rotary {
  int64_t width;        // columns of a head
  int64_t interleaved;  // whether the pairs are (x[2 i], x[2 i + 1]), not (x[i], x[i + R / 2])
};

// Turns the pairs of a head whose halves lie one after the other.
void turn_halves(const float* x, const float* cos, const float* sin, float* result, int64_t half) {
  int64_t at = 0;
  for (; at + Vec::size <= half; at += Vec::size) {
    const Vec a = load(x + at), b = load(x + half + at), c = load(cos + at), s = load(sin + at);
    store(result + at, a * c - b * s);
    store(result + half + at, fma(b, c, a * s));
  }
  if (const int rest = half - at) {
    const Vec a = load_some(x + at, rest), b = load_some(x + half + at, rest);
    const Vec c = load_some(cos + at, rest), s = load_some(sin + at, rest);
    store_some(result + at, a * c - b * s, rest);
    store_some(result + half + at, fma(b, c, a * s), rest);
  }
}

constexpr int64_t kMostPairs = 64;

// Cosines and sines of some pairs, each twice, the first sine of a pair with a minus: x * cos + swapped x * sin turns.
struct Angles {
  float cos[2 * kMostPairs], sin[2 * kMostPairs];

  Angles(const float* each_cos, const float* each_sin, int64_t pairs) {
    for (int64_t pair = 0; pair < pairs; pair++) {
      cos[2 * pair] = cos[2 * pair + 1] = each_cos[pair];
      sin[2 * pair] = -each_sin[pair];
      sin[2 * pair + 1] = each_sin[pair];
    }
  }

  void turn(const float* x, float* result, int64_t pairs) const {
    int64_t at = 0;
    for (; at + Vec::size <= 2 * pairs; at += Vec::size) {
      const Vec value = load(x + at);
      store(result + at, fma(value, load(cos + at), swapped(value) * load(sin + at)));
    }
    if (const int rest = 2 * pairs - at) {
      const Vec value = load_some(x + at, rest);
      store_some(result + at, fma(value, load_some(cos + at, rest), swapped(value) * load_some(sin + at, rest)), rest);
    }
  }
};

}  // namespace

extern "C" {

// views: x [rows, heads * width], cos and sin [rows, R / 2], the result, which may be x; float32. attributes: Rotary. The
// first R columns of each head turn, the others pass.
void llmc_rotary(const Call* call) {
  const View &x = call->views[0], &cos = call->views[1], &sin = call->views[2], &out = call->views[3];
  const Rotary& rotary = *static_cast<const Rotary*>(call->attributes);
  const int64_t half = cos.columns, width = rotary.width;
  for_parts(call, out.rows, out.columns, width, [&](int64_t at, int64_t begin, int64_t end) {
    const float *source = row_for<float>(x, at), *c = row_for<float>(cos, at), *s = row_for<float>(sin, at);
    float* result = row<float>(out, at);
    if (!rotary.interleaved)
      for (int64_t head = begin; head < end; head += width) turn_halves(source + head, c, s, result + head, half);
    else
      for (int64_t pair = 0; pair < half; pair += kMostPairs) {
        const int64_t pairs = half - pair < kMostPairs ? half - pair : kMostPairs;
        const Angles angles(c + pair, s + pair, pairs);
        for (int64_t head = begin; head < end; head += width)
          angles.turn(source + head + 2 * pair, result + head + 2 * pair, pairs);
      }
    if (source == result || 2 * half == width) return;
    for (int64_t head = begin; head < end; head += width)
      std::memcpy(result + head + 2 * half, source + head + 2 * half, (width - 2 * half) * sizeof(float));
  });
}

}  // extern "C"
