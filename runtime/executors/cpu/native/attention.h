// Attention over pools of blocks: what its parts share.
#pragma once

#include "abi.h"
#include "cache_rows.h"
#include "vec.h"

constexpr float kLog2E = 1.44269504f;

// The attributes of `paged_attention`. A head is one of keys and values, unless it is called a query head.
struct Attention {
  int64_t heads, kv_heads;    // query heads, and those of keys and values, which as many query heads each share
  int64_t width_k, width_v;   // the elements of a head's key and value, up to 256
  int64_t block;              // the tokens of a block
  int64_t window;             // how many positions back a token sees; negative: all
  float scale;                // factor on the scores
  int32_t unused;
  const float* slopes;        // [heads], of ALiBi; or null
  const float *k_scales, *k_zeros, *v_scales, *v_zeros;  // [kv_heads] each, of pools of 8 bits; or null

  int64_t group() const { return heads / kv_heads; }
  float k_zero(int64_t head) const { return k_zeros ? k_zeros[head] : 0.0f; }
  float v_zero(int64_t head) const { return v_zeros ? v_zeros[head] : 0.0f; }
  // What queries are multiplied by, so that products with keys as they are read are scores, as powers of 2.
  float query_factor(int64_t head, int32_t dtype) const {
    return scale * kLog2E * unit_of(dtype) * (k_scales ? k_scales[head] : 1.0f);
  }
  // What sums of values as they are read are multiplied by.
  float value_factor(int64_t head, int32_t dtype) const { return unit_of(dtype) * (v_scales ? v_scales[head] : 1.0f); }
  int64_t first_seen(int64_t position) const { return window < 0 || position < window ? 0 : position - window; }
};

// The tokens of a sequence in a step: a row of the operand `spans`.
struct Span {
  int32_t first, tokens, past, table;
};

// What the kernel is called with.
struct Operands {
  const View &q, &spans, &tables, &k, &v, &out, &scratch;

  explicit Operands(const View* views)
      : q(views[0]), spans(views[1]), tables(views[2]), k(views[3]), v(views[4]), out(views[5]), scratch(views[6]) {}
  const Span& span(int64_t at) const { return *row<Span>(spans, at); }
  const int32_t* table(const Span& span) const { return row<int32_t>(tables, tables.rows == 1 ? 0 : span.table); }
};

constexpr float kLeast = -1.0e30f;      // the largest score so far where there is none
constexpr float kHidden = -3.0e38f;     // makes a score one that is not seen
constexpr int kHalf = Vec::size;        // queries of half a tile
constexpr int kTile = 2 * Vec::size;    // queries of a tile

// 2**x to about one unit in the last place; 0 where x is less than -126; NaN of NaN.
inline Vec power_of_two(Vec x) {
  x = larger(all(-160.0f), x);
  Vec n = rounded(x);
  const Vec r = x - n;
  Vec p = all(0x1.41d332p-13f);
  constexpr float factors[] = {0x1.5f456ap-10f, 0x1.3b2dbcp-7f, 0x1.c6aed4p-5f, 0x1.ebfbdap-3f, 0x1.62e430p-1f, 1.0f};
  for (float factor : factors) p = fma(p, r, all(factor));
#if defined(__AVX512F__)
  return {_mm512_scalef_ps(p.v, n.v)};
#else
  return p * two_to(larger(all(-127.0f), n));
#endif
}

inline float power_of_two(float x) {
  float lanes[Vec::size];
  store(lanes, power_of_two(all(x)));
  return lanes[0];
}

// Attention of single tokens, over this thread's part of all their keys; then, when all threads have done theirs, the
// joining of sequences of which several threads had a part. See attention_single.h.
void attend_singles(const Call* call, const Attention& form);
void join_singles(const Call* call, const Attention& form);
int64_t singles_scratch(const Attention& form);  // floats of a thread

// Attention of sequences with several new tokens, tile by tile. Its scratch memory begins after so many floats.
void attend_prompts(const Call* call, const Attention& form, int64_t before);
int64_t prompts_scratch(const Attention& form);  // floats of a thread
