// Keys and values as pools store them: where the tokens of a sequence lie, and what they are in float32.
#pragma once

#include "abi.h"
#include "vec.h"

constexpr int kKeys = 64;     // the keys that are read at a time
constexpr int kStride = 272;  // floats from a key to the next where they lie in float32; odd in cache lines

// How elements of a type are read: a vector's worth of them, or one. What is read, times `unit`, is the element.
template <int32_t DTYPE>
struct Stored;
template <>
struct Stored<F32> {
  typedef float Element;
  static constexpr float unit = 1.0f;
  static Vec many(const float* p) { return load(p); }
  static float one(float x) { return x; }
};
template <>
struct Stored<F16> {
  typedef uint16_t Element;
  static constexpr float unit = 1.0f;
  static Vec many(const uint16_t* p) { return load_f16(p); }
  static float one(uint16_t x) { return f16_to_f32(x); }
};
template <>
struct Stored<BF16> {
  typedef uint16_t Element;
  static constexpr float unit = 1.0f;
  static Vec many(const uint16_t* p) { return load_bf16(p); }
  static float one(uint16_t x) { return bf16_to_f32(x); }
};
template <>
struct Stored<I8> {
  typedef int8_t Element;
  static constexpr float unit = 1.0f;
  static Vec many(const int8_t* p) { return load_i8(p); }
  static float one(int8_t x) { return (float)x; }
};
// Of float8 e4m3, all but the sign is the upper half of what a float16 has of a number 256 times smaller.
template <>
struct Stored<F8E4M3> {
  typedef int8_t Element;
  static constexpr float unit = 256.0f;
#if defined(__AVX512F__)
  static Vec many(const int8_t* p) {
    const __m256i wide = _mm256_slli_epi16(_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)p)), 7);
    return {_mm512_cvtph_ps(_mm256_and_si256(wide, _mm256_set1_epi16((int16_t)0xbfff)))};
  }
#elif defined(__AVX2__)
  static Vec many(const int8_t* p) {
    const __m128i wide = _mm_slli_epi16(_mm_cvtepi8_epi16(_mm_loadl_epi64((const __m128i*)p)), 7);
    return {_mm256_cvtph_ps(_mm_and_si128(wide, _mm_set1_epi16((int16_t)0xbfff)))};
  }
#else
  static Vec many(const int8_t* p) {
    Vec result;
    for (int i = 0; i < Vec::size; i++) result.v[i] = one(p[i]);
    return result;
  }
#endif
  static float one(int8_t x) { return f16_to_f32((uint16_t)((x & 0x80) << 8 | (x & 0x7f) << 7)); }
};

// Reads rows of a type, and takes a zero point off, which is given as a number of the type's units.
template <int32_t DTYPE, bool ZERO>
struct Reader {
  typedef typename Stored<DTYPE>::Element Element;
  Vec zeros;
  float zero;

  explicit Reader(float off) : zeros(all(off)), zero(off) {}
  Vec many(const char* row, int64_t at) const {
    const Vec x = Stored<DTYPE>::many(reinterpret_cast<const Element*>(row) + at);
    return ZERO ? x - zeros : x;
  }
  float one(const char* row, int64_t at) const {
    const float x = Stored<DTYPE>::one(reinterpret_cast<const Element*>(row)[at]);
    return ZERO ? x - zero : x;
  }
};

template <int32_t DTYPE, typename F>
inline void with_zero(float zero, F&& apply) {
  if (zero != 0.0f) return apply(Reader<DTYPE, true>(zero / Stored<DTYPE>::unit));
  apply(Reader<DTYPE, false>(0.0f));
}

// Calls `apply` with a Reader of a type for a zero point. Only types of 8 bits have one.
template <typename F>
inline void with_reader(int32_t dtype, float zero, F&& apply) {
  switch (dtype) {
    case F32: return apply(Reader<F32, false>(0.0f));
    case F16: return apply(Reader<F16, false>(0.0f));
    case BF16: return apply(Reader<BF16, false>(0.0f));
    case F8E4M3: return with_zero<F8E4M3>(zero, apply);
    case I8: return with_zero<I8>(zero, apply);
  }
}

// What is read of a type is to be multiplied by it.
inline float unit_of(int32_t dtype) { return dtype == F8E4M3 ? Stored<F8E4M3>::unit : 1.0f; }

inline int64_t bytes_of(int32_t dtype) { return dtype == F32 ? 4 : dtype == F16 || dtype == BF16 ? 2 : 1; }

inline int64_t up_to_multiple(int64_t x, int64_t of) { return (x + of - 1) / of * of; }

// Where some consecutive tokens of a sequence lie in a pool. After the last one, addresses of it stand for others.
struct Tokens {
  const char* rows[kKeys];

  void find(const View& pool, int64_t token_bytes, const int32_t* table, int64_t block, int64_t first, int count) {
    int64_t at = first / block, within = first % block;
    for (int i = 0; i < count; i++) {
      rows[i] = pool.data + table[at] * pool.stride + within * token_bytes;
      if (++within < block) continue;
      within = 0;
      at++;
    }
    for (int i = count; i < kKeys; i++) rows[i] = rows[count - 1];
  }
};

// Brings rows of a head, `offset` bytes after those of `tokens`, into float32: `out` [kKeys][kStride], in which zeros
// follow each row up to a multiple of 16, and rows of zeros the last up to a multiple of 16.
template <typename R>
inline void read_rows(const R& reader, const Tokens& tokens, int64_t offset, int count, int64_t width, float* out) {
  const int64_t padded = up_to_multiple(width, 16);
  for (int i = 0; i < count; i++) {
    const char* row = tokens.rows[i] + offset;
    float* to = out + i * kStride;
    for (int64_t at = width; at < padded; at++) to[at] = 0.0f;
    int64_t at = 0;
    for (; at + Vec::size <= width; at += Vec::size) store(to + at, reader.many(row, at));
    if (at < width && at > 0) store(to + width - Vec::size, reader.many(row, width - Vec::size));
    if (at == 0)
      for (; at < width; at++) to[at] = reader.one(row, at);
  }
  for (int i = count; i < up_to_multiple(count, 16); i++) std::memset(out + i * kStride, 0, padded * sizeof(float));
}
