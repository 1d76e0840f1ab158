// Vectors of float32, as wide as the CPU's: 16 with AVX-512, 8 with AVX2, and 8 in plain C.
//
// `Vec` and the functions here are all that most kernels need of a CPU; what they compile to depends on the flags that
// the library is built with. Numbers of other types become float32 when they are loaded.
//
// `larger` and `smaller` give their second operand if either is NaN. `where_less` chooses lane by lane; `swapped` changes
// places in each pair of lanes.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

inline float from_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline uint32_t to_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline float f16_to_f32(uint16_t h) {
  const uint32_t sign = (uint32_t)(h & 0x8000) << 16, magnitude = h & 0x7fff;
  if (magnitude >= 0x7c00) return from_bits(sign | 0x7f800000 | (magnitude & 0x3ff) << 13);
  // An exponent that is 112 too small is made up for by a product, which takes subnormal numbers, too.
  return from_bits(sign | to_bits(from_bits(magnitude << 13) * 0x1p112f));
}

inline uint16_t f32_to_f16(float value) {
  const uint32_t bits = to_bits(value), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  if (magnitude >= 0x477ff000) return sign | 0x7c00;  // 65520 and more
  if (magnitude < 0x38800000)                         // subnormal: a sum with 0.5 rounds at 2**-24
    return sign | (to_bits(from_bits(magnitude) + 0.5f) - 0x3f000000);
  return sign | (magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13;
}

inline float bf16_to_f32(uint16_t b) { return from_bits((uint32_t)b << 16); }

inline uint16_t f32_to_bf16(float value) {
  const uint32_t bits = to_bits(value);
  if ((bits & 0x7fffffff) > 0x7f800000) return bits >> 16 | 0x40;
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

// float8 e4m3 has four bits of exponent (bias 7), no infinity, and two NaN: 0x7f and 0xff.
inline float f8_to_f32(uint8_t f) {
  if ((f & 0x7f) == 0x7f) return from_bits(0x7fc00000);
  return f16_to_f32((uint16_t)((f & 0x80) << 8 | (f & 0x7f) << 7)) * 256.0f;
}

#if defined(__AVX512F__)

struct Vec {
  static constexpr int size = 16;
  __m512 v;
};
inline Vec zeros() { return {_mm512_setzero_ps()}; }
inline Vec all(float x) { return {_mm512_set1_ps(x)}; }
inline Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store(float* p, Vec a) { _mm512_storeu_ps(p, a.v); }
inline Vec load_some(const float* p, int n) { return {_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p)}; }
inline void store_some(float* p, Vec a, int n) { _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), a.v); }
inline Vec operator+(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Vec operator-(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Vec operator*(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Vec operator/(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }  // a * b + c
inline Vec larger(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
inline Vec smaller(Vec a, Vec b) { return {_mm512_min_ps(a.v, b.v)}; }
inline Vec where_less(Vec a, Vec b, Vec yes, Vec no) {
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ), no.v, yes.v)};
}
inline Vec swapped(Vec a) { return {_mm512_permute_ps(a.v, 0xb1)}; }
inline Vec rounded(Vec a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
inline Vec two_to(Vec n) { return {_mm512_scalef_ps(_mm512_set1_ps(1.0f), n.v)}; }  // n is whole, -126 to 127
inline float sum(Vec a) { return _mm512_reduce_add_ps(a.v); }
inline float largest(Vec a) { return _mm512_reduce_max_ps(a.v); }
inline Vec load_f16(const uint16_t* p) { return {_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p))}; }
inline Vec load_bf16(const uint16_t* p) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16))};
}
inline Vec load_i8(const int8_t* p) {
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)))};
}
inline Vec load_f8(const uint8_t* p) {  // NaN is taken for 480
  const __m256i wide = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i*)p));
  const __m256i sign = _mm256_slli_epi16(_mm256_and_si256(wide, _mm256_set1_epi16(0x80)), 8);
  const __m256i rest = _mm256_slli_epi16(_mm256_and_si256(wide, _mm256_set1_epi16(0x7f)), 7);
  return Vec{_mm512_cvtph_ps(_mm256_or_si256(sign, rest))} * all(256.0f);
}

#elif defined(__AVX2__)

struct Vec {
  static constexpr int size = 8;
  __m256 v;
};
inline __m256i some_lanes(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
inline Vec zeros() { return {_mm256_setzero_ps()}; }
inline Vec all(float x) { return {_mm256_set1_ps(x)}; }
inline Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
inline void store(float* p, Vec a) { _mm256_storeu_ps(p, a.v); }
inline Vec load_some(const float* p, int n) { return {_mm256_maskload_ps(p, some_lanes(n))}; }
inline void store_some(float* p, Vec a, int n) { _mm256_maskstore_ps(p, some_lanes(n), a.v); }
inline Vec operator+(Vec a, Vec b) { return {_mm256_add_ps(a.v, b.v)}; }
inline Vec operator-(Vec a, Vec b) { return {_mm256_sub_ps(a.v, b.v)}; }
inline Vec operator*(Vec a, Vec b) { return {_mm256_mul_ps(a.v, b.v)}; }
inline Vec operator/(Vec a, Vec b) { return {_mm256_div_ps(a.v, b.v)}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }  // a * b + c
inline Vec larger(Vec a, Vec b) { return {_mm256_max_ps(a.v, b.v)}; }
inline Vec smaller(Vec a, Vec b) { return {_mm256_min_ps(a.v, b.v)}; }
inline Vec where_less(Vec a, Vec b, Vec yes, Vec no) {
  return {_mm256_blendv_ps(no.v, yes.v, _mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ))};
}
inline Vec swapped(Vec a) { return {_mm256_permute_ps(a.v, 0xb1)}; }
inline Vec rounded(Vec a) { return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
inline Vec two_to(Vec n) {  // n is whole, -126 to 127
  const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n.v), _mm256_set1_epi32(127));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23))};
}
inline float sum(Vec a) {
  __m128 half = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  half = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}
