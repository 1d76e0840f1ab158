// The innermost part of products of many rows: a block of rows by a tile of outputs, whose sums stay in registers.
#pragma once

#include <cstdint>

#include "vec.h"
#include "wide.h"

// Sums of products of integers, as many as a Vec has lanes.
#if defined(__AVX512F__)
struct IntVec {
  __m512i v;
};
inline IntVec no_ints() { return {_mm512_setzero_si512()}; }
inline IntVec load_words(const uint32_t* p) { return {_mm512_loadu_si512(p)}; }
inline IntVec all_words(uint32_t word) { return {_mm512_set1_epi32((int)word)}; }
inline IntVec operator+(IntVec a, IntVec b) { return {_mm512_add_epi32(a.v, b.v)}; }
inline IntVec bits_of(Vec a) { return {_mm512_castps_si512(a.v)}; }
inline Vec as_bits(IntVec a) { return {_mm512_castsi512_ps(a.v)}; }
inline Vec to_floats(IntVec a) { return {_mm512_cvtepi32_ps(a.v)}; }
inline IntVec to_ints(Vec a) { return {_mm512_cvtps_epi32(a.v)}; }
#if defined(__AVX512VNNI__)
inline IntVec add_products(IntVec sum, IntVec x, IntVec w) { return {_mm512_dpbusd_epi32(sum.v, x.v, w.v)}; }
#else
inline IntVec add_products(IntVec sum, IntVec x, IntVec w) {
  return {_mm512_add_epi32(sum.v, _mm512_madd_epi16(x.v, w.v))};
}
#endif
#elif defined(__AVX2__)
struct IntVec {
  __m256i v;
};
inline IntVec no_ints() { return {_mm256_setzero_si256()}; }
inline IntVec load_words(const uint32_t* p) { return {_mm256_loadu_si256((const __m256i*)p)}; }
inline IntVec all_words(uint32_t word) { return {_mm256_set1_epi32((int)word)}; }
inline IntVec operator+(IntVec a, IntVec b) { return {_mm256_add_epi32(a.v, b.v)}; }
inline IntVec bits_of(Vec a) { return {_mm256_castps_si256(a.v)}; }
inline Vec as_bits(IntVec a) { return {_mm256_castsi256_ps(a.v)}; }
inline Vec to_floats(IntVec a) { return {_mm256_cvtepi32_ps(a.v)}; }
inline IntVec to_ints(Vec a) { return {_mm256_cvtps_epi32(a.v)}; }
#if defined(__AVXVNNI__)
inline IntVec add_products(IntVec sum, IntVec x, IntVec w) { return {_mm256_dpbusd_avx_epi32(sum.v, x.v, w.v)}; }
#else
inline IntVec add_products(IntVec sum, IntVec x, IntVec w) {
  return {_mm256_add_epi32(sum.v, _mm256_madd_epi16(x.v, w.v))};
}
#endif
#else
struct IntVec {
  int32_t v[Vec::size];
};
template <typename F>
inline IntVec int_lanes(F&& of) {
  IntVec r;
  for (int i = 0; i < Vec::size; i++) r.v[i] = of(i);
  return r;
}
inline IntVec no_ints() { return int_lanes([](int) { return 0; }); }
inline IntVec load_words(const uint32_t* p) { return int_lanes([=](int i) { return (int32_t)p[i]; }); }
inline IntVec all_words(uint32_t word) { return int_lanes([=](int) { return (int32_t)word; }); }
inline IntVec operator+(IntVec a, IntVec b) {
  return int_lanes([&](int i) { return (int32_t)((uint32_t)a.v[i] + (uint32_t)b.v[i]); });
}
inline IntVec bits_of(Vec a) { return int_lanes([&](int i) { return (int32_t)to_bits(a.v[i]); }); }
inline Vec as_bits(IntVec a) {
  Vec r;
  std::memcpy(r.v, a.v, sizeof r.v);
  return r;
}
inline Vec to_floats(IntVec a) {
  Vec r;
  for (int i = 0; i < Vec::size; i++) r.v[i] = (float)a.v[i];
  return r;
}
inline IntVec to_ints(Vec a) { return int_lanes([&](int i) { return (int32_t)a.v[i]; }); }
inline IntVec add_products(IntVec sum, IntVec x, IntVec w) {
  return int_lanes([&](int i) {
    return sum.v[i] + (int16_t)x.v[i] * (int16_t)w.v[i] + (x.v[i] >> 16) * (w.v[i] >> 16);
  });
}
#endif

// Outputs that are computed together, and a block of their weights; the outputs of each vector have their own pointers.
struct Tile {
  int64_t words;                     // of the block
  const uint32_t* weights[kVectors];  // [words][16]
  const float* scales[kVectors];     // of the block; or null
  const float* bias[kVectors];       // or null
  const float* sums[kVectors];       // of integers: those of all their weights; else null
  int lanes[kVectors];               // how many outputs each vector has
  bool first, last;                  // whether the block is the first or the last of these outputs
};

// Where a tile's results go: the first of its outputs, for the first row of a block of rows.
struct Results {
  char* data;
  int64_t stride;
  const char* row_scales;  // of integers
  int64_t scale_stride;

  float* at(int row, int vector) const { return reinterpret_cast<float*>(data + row * stride) + vector * Vec::size; }
  float scale(int row) const { return *reinterpret_cast<const float*>(row_scales + row * scale_stride); }
};

inline Vec load_up_to(const float* p, int n) {
  return n >= Vec::size ? load(p) : n > 0 ? load_some(p, n) : zeros();
}

inline void store_up_to(float* p, Vec a, int n) {
  if (n >= Vec::size)
    store(p, a);
  else if (n > 0)
    store_some(p, a, n);
}

