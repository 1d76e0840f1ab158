// Packing the rows of x for products of many rows.
#include <cstring>

#include "vec.h"
#include "wide.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace {

// Writes the words of four rows side by side: the four of each word at `to`, `step` words after those of the last.
#if defined(__SSE2__)
inline void side_by_side(const uint32_t* const* rows, int64_t at, uint32_t* to, int64_t step) {
  __m128 words[4];
  for (int i = 0; i < 4; i++) words[i] = _mm_loadu_ps(reinterpret_cast<const float*>(rows[i] + at));
  _MM_TRANSPOSE4_PS(words[0], words[1], words[2], words[3]);
  for (int i = 0; i < 4; i++) _mm_storeu_ps(reinterpret_cast<float*>(to + i * step), words[i]);
}
#else
inline void side_by_side(const uint32_t* const* rows, int64_t at, uint32_t* to, int64_t step) {
  for (int i = 0; i < 4; i++)
    for (int each = 0; each < 4; each++) to[i * step + each] = rows[each][at + i];
}
#endif

// Interleaves so many words of so many rows.
void interleave(const uint32_t* const* rows, int64_t count, int64_t words, uint32_t* to) {
  const int64_t whole = count < 4 ? 0 : words / 4 * 4;
  for (int64_t at = 0; at < whole; at += 4)
    for (int64_t four = 0; four < count; four += 4) {
      const int64_t first = four + 4 <= count ? four : count - 4;  // the last four overlap the ones before
      side_by_side(rows + first, at, to + at * count + first, count);
    }
  for (int64_t at = whole; at < words; at++)
    for (int64_t each = 0; each < count; each++) to[at * count + each] = rows[each][at];
}

// The words of a row from one number on: two float32 each, as bfloat16. The row has so many more numbers.
void to_pairs(const float* x, int64_t numbers, int64_t words, uint32_t* to) {
  const int64_t whole = 2 * words <= numbers ? words : numbers / 2;
  for (int64_t at = 0; at < whole; at++)
    to[at] = (uint32_t)f32_to_bf16(x[2 * at]) | (uint32_t)f32_to_bf16(x[2 * at + 1]) << 16;
  if (whole < words) to[whole] = f32_to_bf16(x[2 * whole]);
}

// Four int8 as one word with 128 added to each, or as two: those of even places, and those of odd ones.
inline void to_integers(uint32_t four, uint32_t* to) {
  if (kFourAtOnce) {
    to[0] = four ^ 0x80808080;
  } else {
    const auto wide = [four](int place) { return (uint32_t)(uint16_t)(int8_t)(four >> 8 * place); };
    to[0] = wide(0) | wide(2) << 16;
    to[1] = wide(1) | wide(3) << 16;
  }
}

// The words of a row from one number on: of int8. The row has so many more numbers.
void to_integers(const int8_t* x, int64_t numbers, int64_t words, uint32_t* to) {
  constexpr int64_t kWords = kFourAtOnce ? 1 : 2;  // of four numbers
  const int64_t fours = words / kWords, whole = 4 * fours <= numbers ? fours : numbers / 4;
  for (int64_t at = 0; at < whole; at++) {
    uint32_t four;
    std::memcpy(&four, x + 4 * at, 4);
    to_integers(four, to + kWords * at);
  }
  if (whole < fours) {
    uint32_t four = 0;
    std::memcpy(&four, x + 4 * whole, numbers - 4 * whole);
    to_integers(four, to + kWords * whole);
  }
}

}  // namespace

extern "C" {

// views: x, float32 or int8 by the form; the packed rows, for each as many bytes as its words have.
void llmc_pack_rows(const Call* call) {
  const auto& packing = *static_cast<const RowPacking*>(call->attributes);
  const View &x = call->views[0], &packed = call->views[1];
  if (x.rows <= packing.fewer) return;
  const RowBlocks blocks(x.rows, row_words(packing.form, x.columns));
  const int64_t slabs = (blocks.words + kSlab - 1) / kSlab;
  const int64_t numbers = packing.form == FLOATS ? 1 : packing.form == PAIRS ? 2 : kFourAtOnce ? 4 : 2;  // of a word
  uint32_t encoded[kBlockRows][kSlab];
  const Range items = part_of(call, blocks.count * slabs);
  for (int64_t item = items.begin; item < items.end; item++) {
    const int64_t block = item % blocks.count, word = item / blocks.count * kSlab, number = word * numbers;
    const int64_t first = blocks.begin(block), count = blocks.size(block);
    const int64_t some = blocks.words - word < kSlab ? blocks.words - word : kSlab;
    const uint32_t* rows[kBlockRows];
    for (int64_t each = 0; each < count; each++) {
      rows[each] = encoded[each];
      if (packing.form == FLOATS)
        rows[each] = row<uint32_t>(x, first + each) + word;
      else if (packing.form == PAIRS)
        to_pairs(row<float>(x, first + each) + number, x.columns - number, some, encoded[each]);
      else
        to_integers(row<int8_t>(x, first + each) + number, x.columns - number, some, encoded[each]);
    }
    interleave(rows, count, some, reinterpret_cast<uint32_t*>(packed.data) + blocks.offset(block, word));
  }
}

}  // extern "C"
