// Products of many rows.
//
// Rows of x are packed once, in blocks of up to `kBlockRows` whose numbers lie side by side: `pack_rows`. Each thread
// then takes tiles of outputs, brings a slab of their weights into the same form, and multiplies it by all rows.
#pragma once

#include <cstdint>

#include "abi.h"
#include "weight.h"

// What is multiplied, always words of 32 bits, of x and of weights alike.
enum RowForm : int32_t {
  FLOATS = 0,    // a float32
  PAIRS = 1,     // two bfloat16 of neighbouring inputs
  INTEGERS = 2,  // four int8 of neighbouring inputs, of x with 128 added; or, without such instructions, two int16
};

// The attributes of `pack_rows`.
struct RowPacking {
  int32_t form;   // a RowForm
  int32_t fewer;  // if there are not more rows than these, nothing is packed
};

#if defined(__AVX512F__)
constexpr int kBlockRows = 12, kVectors = 2;  // of a tile: 24 sums in registers
#elif defined(__AVX2__)
constexpr int kBlockRows = 6, kVectors = 2;
#else
constexpr int kBlockRows = 4, kVectors = 1;
#endif

#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)
constexpr bool kFourAtOnce = true;  // products of four int8 are summed by one instruction
#else
constexpr bool kFourAtOnce = false;
#endif

constexpr int64_t kSlab = 256;               // words along k that are multiplied at once
constexpr int64_t kThreadScratch = 1 << 15;  // bytes that `multiply_many` takes in each row of its scratch

// Rows in blocks of nearly the same size. In the packed memory, a slab's words of all blocks follow each other, each
// block being `[words of the slab][its rows]`; then those of the next slab do.
struct RowBlocks {
  int64_t rows, words, count;
  RowBlocks(int64_t n, int64_t row_words) : rows(n), words(row_words), count((n + kBlockRows - 1) / kBlockRows) {}
  int64_t begin(int64_t block) const { return rows * block / count; }
  int64_t size(int64_t block) const { return begin(block + 1) - begin(block); }
  // How many words lie before those of a block from a word on.
  int64_t offset(int64_t block, int64_t word) const {
    const int64_t slab = word / kSlab * kSlab, of_slab = words - slab < kSlab ? words - slab : kSlab;
    return slab * rows + begin(block) * of_slab + (word - slab) * size(block);
  }
};

// In which form the rows for a weight are packed.
RowForm row_form(const Weight& weight);

// How many words a row of k numbers has in a form.
inline int64_t row_words(int32_t form, int64_t k) {
  if (form == INTEGERS) return (k + 3) / 4 * (kFourAtOnce ? 1 : 2);
  return form == PAIRS ? (k + 1) / 2 : k;
}

// Multiplies rows that `pack_rows` has packed.
//
// views: x, the scale of each row (of integers only), the result, the packed rows, scratch of `kThreadScratch` bytes for
// each thread.
void multiply_many(const Call* call, const Weight& weight);
