// Products of few rows: how fast they are is decided by how fast weights are read, and made into numbers.
#pragma once

#include <cstdint>

#include "abi.h"
#include "weight.h"

constexpr int64_t kMostRows = 32;  // that `multiply_few` takes

// Weights are asked for so many bytes before they are read, from each of the panels that are read side by side: the
// arithmetic of several rows keeps a CPU from looking as far ahead by itself.
constexpr int64_t ask_ahead(int panels) { return 4096 / panels; }
constexpr int kLine = 64;  // bytes of a cache line, which are asked for at once

// Multiplies up to `kMostRows` rows.
//
// views: x, the scale of each row (of integers only), the result, the packed rows (not used), scratch of
// `few_scratch(weight)` bytes for each thread.
void multiply_few(const Call* call, const Weight& weight);

// The same for int8 rows and weights.
void multiply_few_integers(const Call* call, const Weight& weight);

// How many bytes of scratch a thread needs.
int64_t few_scratch(const Weight& weight);

// Rows are computed in equal groups of as many as registers hold the sums of. The last may take rows that the one before
// has, too: they are computed twice.
struct RowGroups {
  int64_t rows, size, count;
  RowGroups(int64_t n, int64_t most) : rows(n), count((n + most - 1) / most) { size = (n + count - 1) / count; }
  int64_t begin(int64_t group) const { return group * size < rows - size ? group * size : rows - size; }
};

// A row of a view that may have one row for all.
template <typename T>
inline T* row_or_only(const View& view, int64_t index) {
  return row<T>(view, view.rows == 1 ? 0 : index);
}