inline float largest(Vec a) {
  __m128 half = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  half = _mm_max_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
}
inline Vec load_f16(const uint16_t* p) { return {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p))}; }
inline Vec load_bf16(const uint16_t* p) {
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(wide, 16))};
}
inline Vec load_i8(const int8_t* p) {
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)))};
}
inline Vec load_f8(const uint8_t* p) {  // NaN is taken for 480
  const __m128i wide = _mm_cvtepu8_epi16(_mm_loadl_epi64((const __m128i*)p));
  const __m128i sign = _mm_slli_epi16(_mm_and_si128(wide, _mm_set1_epi16(0x80)), 8);
  const __m128i rest = _mm_slli_epi16(_mm_and_si128(wide, _mm_set1_epi16(0x7f)), 7);
  return Vec{_mm256_cvtph_ps(_mm_or_si128(sign, rest))} * all(256.0f);
}

#else

struct Vec {
  static constexpr int size = 8;
  float v[size];
};
#define LANES(expression)                                  \
  Vec r;                                                   \
  for (int i = 0; i < Vec::size; i++) r.v[i] = expression; \
  return r
inline Vec zeros() { LANES(0.0f); }
inline Vec all(float x) { LANES(x); }
inline Vec load(const float* p) { LANES(p[i]); }
inline void store(float* p, Vec a) { std::memcpy(p, a.v, sizeof a.v); }
inline Vec load_some(const float* p, int n) { LANES(i < n ? p[i] : 0.0f); }
inline void store_some(float* p, Vec a, int n) { std::memcpy(p, a.v, n * sizeof(float)); }
inline Vec operator+(Vec a, Vec b) { LANES(a.v[i] + b.v[i]); }
inline Vec operator-(Vec a, Vec b) { LANES(a.v[i] - b.v[i]); }
inline Vec operator*(Vec a, Vec b) { LANES(a.v[i] * b.v[i]); }
inline Vec operator/(Vec a, Vec b) { LANES(a.v[i] / b.v[i]); }
inline Vec fma(Vec a, Vec b, Vec c) { LANES(a.v[i] * b.v[i] + c.v[i]); }  // a * b + c
inline Vec larger(Vec a, Vec b) { LANES(a.v[i] > b.v[i] ? a.v[i] : b.v[i]); }
inline Vec smaller(Vec a, Vec b) { LANES(a.v[i] < b.v[i] ? a.v[i] : b.v[i]); }
inline Vec where_less(Vec a, Vec b, Vec yes, Vec no) { LANES(a.v[i] < b.v[i] ? yes.v[i] : no.v[i]); }
inline Vec swapped(Vec a) { LANES(a.v[i ^ 1]); }
inline Vec rounded(Vec a) { LANES(std::nearbyint(a.v[i])); }
inline Vec two_to(Vec n) { LANES(from_bits((uint32_t)((int32_t)n.v[i] + 127) << 23)); }  // n is whole, -126 to 127
inline float sum(Vec a) {
  float r = 0.0f;
  for (float x : a.v) r += x;
  return r;
}
inline float largest(Vec a) {
  float r = a.v[0];
  for (float x : a.v) r = x > r ? x : r;
  return r;
}
inline Vec load_f16(const uint16_t* p) { LANES(f16_to_f32(p[i])); }
inline Vec load_bf16(const uint16_t* p) { LANES(bf16_to_f32(p[i])); }
inline Vec load_i8(const int8_t* p) { LANES((float)p[i]); }
inline Vec load_f8(const uint8_t* p) { LANES(f8_to_f32(p[i])); }
#undef LANES

#endif

// exp(x) to about one unit in the last place: 2**n * p(r), n the nearest whole number to x / ln 2, p a polynomial of
// degree 6 for r within ln 2 / 2 of 0. Below -87 it is next to 0, above 88 the largest that this gives.
inline Vec exp(Vec x) {
  x = smaller(all(88.0f), larger(all(-87.0f), x));  // in this order NaN stays
  const Vec n = rounded(x * all(1.44269504f));
  Vec r = fma(n, all(-0.693359375f), x);  // ln 2 in two parts, so that the difference is exact
  r = fma(n, all(2.12194440e-4f), r);
  Vec p = all(0.00138144649f);
  constexpr float factors[] = {0.00836878084f, 0.0416683927f, 0.166665196f, 0.49999994f, 1.0f, 1.0f};
  for (float factor : factors) p = fma(p, r, all(factor));
  return p * two_to(n);
}
