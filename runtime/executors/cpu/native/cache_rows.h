// Keys and values as pools store them: where the tokens of a sequence lie, and what they are in float32.
#pragma once

#include "abi.h"
#include "vec.h"

constexpr int kKeys = 64;     // the keys that are read at a time
constexpr int kStride = 272;  // floats from a key to the next where they lie in float32; odd in cache lines

// What turns stored elements into what they stand for: scale * (q - zero).
struct Scaling {
  float scale, zero;
};

// How elements of a type are read; each has a vector's worth at an index, and a single one.
template <int32_t DTYPE>
struct Stored;
template <>
struct Stored<F32> {
  typedef float Element;
  static Vec load_many(const float* p) { return load(p); }
  static float load_one(const float* p) { return *p; }
};
template <>
struct Stored<F16> {
  typedef uint16_t Element;
  static Vec load_many(const uint16_t* p) { return load_f16(p); }
  static float load_one(const uint16_t* p) { return f16_to_f32(*p); }
};
template <>
struct Stored<BF16> {
  typedef uint16_t Element;
  static Vec load_many(const uint16_t* p) { return load_bf16(p); }
  static float load_one(const uint16_t* p) { return bf16_to_f32(*p); }
};
template <>
struct Stored<F8E4M3> {
  typedef uint8_t Element;
  static Vec load_many(const uint8_t* p) { return load_f8(p); }
  static float load_one(const uint8_t* p) { return f8_to_f32(*p); }
};
template <>
struct Stored<I8> {
  typedef int8_t Element;
  static Vec load_many(const int8_t* p) { return load_i8(p); }
  static float load_one(const int8_t* p) { return (float)*p; }
};

// Reads rows of a type. Only those of 8 bits are scaled.
template <int32_t DTYPE>
struct Reader {
  typedef typename Stored<DTYPE>::Element Element;
  static constexpr bool scaled = sizeof(Element) == 1;
  Vec scale, zero;
  Scaling scaling;

  explicit Reader(Scaling by) : scale(all(by.scale)), zero(all(by.zero)), scaling(by) {}
  Vec many(const char* row, int64_t at) const {
    const Vec x = Stored<DTYPE>::load_many(reinterpret_cast<const Element*>(row) + at);
    return scaled ? (x - zero) * scale : x;
  }
  float one(const char* row, int64_t at) const {
    const float x = Stored<DTYPE>::load_one(reinterpret_cast<const Element*>(row) + at);
    return scaled ? (x - scaling.zero) * scaling.scale : x;
  }
};

// Calls `apply` with a Reader of a type.
template <typename F>
inline void with_reader(int32_t dtype, Scaling scaling, F&& apply) {
  switch (dtype) {
    case F32: return apply(Reader<F32>(scaling));
    case F16: return apply(Reader<F16>(scaling));
    case BF16: return apply(Reader<BF16>(scaling));
    case F8E4M3: return apply(Reader<F8E4M3>(scaling));
    case I8: return apply(Reader<I8>(scaling));
  }
}

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
    int64_t at = 0;
    for (; at + Vec::size <= width; at += Vec::size) store(to + at, reader.many(row, at));
    for (; at < width; at++) to[at] = reader.one(row, at);
    for (; at < padded; at++) to[at] = 0.0f;
  }
  for (int i = count; i < up_to_multiple(count, 16); i++) std::memset(out + i * kStride, 0, padded * sizeof(float));
}
