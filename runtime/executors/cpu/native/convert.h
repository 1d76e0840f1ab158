// Conversions between the types of elements.
#pragma once

#include <cstdint>

#include "abi.h"
#include "vec.h"

// The nearest float8 e4m3, ties to even. What is larger than the type's largest number becomes that; NaN stays.
inline uint8_t f32_to_f8(float value) {
  const uint32_t bits = to_bits(value), sign = bits >> 24 & 0x80, magnitude = bits & 0x7fffffff;
  // Below 2**-6 a sum with 2**14 rounds at 2**-9. Above it the exponent's bias changes from 127 to 7.
  const uint32_t small = to_bits(from_bits(magnitude) + 0x1p14f) - to_bits(0x1p14f);
  const uint32_t large = (magnitude - (120u << 23) + 0x7ffff + (magnitude >> 20 & 1)) >> 20;
  const uint32_t rounded = magnitude < 0x3c800000 ? small : large;
  const uint32_t most = magnitude > 0x7f800000 ? 0x7f : 0x7e;
  return sign | (magnitude >= 0x43e00000 ? most : rounded);  // from 448 on
}

inline void store_f16(uint16_t* p, Vec a) {
#if defined(__AVX512F__)
  _mm256_storeu_si256((__m256i*)p, _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#elif defined(__AVX2__)
  _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#else
  for (int i = 0; i < Vec::size; i++) p[i] = f32_to_f16(a.v[i]);
#endif
}

// Stores whole numbers from -128 to 127.
inline void store_i8(int8_t* p, Vec a) {
#if defined(__AVX512F__)
  _mm_storeu_si128((__m128i*)p, _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(a.v)));
#elif defined(__AVX2__)
  const __m256i wide = _mm256_cvtps_epi32(a.v);
  const __m128i half = _mm_packs_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
  _mm_storel_epi64((__m128i*)p, _mm_packs_epi16(half, half));
#else
  for (int i = 0; i < Vec::size; i++) p[i] = (int8_t)(int32_t)a.v[i];
#endif
}

inline int64_t bytes_of(int32_t type) {
  switch (type) {
    case F32:
    case I32: return 4;
    case F16:
    case BF16: return 2;
    case I64: return 8;
    default: return 1;
  }
}

// Converts so many elements of one type to another (DType in abi.h, but I4). Floating-point numbers are rounded to the
// nearest, ties to even, and lose their fraction when they become integers; any but 0 is a true bool.
void convert(const void* from, int32_t from_type, void* to, int32_t to_type, int64_t count);
