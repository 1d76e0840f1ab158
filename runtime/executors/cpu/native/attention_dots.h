// Attention of few queries by dot products over keys and values as pools store them. The lanes of vectors are the
// elements of a head.
//
// Elements are read as whole vectors. If a head is no multiple of a vector, the last one begins where it ends with the
// head, and repeats some elements of the one before: of a query these are zeros there, of a context they are not used.
#pragma once

#include <type_traits>

#include "attention.h"
#include "lanes.h"

// Where elements of a head of some width lie in vectors as told above.
struct Chunks {
  int64_t width, count;

  explicit Chunks(int64_t width) : width(width), count((width + Vec::size - 1) / Vec::size) {}
  int64_t padded() const { return count * Vec::size; }
  // The element at which a vector begins.
  int64_t begin(int64_t chunk) const {
    return chunk + 1 < count || width < Vec::size ? chunk * Vec::size : width - Vec::size;
  }
  // Where an element lies, of those that are not repeated.
  int64_t place(int64_t element) const {
    return element < width / Vec::size * Vec::size || width < Vec::size ? element : padded() - width + element;
  }
};

// Scores of MEMBERS queries: scores[m * kKeys + j] = q[m * padded + ..] . key j, for `count` keys and some more.
template <int MEMBERS, typename R>
inline void score_keys(const R& reader, const Tokens& tokens, int64_t offset, int count, const Chunks& chunks,
                       const float* q, float* scores) {
  constexpr int keys = Vec::size / MEMBERS;
  const int64_t padded = chunks.padded();
  for (int first = 0; first < count; first += keys) {
    const char* const* rows = tokens.rows + first;
    Vec products[MEMBERS * keys];
#pragma GCC unroll 16
    for (int i = 0; i < MEMBERS * keys; i++) products[i] = zeros();
    for (int64_t chunk = 0; chunk < chunks.count; chunk++) {
      const int64_t at = chunks.begin(chunk);
      Vec right[MEMBERS];
#pragma GCC unroll 4
      for (int m = 0; m < MEMBERS; m++) right[m] = load(q + m * padded + chunk * Vec::size);
#pragma GCC unroll 16
      for (int j = 0; j < keys; j++) {
        const Vec left = reader.many(rows[j] + offset, at);
#pragma GCC unroll 4
        for (int m = 0; m < MEMBERS; m++) products[m * keys + j] = fma(left, right[m], products[m * keys + j]);
      }
    }
    float sums[Vec::size];
    store(sums, sums_of(products));
#pragma GCC unroll 4
    for (int m = 0; m < MEMBERS; m++) std::memcpy(scores + m * kKeys + first, sums + m * keys, keys * sizeof(float));
  }
}

// Contexts of MEMBERS queries at VECS vectors from `chunk` on: that times the query's factor, plus the sum over keys of
// values times powers[m * kKeys + j].
template <int MEMBERS, int VECS, typename R>
inline void add_values(const R& reader, const Tokens& tokens, int64_t offset, int count, const Chunks& chunks,
                       int64_t chunk, const float* powers, const float* factors, float* contexts) {
  constexpr int ways = MEMBERS * VECS < 8 ? 2 : 1;  // sums that are joined in the end, as one would wait for itself
  const int64_t padded = chunks.padded();
  Vec sums[ways][MEMBERS][VECS];
#pragma GCC unroll 4
  for (int m = 0; m < MEMBERS; m++)
#pragma GCC unroll 4
    for (int v = 0; v < VECS; v++) {
      sums[ways - 1][m][v] = zeros();
      sums[0][m][v] = load(contexts + m * padded + (chunk + v) * Vec::size) * all(factors[m]);
    }
  int64_t begins[VECS];
  for (int v = 0; v < VECS; v++) begins[v] = chunks.begin(chunk + v);
  const auto add = [&](int j, int way) {
    Vec right[MEMBERS];
#pragma GCC unroll 4
    for (int m = 0; m < MEMBERS; m++) right[m] = all(powers[m * kKeys + j]);
#pragma GCC unroll 4
    for (int v = 0; v < VECS; v++) {
      const Vec left = reader.many(tokens.rows[j] + offset, begins[v]);
#pragma GCC unroll 4
      for (int m = 0; m < MEMBERS; m++) sums[way][m][v] = fma(left, right[m], sums[way][m][v]);
    }
  };
  int j = 0;
  for (; j + ways <= count; j += ways)
#pragma GCC unroll 2
    for (int way = 0; way < ways; way++) add(j + way, way);
  if (j < count) add(j, 0);
#pragma GCC unroll 4
  for (int m = 0; m < MEMBERS; m++)
#pragma GCC unroll 4
    for (int v = 0; v < VECS; v++) {
      const Vec sum = ways == 1 ? sums[0][m][v] : sums[0][m][v] + sums[ways - 1][m][v];
      store(contexts + m * padded + (chunk + v) * Vec::size, sum);
    }
}

// Calls `apply(first, members)` for groups of 4, 2 or 1 of so many queries; `members` has their number as its type.
template <typename F>
inline void each_group(int64_t count, F&& apply) {
  int64_t first = 0;
  for (; first + 4 <= count; first += 4) apply(first, std::integral_constant<int, 4>());
  if (first + 2 <= count) apply(first, std::integral_constant<int, 2>()), first += 2;
  if (first < count) apply(first, std::integral_constant<int, 1>());
}

template <typename R>
inline void score_all(const R& reader, const Tokens& tokens, int64_t offset, int count, const Chunks& chunks,
                      int64_t members, const float* q, float* scores) {
  each_group(members, [&](int64_t first, auto some) {
    score_keys<some()>(reader, tokens, offset, count, chunks, q + first * chunks.padded(), scores + first * kKeys);
  });
}

template <typename R>
inline void add_all(const R& reader, const Tokens& tokens, int64_t offset, int count, const Chunks& chunks,
                    int64_t members, const float* powers, const float* factors, float* contexts) {
  each_group(members, [&](int64_t first, auto some) {
    each_group(chunks.count, [&](int64_t chunk, auto vecs) {
      add_values<some(), vecs()>(reader, tokens, offset, count, chunks, chunk, powers + first * kKeys, factors + first,
                                 contexts + first * chunks.padded());
    });
  });
}
