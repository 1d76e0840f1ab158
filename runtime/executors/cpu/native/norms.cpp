// Norms, and the largest absolute values, of rows or of groups of columns (the heads of a row).
#include <cmath>

#include "abi.h"
#include "rows.h"
#include "vec.h"

namespace {

struct Norm {
  const float* weight;  // [width], or null
  const float* bias;    // [width], or null
  int64_t width;        // how many columns are one group
  float eps;
};

// The sum of `apply(x)` over some numbers.
template <typename Apply>
float total(const float* x, int64_t count, Apply apply) {
  Vec sums[4] = {zeros(), zeros(), zeros(), zeros()};
  int64_t at = 0;
  for (; at + 4 * Vec::size <= count; at += 4 * Vec::size)
    for (int each = 0; each < 4; each++) sums[each] = sums[each] + apply(load(x + at + each * Vec::size));
  for (; at + Vec::size <= count; at += Vec::size) sums[0] = sums[0] + apply(load(x + at));
  if (const int rest = count - at) {
    float last[Vec::size] = {};
    store_some(last, apply(load_some(x + at, rest)), rest);
    sums[1] = sums[1] + load(last);
  }
  return sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

// (x - mean) * factor * weight + bias
void normalize(const float* x, float* result, const Norm& norm, float mean, float factor) {
  int64_t at = 0;
  for (; at + Vec::size <= norm.width; at += Vec::size) {
    Vec value = (load(x + at) - all(mean)) * all(factor);
    if (norm.weight) value = value * load(norm.weight + at);
    if (norm.bias) value = value + load(norm.bias + at);
    store(result + at, value);
  }
  if (const int rest = norm.width - at) {
    Vec value = (load_some(x + at, rest) - all(mean)) * all(factor);
    if (norm.weight) value = value * load_some(norm.weight + at, rest);
    if (norm.bias) value = value + load_some(norm.bias + at, rest);
    store_some(result + at, value, rest);
  }
}

// Calls `body(index of the row, index of the group)` for the thread's part of the groups.
template <typename Body>
void for_groups(const Call* call, int64_t rows, int64_t groups, Body&& body) {
  const Range items = part_of(call, rows * groups);
  for (int64_t item = items.begin; item < items.end; item++) body(item / groups, item % groups);
}

}  // namespace

extern "C" {

// views: x, the result, which may be x; float32. attributes: Norm.
void llmc_layer_norm(const Call* call) {
  const View &x = call->views[0], &out = call->views[1];
  const Norm& norm = *static_cast<const Norm*>(call->attributes);
  for_groups(call, out.rows, out.columns / norm.width, [&](int64_t at, int64_t group) {
    const float* source = row_for<float>(x, at) + group * norm.width;
    const float mean = total(source, norm.width, [](Vec a) { return a; }) / norm.width;
    const float variance = total(source, norm.width, [=](Vec a) { return (a - all(mean)) * (a - all(mean)); }) / norm.width;
    normalize(source, row<float>(out, at) + group * norm.width, norm, mean, 1.0f / std::sqrt(variance + norm.eps));
  });
}

// The same.
void llmc_rms_norm(const Call* call) {
  const View &x = call->views[0], &out = call->views[1];
  const Norm& norm = *static_cast<const Norm*>(call->attributes);
  for_groups(call, out.rows, out.columns / norm.width, [&](int64_t at, int64_t group) {
    const float* source = row_for<float>(x, at) + group * norm.width;
    const float square = total(source, norm.width, [](Vec a) { return a * a; }) / norm.width;
    normalize(source, row<float>(out, at) + group * norm.width, norm, 0.0f, 1.0f / std::sqrt(square + norm.eps));
  });
}

// The largest absolute value of each group of columns; NaN if one is NaN. views: x, the result, which has a column for
// each group; float32.
void llmc_amax_abs(const Call* call) {
  const View &x = call->views[0], &out = call->views[1];
  const int64_t width = x.columns / out.columns;
  for_groups(call, out.rows, out.columns, [&](int64_t at, int64_t group) {
    const float* source = row_for<float>(x, at) + group * width;
    uint32_t most = 0;  // the bits of positive numbers are ordered as they are, and NaN is above all
    for (int64_t column = 0; column < width; column++) {
      const uint32_t bits = to_bits(source[column]) & 0x7fffffff;
      most = bits > most ? bits : most;
    }
    row<float>(out, at)[group] = from_bits(most);
  });
}

}  // extern "C"