inline Vec load_or(const float* p, float otherwise) { return p ? load(p) : all(otherwise); }

struct Floats {
  using Sum = Vec;
  static Sum none() { return zeros(); }
  static Vec number(const uint32_t* x) { return all(*reinterpret_cast<const float*>(x)); }
  static Vec weights(const uint32_t* w) { return load(reinterpret_cast<const float*>(w)); }
  static Sum add(Sum sum, Vec x, Vec w) { return fma(x, w, sum); }

  static void finish(const Tile& tile, int vector, int lanes, Sum sum, float* result, float) {
    const Vec before = tile.first ? load_or(tile.bias[vector], 0.0f) : load_up_to(result, lanes);
    store_up_to(result, before + sum, lanes);
  }
};

#if defined(__AVX512BF16__)
struct Pairs {
  using Sum = Vec;
  static Sum none() { return zeros(); }
  static IntVec number(const uint32_t* x) { return all_words(*x); }
  static IntVec weights(const uint32_t* w) { return load_words(w); }
  static Sum add(Sum sum, IntVec x, IntVec w) {
    return {_mm512_dpbf16_ps(sum.v, (__m512bh)x.v, (__m512bh)w.v)};
  }

  static void finish(const Tile& tile, int vector, int lanes, Sum sum, float* result, float) {
    const Vec before = tile.first ? load_or(tile.bias[vector], 0.0f) : load_up_to(result, lanes);
    store_up_to(result, fma(sum, load_or(tile.scales[vector], 1.0f), before), lanes);
  }
};
#endif

struct Integers {
  using Sum = IntVec;
  static Sum none() { return no_ints(); }
  static IntVec number(const uint32_t* x) { return all_words(*x); }
  static IntVec weights(const uint32_t* w) { return load_words(w); }
  static Sum add(Sum sum, IntVec x, IntVec w) { return add_products(sum, x, w); }

  // Between blocks, the results are integers, so that sums are exact.
  static void finish(const Tile& tile, int vector, int lanes, Sum sum, float* result, float row_scale) {
    if (!tile.first)
      sum = sum + bits_of(load_up_to(result, lanes));
    else if (kFourAtOnce)
      sum = sum + to_ints(load(tile.sums[vector]) * all(-128.0f));  // for the 128 that was added to x
    if (!tile.last) return store_up_to(result, as_bits(sum), lanes);
    const Vec scaled = to_floats(sum) * all(row_scale) * load_or(tile.scales[vector], 1.0f);
    store_up_to(result, scaled + load_or(tile.bias[vector], 0.0f), lanes);
  }
};

// Brings the sums of a block of rows to the results.
template <typename Form, bool WHOLE>
void finish_rows(const Tile& tile, const typename Form::Sum* sums, int rows, const Results& results) {
  for (int row = 0; row < rows; row++) {
    const float scale = results.row_scales ? results.scale(row) : 1.0f;
#pragma GCC unroll 2
    for (int vector = 0; vector < kVectors; vector++) {
      const int lanes = WHOLE ? Vec::size : tile.lanes[vector];
      Form::finish(tile, vector, lanes, sums[row * kVectors + vector], results.at(row, vector), scale);
    }
  }
}

template <typename Form>
__attribute__((noinline)) void finish_tile(const Tile& tile, const typename Form::Sum* sums, int rows,
                                           const Results& results) {
  if (tile.lanes[kVectors - 1] == Vec::size)
    finish_rows<Form, true>(tile, sums, rows, results);
  else
    finish_rows<Form, false>(tile, sums, rows, results);
}

// Multiplies a block of `ROWS` rows, packed at `x`, by a tile's block of weights.
template <typename Form, int ROWS>
void multiply_tile(const Tile& tile, const uint32_t* x, const Results& results) {
  typename Form::Sum sums[ROWS][kVectors];
  const uint32_t* weights[kVectors];
#pragma GCC unroll 16
  for (int row = 0; row < ROWS; row++) {
    __builtin_prefetch(results.at(row, 0), 1);
    __builtin_prefetch(results.at(row, kVectors - 1), 1);
#pragma GCC unroll 2
    for (int vector = 0; vector < kVectors; vector++) sums[row][vector] = Form::none();
  }
#pragma GCC unroll 2
  for (int vector = 0; vector < kVectors; vector++) weights[vector] = tile.weights[vector];
  for (int64_t word = 0; word < tile.words; word++, x += ROWS) {
    decltype(Form::weights(nullptr)) w[kVectors];
#pragma GCC unroll 2
    for (int vector = 0; vector < kVectors; vector++) w[vector] = Form::weights(weights[vector] + word * kPanel);
#pragma GCC unroll 16
    for (int row = 0; row < ROWS; row++) {
      const auto number = Form::number(x + row);
#pragma GCC unroll 2
      for (int vector = 0; vector < kVectors; vector++)
        sums[row][vector] = Form::add(sums[row][vector], number, w[vector]);
    }
  }
  typename Form::Sum kept[ROWS * kVectors];
#pragma GCC unroll 16
  for (int row = 0; row < ROWS; row++)
#pragma GCC unroll 2
    for (int vector = 0; vector < kVectors; vector++) kept[row * kVectors + vector] = sums[row][vector];
  finish_tile<Form>(tile, kept, ROWS, results);
}

using MultiplyTile = void (*)(const Tile&, const uint32_t*, const Results&);

// The function for a number of rows, from 1 to `kBlockRows`.
template <typename Form, int ROWS = kBlockRows>
MultiplyTile tile_function(int64_t rows) {
  if constexpr (ROWS == 0)
    return nullptr;
  else
    return rows == ROWS ? multiply_tile<Form, ROWS> : tile_function<Form, ROWS - 1>(rows);
}
