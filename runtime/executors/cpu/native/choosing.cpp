// Comparisons, and what they choose.
#include "abi.h"
#include "rows.h"

namespace {

// A row of an operand; if it has a single column, that stands for all.
template <typename T>
struct Elements {
  const T* data;
  bool single;

  Elements(const View& view, int64_t index) : data(row_for<T>(view, index)), single(view.columns == 1) {}
  T operator[](int64_t column) const { return data[single ? 0 : column]; }
};

template <typename T, typename Apply>
void compare(const Call* call, Apply apply) {
  const View& out = call->views[2];
  for_parts(call, out.rows, out.columns, kLine, [&](int64_t at, int64_t begin, int64_t end) {
    const Elements<T> a(call->views[0], at), b(call->views[1], at);
    bool* result = row<bool>(out, at);
    for (int64_t column = begin; column < end; column++) result[column] = apply(a[column], b[column]);
  });
}

template <typename Apply>
void compare(const Call* call, Apply apply) {
  switch (call->views[0].dtype) {
    case I32: return compare<int32_t>(call, apply);
    case I64: return compare<int64_t>(call, apply);
    case BOOL: return compare<bool>(call, apply);
    default: return compare<float>(call, apply);
  }
}

template <typename T>
void choose(const Call* call) {
  const View& out = call->views[3];
  for_parts(call, out.rows, out.columns, kLine, [&](int64_t at, int64_t begin, int64_t end) {
    const Elements<bool> condition(call->views[0], at);
    const Elements<T> yes(call->views[1], at), no(call->views[2], at);
    T* result = row<T>(out, at);
    for (int64_t column = begin; column < end; column++) result[column] = condition[column] ? yes[column] : no[column];
  });
}

}  // namespace

extern "C" {

// views: a, b, the result, bool; a and b are of one type: float32, int32 or int64. A single row stands for all rows, a
// single column for all columns.
void llmc_less(const Call* call) {
  compare(call, [](auto a, auto b) { return a < b; });
}
void llmc_less_equal(const Call* call) {
  compare(call, [](auto a, auto b) { return a <= b; });
}

// The same of bool.
void llmc_logical_and(const Call* call) {
  compare(call, [](auto a, auto b) { return a && b; });
}

// views: the condition, bool; a and b, of one type; the result: a where the condition holds, else b.
void llmc_where(const Call* call) {
  switch (call->views[3].dtype) {
    case I32: return choose<int32_t>(call);
    case I64: return choose<int64_t>(call);
    default: return choose<float>(call);
  }
}

}  // extern "C"
