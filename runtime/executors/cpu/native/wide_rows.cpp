// Packing the rows of x for products of many rows.
#include <cstring>

#include "vec.h"
#include "wide.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace {

constexpr int64_t kChunk = 256;  // words of a row that are packed at a time

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

// The words of a row from one number on: two float32 each, as bfloat16.
void to_pairs(const float* x, int64_t numbers, int64_t words, uint32_t* to) {
  for (int64_t at = 0; at < words; at++) {
    const uint32_t low = f32_to_bf16(x[2 * at]);
    const uint32_t high = 2 * at + 1 < numbers ? f32_to_bf16(x[2 * at + 1]) : 0;
    to[at] = low | high << 16;
  }
}

// The words of a row from one number on: four int8 each, with 128 added; or those of even places, and of odd ones.
void to_integers(const int8_t* x, int64_t numbers, int64_t words, uint32_t* to) {
  constexpr int64_t kWords = kFourAtOnce ? 1 : 2;  // of four numbers
  for (int64_t at = 0; at < words / kWords; at++) {
    uint32_t four = 0;
    std::memcpy(&four, x + 4 * at, numbers - 4 * at < 4 ? numbers - 4 * at : 4);
    if (kFourAtOnce) {
      to[at] = four ^ 0x80808080;
    } else {
      const auto wide = [four](int place) { return (uint32_t)(uint16_t)(int8_t)(four >> 8 * place); };
      to[2 * at] = wide(0) | wide(2) << 16;
      to[2 * at + 1] = wide(1) | wide(3) << 16;
    }
  }
}

}  // namespace

extern "C" {

// views: x, float32 or int8 by the form; the packed rows, for each as many bytes as its words have.
void llmc_pack_rows(const Call* call) {
  const auto& packing = *static_cast<const RowPacking*>(call->attributes);
  const View &x = call->views[0], &packed = call->views[1];
  if (x.rows <= packing.fewer) return;
  const RowBlocks blocks(x.rows);
  const int64_t words = row_words(packing.form, x.columns), chunks = (words + kChunk - 1) / kChunk;
  const int64_t numbers = packing.form == FLOATS ? 1 : packing.form == PAIRS ? 2 : kFourAtOnce ? 4 : 2;  // of a word
  uint32_t encoded[kBlockRows][kChunk];
  const Range items = part_of(call, blocks.count * chunks);
  for (int64_t item = items.begin; item < items.end; item++) {
    const int64_t block = item / chunks, word = item % chunks * kChunk;
    const int64_t first = blocks.begin(block), count = blocks.begin(block + 1) - first;
    const int64_t some = words - word < kChunk ? words - word : kChunk, number = word * numbers;
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
    interleave(rows, count, some, reinterpret_cast<uint32_t*>(packed.data) + first * words + word * count);
  }
}

}  // extern "C"
