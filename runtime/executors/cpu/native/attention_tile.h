// Tiles of queries by keys as small matrix products. The lanes of all vectors are queries, so that no operation runs
// across a vector, and keys and values are read as they lie.
#pragma once

#include "attention.h"

#if defined(__AVX512F__)
constexpr int kRows = 8;  // keys, or columns of values, that are in registers for a tile
#else
constexpr int kRows = 4;
#endif

// Queries that are computed together, in lanes: `VECS` vectors of them. All of it but `slopes` is [..][lanes].
template <int VECS>
struct Queries {
  static constexpr int lanes = VECS * Vec::size;
  const float* q;        // [width_k][lanes], times scale and log2 e
  const float* place;    // [lanes], the position of each
  const float* slopes;   // [lanes], times log2 e; or null
  float *largest, *sum;  // [lanes], of the scores so far: the largest, and the sum of powers
  float* context;        // [width_v up to a multiple of 8][lanes], not divided by the sum yet

  void clear(int64_t width_v) const {
    for (int i = 0; i < lanes; i++) largest[i] = kLeast, sum[i] = 0.0f;
    std::memset(context, 0, up_to_multiple(width_v, 8) * lanes * sizeof(float));
  }
};

// Scores of kRows keys: scores[r][lane] = sum of k[r][d] * q[d][lane].
template <int VECS>
inline void score_rows(const float* k, const float* q, int64_t width, float* scores) {
  constexpr int lanes = VECS * Vec::size;
  Vec sums[kRows][VECS];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; r++)
#pragma GCC unroll 2
    for (int v = 0; v < VECS; v++) sums[r][v] = zeros();
  for (int64_t d = 0; d < width; d++) {
    Vec right[VECS];
#pragma GCC unroll 2
    for (int v = 0; v < VECS; v++) right[v] = load(q + d * lanes + v * Vec::size);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; r++) {
      const Vec left = all(k[r * kStride + d]);
#pragma GCC unroll 2
      for (int v = 0; v < VECS; v++) sums[r][v] = fma(left, right[v], sums[r][v]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; r++)
#pragma GCC unroll 2
    for (int v = 0; v < VECS; v++) store(scores + r * lanes + v * Vec::size, sums[r][v]);
}

// kRows columns of the context: context[r][lane] = that times factor[lane], plus the sum of v[j][r] * powers[j][lane].
template <int VECS>
inline void add_columns(const float* v, const float* powers, int count, const Vec* factor, float* context) {
  constexpr int lanes = VECS * Vec::size;
  Vec sums[kRows][VECS];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; r++)
#pragma GCC unroll 2
    for (int i = 0; i < VECS; i++) sums[r][i] = load(context + r * lanes + i * Vec::size) * factor[i];
  for (int j = 0; j < count; j++) {
    Vec right[VECS];
#pragma GCC unroll 2
    for (int i = 0; i < VECS; i++) right[i] = load(powers + j * lanes + i * Vec::size);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; r++) {
      const Vec left = all(v[j * kStride + r]);
#pragma GCC unroll 2
      for (int i = 0; i < VECS; i++) sums[r][i] = fma(left, right[i], sums[r][i]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; r++)
#pragma GCC unroll 2
    for (int i = 0; i < VECS; i++) store(context + r * lanes + i * Vec::size, sums[r][i]);
}

// Adds ALiBi's bias to scores, and hides keys that are after a query, or more than `window` before it.
template <int VECS>
inline void mask_scores(const Queries<VECS>& queries, int64_t first, int count, int64_t window, float* scores) {
  for (int v = 0; v < VECS; v++) {
    const int at = v * Vec::size;
    const Vec place = load(queries.place + at), slope = queries.slopes ? load(queries.slopes + at) : zeros();
    for (int j = 0; j < count; j++) {
      float* score = scores + j * queries.lanes + at;
      const Vec after = all((float)(first + j)) - place;  // whole numbers, 0 or less where a query sees the key
      Vec x = fma(slope, after, load(score));
      x = x + smaller(zeros(), after * all(kHidden));
      if (window >= 0) x = x + smaller(zeros(), (after + all((float)window)) * all(-kHidden));
      store(score, x);
    }
  }
}

// Takes `count` keys, of which the first is at `first`, into the context of queries.
//
// k, v: [kKeys][kStride]. masked: whether some query does not see some key. scores: scratch, [kKeys][lanes].
template <int VECS>
inline void attend_tile(const Attention& form, const Queries<VECS>& queries, const float* k, const float* v,
                        int64_t first, int count, bool masked, float* scores) {
  constexpr int lanes = VECS * Vec::size;
  for (int j = 0; j < count; j += kRows) score_rows<VECS>(k + j * kStride, queries.q, form.width_k, scores + j * lanes);
  if (masked || queries.slopes) mask_scores(queries, first, count, form.window, scores);
  Vec factor[VECS];
  for (int i = 0; i < VECS; i++) {
    const int at = i * Vec::size;
    const Vec before = load(queries.largest + at);
    Vec most = before;
    for (int j = 0; j < count; j++) most = larger(load(scores + j * lanes + at), most);
    Vec sum = zeros();
    for (int j = 0; j < count; j++) {
      const Vec power = power_of_two(load(scores + j * lanes + at) - most);
      store(scores + j * lanes + at, power);
      sum = sum + power;
    }
    factor[i] = power_of_two(before - most);
    store(queries.largest + at, most);
    store(queries.sum + at, fma(load(queries.sum + at), factor[i], sum));
  }
  for (int64_t column = 0; column < form.width_v; column += kRows)
    add_columns<VECS>(v + column, scores, count, factor, queries.context + column * lanes);
}
