// Blocks of stored weights in the forms that products of many rows multiply.
#pragma once

#include <cstdint>

#include "tile.h"
#include "vec.h"
#include "weight.h"

// The numbers of an input of a panel, the i-th after `first`, a multiple of 8, as they are stored, from one lane on.
struct StoredF32 {
  static Vec load_at(const void* panel, int64_t first, int i, int lane) {
    return load(static_cast<const float*>(panel) + (first + i) * kPanel + lane);
  }
};
struct StoredF16 {
  static Vec load_at(const void* panel, int64_t first, int i, int lane) {
    return load_f16(static_cast<const uint16_t*>(panel) + (first + i) * kPanel + lane);
  }
};
struct StoredBF16 {
  static Vec load_at(const void* panel, int64_t first, int i, int lane) {
    return load_bf16(static_cast<const uint16_t*>(panel) + (first + i) * kPanel + lane);
  }
};
struct StoredF8 {
  static Vec load_at(const void* panel, int64_t first, int i, int lane) {
    return load_f8(static_cast<const uint8_t*>(panel) + (first + i) * kPanel + lane);
  }
};
struct StoredI8 {
  static Vec load_at(const void* panel, int64_t first, int i, int lane) {
    return load_i8(static_cast<const int8_t*>(panel) + (first + i) * kPanel + lane);
  }
};
struct StoredI4 {
  static Vec load_at(const void* panel, int64_t first, int i, int lane) {
    const uint32_t* words = static_cast<const uint32_t*>(panel) + first / 8 * kPanel + lane;
#if defined(__AVX512F__)
    const __m512 values = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
    return {_mm512_permutexvar_ps(_mm512_srlv_epi32(_mm512_loadu_si512(words), _mm512_set1_epi32(4 * i)), values)};
#elif defined(__AVX2__)
    const __m256i shifted = _mm256_srlv_epi32(_mm256_loadu_si256((const __m256i*)words), _mm256_set1_epi32(4 * i));
    return to_floats({_mm256_and_si256(shifted, _mm256_set1_epi32(15))}) - all(8.0f);
#else
    Vec r;
    for (int each = 0; each < Vec::size; each++) r.v[each] = (float)((int)(words[each] >> 4 * i & 15) - 8);
    return r;
#endif
  }
};

// Calls `with(a Stored…)` for a type of weights.
template <typename F>
inline void with_stored(int32_t dtype, F&& with) {
  switch (dtype) {
    case F16: return with(StoredF16());
    case BF16: return with(StoredBF16());
    case F8E4M3: return with(StoredF8());
    case I8: return with(StoredI8());
    case I4: return with(StoredI4());
    default: return with(StoredF32());
  }
}

// Bytes of a panel's weights, up to one input of it.
inline int64_t panel_bytes(const Weight& weight, int64_t inputs) {
  if (weight.dtype == I4) return (inputs + 7) / 8 * kPanel * 4;
  if (weight.integers) return (inputs + 3) / 4 * kPanel * 4;
  const int64_t bytes = weight.dtype == F32 ? 4 : weight.dtype == F16 || weight.dtype == BF16 ? 2 : 1;
  return inputs * kPanel * bytes;
}

inline const char* panel_of(const Weight& weight, int64_t panel) {
  return static_cast<const char*>(weight.panels) + panel * panel_bytes(weight, weight.k);
}

// Calls `with(first, i)` for inputs `first + i`, `first` being a multiple of 8: all of them, or each second one.
template <int STEP, typename F>
inline void for_inputs(int64_t begin, int64_t end, F&& with) {
  int64_t at = begin;
  for (; at < end && at % 8; at += STEP) with(at / 8 * 8, (int)(at % 8));
  for (; at + 8 <= end; at += 8)
#pragma GCC unroll 8
    for (int i = 0; i < 8; i += STEP) with(at, i);
  for (; at < end; at += STEP) with(at / 8 * 8, (int)(at % 8));
}

// Some inputs of a panel as float32, scaled, [inputs][16].
template <typename Stored>
void decode_floats(const Weight& weight, int64_t panel, int64_t begin, int64_t end, float* to) {
  const char* stored = panel_of(weight, panel);
  const int64_t groups = weight.groups, group = groups ? weight.k / groups : weight.k;
  for (int64_t input = begin; input < end;) {
    const int64_t which = panel * groups + input / group;
    const int64_t until = (input / group + 1) * group < end ? (input / group + 1) * group : end;
    for (int lane = 0; lane < kPanel; lane += Vec::size) {
      float* column = to - begin * kPanel + lane;
      const Vec scale = groups ? load(weight.scales + which * kPanel + lane) : all(1.0f);
      const Vec zero = weight.zeros ? load(weight.zeros + which * kPanel + lane) : zeros();
      for_inputs<1>(input, until, [=](int64_t first, int i) {
        store(column + (first + i) * kPanel, Stored::load_at(stored, first, i, lane) * scale - zero);
      });
    }
    input = until;
  }
}

#if defined(__AVX512BF16__)
// Some inputs of a panel, all of one group, as pairs of bfloat16, not scaled: [inputs / 2][16]. This is exact, because
// numbers and their zero points are whole, and their differences below 256. The first input is an even one.
template <typename Stored>
void decode_pairs(const Weight& weight, int64_t panel, int64_t begin, int64_t end, uint32_t* to) {
  const char* stored = panel_of(weight, panel);
  const __m512i high_half = _mm512_set1_epi32((int)0xffff0000);
  Vec zero = zeros();
  if (weight.zeros) {
    const int64_t first = (panel * weight.groups + begin / (weight.k / weight.groups)) * kPanel;
    const Vec scale = load(weight.scales + first), scaled = load(weight.zeros + first);
    const __mmask16 some = _mm512_cmp_ps_mask(scale.v, zeros().v, _CMP_NEQ_UQ);
    zero = rounded({_mm512_maskz_div_ps(some, scaled.v, scale.v)});
  }
  const auto write = [=](int64_t input, Vec low, Vec high) {
    const __m512i words = _mm512_and_si512(_mm512_castps_si512((high - zero).v), high_half);
    const __m512i low_half = _mm512_srli_epi32(_mm512_castps_si512((low - zero).v), 16);
    _mm512_storeu_si512(to + (input - begin) / 2 * kPanel, _mm512_or_si512(words, low_half));
  };
  const int64_t whole = (end - begin) / 2 * 2 + begin;
  for_inputs<2>(begin, whole, [=](int64_t first, int i) {
    write(first + i, Stored::load_at(stored, first, i, 0), Stored::load_at(stored, first, i + 1, 0));
  });
  if (whole < end) write(whole, Stored::load_at(stored, whole / 8 * 8, (int)(whole % 8), 0), zero);
}
#endif

// Some inputs of a panel, in fours, as int16: [inputs / 4][2][16][2], the even ones before the odd ones.
inline void decode_halves(const char* panel, int64_t begin, int64_t end, uint32_t* to) {
  const uint32_t* from = reinterpret_cast<const uint32_t*>(panel) + begin * kPanel;
  for (int64_t four = begin; four < end; four++, from += kPanel, to += 2 * kPanel)
    for (int i = 0; i < kPanel; i++) {
      const auto wide = [word = from[i]](int place) { return (uint32_t)(uint16_t)(int8_t)(word >> 8 * place); };
      to[i] = wide(0) | wide(2) << 16;
      to[kPanel + i] = wide(1) | wide(3) << 16;
    }
}
