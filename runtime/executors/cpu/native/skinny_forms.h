// Stored weights as vectors of float32, some inputs of a panel at a time.
//
// A form says how many inputs lie together (`kInputs`) in how many bytes (`kBytes`) for the 16 outputs of a panel, loads
// them (`Raw`, for one vector of outputs), and gives the weights of each of these inputs. What it gives is `kOffset` more
// than the value, so that this can be taken off sums instead of every weight, and divided by `kFactor`.
#pragma once

#include <cstdint>

#include "vec.h"
#include "weight.h"

constexpr int kVecs = kPanel / Vec::size;  // vectors of a panel

template <typename T, Vec (*load_vec)(const T*)>
struct Elements {
  using Raw = Vec;
  static constexpr int kInputs = 1, kBytes = kPanel * sizeof(T);
  static constexpr float kOffset = 0.0f, kFactor = 1.0f;
  static Raw raw(const char* p, int vec) { return load_vec(reinterpret_cast<const T*>(p) + vec * Vec::size); }
  static Vec weights(Raw raw, int) { return raw; }
};

using F32Form = Elements<float, load>;
using F16Form = Elements<uint16_t, load_f16>;
using BF16Form = Elements<uint16_t, load_bf16>;
using I8Form = Elements<int8_t, load_i8>;

// Float8 as float16 of a 256th: the same bits, with one more in the exponent. NaN is taken for 480.
inline Vec load_f8_part(const uint8_t* p) {
#if defined(__AVX512F__)
  const __m256i high = _mm256_slli_epi16(_mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i*)p)), 8);
  return {_mm512_cvtph_ps(_mm256_and_si256(_mm256_srai_epi16(high, 1), _mm256_set1_epi16((int16_t)0xbf80)))};
#elif defined(__AVX2__)
  const __m128i high = _mm_unpacklo_epi8(_mm_setzero_si128(), _mm_loadl_epi64((const __m128i*)p));
  return {_mm256_cvtph_ps(_mm_and_si128(_mm_srai_epi16(high, 1), _mm_set1_epi16((int16_t)0xbf80)))};
#else
  Vec r;
  for (int i = 0; i < Vec::size; i++) r.v[i] = f16_to_f32((uint16_t)((p[i] & 0x80) << 8 | (p[i] & 0x7f) << 7));
  return r;
#endif
}

struct F8Form : Elements<uint8_t, load_f8_part> {
  static constexpr float kFactor = 256.0f;
};

struct I4Form {
  static constexpr int kInputs = 8, kBytes = kPanel * 4;
  static constexpr float kFactor = 1.0f;
#if defined(__AVX512F__)
  // A permutation looks at the low four bits of a word only, and so turns them into a number at once.
  using Raw = __m512i;
  static constexpr float kOffset = 0.0f;
  static Raw raw(const char* p, int) { return _mm512_loadu_si512(p); }
  static Vec weights(Raw raw, int input) {
    const __m512 table = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
    return {_mm512_permutexvar_ps(_mm512_srli_epi32(raw, 4 * input), table)};
  }
#elif defined(__AVX2__)
  using Raw = __m256i;
  static constexpr float kOffset = 8.0f;
  static Raw raw(const char* p, int vec) { return _mm256_loadu_si256((const __m256i*)(p + vec * sizeof(Raw))); }
  static Vec weights(Raw raw, int input) {
    return {_mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srli_epi32(raw, 4 * input), _mm256_set1_epi32(15)))};
  }
#else
  struct Raw {
    uint32_t words[Vec::size];
  };
  static constexpr float kOffset = 8.0f;
  static Raw raw(const char* p, int vec) {
    Raw raw;
    std::memcpy(&raw, p + vec * sizeof raw, sizeof raw);
    return raw;
  }
  static Vec weights(const Raw& raw, int input) {
    Vec r;
    for (int i = 0; i < Vec::size; i++) r.v[i] = (float)(int32_t)(raw.words[i] >> (4 * input) & 15);
    return r;
  }
#endif
};
