// Vectors across which something runs: sums of many vectors at once, and blocks of a matrix turned over.
#pragma once

#include "vec.h"

// The sum of each of so many vectors as a vector has lanes.
#if defined(__AVX512F__)
inline Vec sums_of(const Vec* x) {
  __m512 quarters[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    const __m512 a = x[4 * i].v, b = x[4 * i + 1].v, c = x[4 * i + 2].v, d = x[4 * i + 3].v;
    const __m512d ab = _mm512_castps_pd(_mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)));
    const __m512d cd = _mm512_castps_pd(_mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d)));
    quarters[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd)),
                                _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd)));
  }
  const auto halves = [](__m512 a, __m512 b) {  // of a: 0 + 2, 1 + 3; then of b
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
  };
  const __m512 low = halves(quarters[0], quarters[1]), high = halves(quarters[2], quarters[3]);
  return {_mm512_add_ps(_mm512_shuffle_f32x4(low, high, 0x88), _mm512_shuffle_f32x4(low, high, 0xdd))};
}
#elif defined(__AVX2__)
inline Vec sums_of(const Vec* x) {
  __m256 halves[2];
#pragma GCC unroll 2
  for (int i = 0; i < 2; i++) {
    const __m256 ab = _mm256_hadd_ps(x[4 * i].v, x[4 * i + 1].v), cd = _mm256_hadd_ps(x[4 * i + 2].v, x[4 * i + 3].v);
    halves[i] = _mm256_hadd_ps(ab, cd);
  }
  return {_mm256_add_ps(_mm256_permute2f128_ps(halves[0], halves[1], 0x20),
                        _mm256_permute2f128_ps(halves[0], halves[1], 0x31))};
}
#else
inline Vec sums_of(const Vec* x) {
  Vec result;
  for (int i = 0; i < Vec::size; i++) result.v[i] = sum(x[i]);
  return result;
}
#endif

// to[j * to_step + i] = from[i * from_step + j] for i and j from 0 to 3.
inline void turn_block(const float* from, int64_t from_step, float* to, int64_t to_step) {
#if defined(__AVX2__)
  __m128 a = _mm_loadu_ps(from), b = _mm_loadu_ps(from + from_step);
  __m128 c = _mm_loadu_ps(from + 2 * from_step), d = _mm_loadu_ps(from + 3 * from_step);
  _MM_TRANSPOSE4_PS(a, b, c, d);
  _mm_storeu_ps(to, a);
  _mm_storeu_ps(to + to_step, b);
  _mm_storeu_ps(to + 2 * to_step, c);
  _mm_storeu_ps(to + 3 * to_step, d);
#else
  for (int i = 0; i < 4; i++)
    for (int j = 0; j < 4; j++) to[j * to_step + i] = from[i * from_step + j];
#endif
}
