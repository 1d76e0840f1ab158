// Sums, products and the like of matrices, element by element.
#include "abi.h"
#include "vec.h"

namespace {

template <typename F>
void binary(const Call* call, F&& apply) {
  const View &a = call->views[0], &b = call->views[1], &out = call->views[2];
  const Range rows = part_of(call, out.rows);
  for (int64_t at = rows.begin; at < rows.end; at++) {
    const float *left = row<float>(a, at), *right = row<float>(b, at);
    float* result = row<float>(out, at);
    int64_t column = 0;
    for (; column + Vec::size <= out.columns; column += Vec::size)
      store(result + column, apply(load(left + column), load(right + column)));
    if (const int rest = out.columns - column)
      store_some(result + column, apply(load_some(left + column, rest), load_some(right + column, rest)), rest);
  }
}

}  // namespace

extern "C" {

// views: a, b, the result; float32 of the same columns.
void llmc_add(const Call* call) {
  binary(call, [](Vec a, Vec b) { return a + b; });
}

}  // extern "C"
