// What kernels that work row by row share.
#pragma once

#include "abi.h"

// A row of an operand, which may have a single one for all.
template <typename T>
inline T* row_for(const View& view, int64_t index) {
  return row<T>(view, view.rows == 1 ? 0 : index);
}

// Calls `body(row, begin, end)` for the thread's part of the elements of a matrix: some of the columns of a row. Rows are
// dealt out whole if there are several for each thread; else each is cut into pieces, which begin at multiples of `unit`
// and have so many columns that starting on them costs little.
template <typename Body>
inline void for_parts(const Call* call, int64_t rows, int64_t columns, int64_t unit, Body&& body) {
  constexpr int64_t kFewest = 512;
  int64_t pieces = rows >= 4 * call->threads ? 1 : columns / kFewest;
  if (pieces > call->threads) pieces = call->threads;
  if (pieces < 1) pieces = 1;
  const Range items = part_of(call, rows * pieces);
  for (int64_t item = items.begin; item < items.end; item++) {
    const Call piece = {call->views, call->attributes, int32_t(item % pieces), int32_t(pieces)};
    const Range part = part_of(&piece, columns, unit);
    if (part.begin < part.end) body(item / pieces, part.begin, part.end);
  }
}

constexpr int64_t kLine = 16;  // float32 to a cache line
