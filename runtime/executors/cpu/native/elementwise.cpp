// Sums, products and functions of matrices, element by element.
#include <cmath>

#include "abi.h"
#include "functions.h"
#include "rows.h"
#include "vec.h"

namespace {

// A row of an operand; if it has a single column, that stands for all.
struct Elements {
  const float* data;
  bool single;

  Elements(const View& view, int64_t index) : data(row_for<float>(view, index)), single(view.columns == 1) {}
  Vec vector(int64_t column) const { return single ? all(*data) : load(data + column); }
  Vec some(int64_t column, int count) const { return single ? all(*data) : load_some(data + column, count); }
};

struct Add {
  template <typename T>
  T operator()(T a, T b) const { return a + b; }
};

struct Subtract {
  template <typename T>
  T operator()(T a, T b) const { return a - b; }
};

struct Multiply {
  template <typename T>
  T operator()(T a, T b) const { return a * b; }
};

template <typename T, typename Apply>
void binary_integers(const Call* call, Apply apply) {
  const View &a = call->views[0], &b = call->views[1], &out = call->views[2];
  for_parts(call, out.rows, out.columns, kLine, [&](int64_t at, int64_t begin, int64_t end) {
    const T *left = row_for<T>(a, at), *right = row_for<T>(b, at);
    T* result = row<T>(out, at);
    for (int64_t column = begin; column < end; column++)
      result[column] = apply(left[a.columns == 1 ? 0 : column], right[b.columns == 1 ? 0 : column]);
  });
}

template <typename Apply>
void binary_floats(const Call* call, Apply apply) {
  const View& out = call->views[2];
  for_parts(call, out.rows, out.columns, kLine, [&](int64_t at, int64_t begin, int64_t end) {
    const Elements left(call->views[0], at), right(call->views[1], at);
    float* result = row<float>(out, at);
    int64_t column = begin;
    for (; column + Vec::size <= end; column += Vec::size)
      store(result + column, apply(left.vector(column), right.vector(column)));
    if (const int rest = end - column)
      store_some(result + column, apply(left.some(column, rest), right.some(column, rest)), rest);
  });
}

template <typename Apply>
void binary(const Call* call, Apply apply) {
  switch (call->views[2].dtype) {
    case I32: return binary_integers<int32_t>(call, apply);
    case I64: return binary_integers<int64_t>(call, apply);
    default: return binary_floats(call, apply);
  }
}

template <typename Apply>
void unary(const Call* call, Apply apply) {
  const View &x = call->views[0], &out = call->views[1];
  for_parts(call, out.rows, out.columns, kLine, [&](int64_t at, int64_t begin, int64_t end) {
    const float* source = row_for<float>(x, at);
    float* result = row<float>(out, at);
    int64_t column = begin;
    for (; column + Vec::size <= end; column += Vec::size) store(result + column, apply(load(source + column)));
    if (const int rest = end - column) store_some(result + column, apply(load_some(source + column, rest)), rest);
  });
}

// Sines, or cosines by one quarter more. Angles too large for `sines`, and what is no number, are left to the C library.
void angles(const Call* call, int quarters) {
  constexpr float kMost = 0x1p27f;
  const View &x = call->views[0], &out = call->views[1];
  for_parts(call, out.rows, out.columns, kLine, [&](int64_t at, int64_t begin, int64_t end) {
    const float* source = row_for<float>(x, at);
    float* result = row<float>(out, at);
    bool large = false;
    for (int64_t column = begin; column < end; column++) large |= !(std::fabs(source[column]) < kMost);
    if (!large) return sines(source + begin, result + begin, end - begin, quarters);
    for (int64_t column = begin; column < end; column++) {
      const double angle = source[column];
      result[column] = quarters ? std::cos(angle) : std::sin(angle);
    }
  });
}

struct Scale {
  float factor;
};

struct Clamp {
  float least, most;
};

}  // namespace

extern "C" {

// views: a, b, the result; of one type: float32, int32 or int64. A single row stands for all rows, a single column for all
// columns. The result may be a or b.
void llmc_add(const Call* call) { binary(call, Add()); }
void llmc_sub(const Call* call) { binary(call, Subtract()); }
void llmc_mul(const Call* call) { binary(call, Multiply()); }

// The same of float32 only.
void llmc_div(const Call* call) {
  binary_floats(call, [](Vec a, Vec b) { return a / b; });
}

// views: x, the result, which may be x; float32. attributes: Scale.
void llmc_scale(const Call* call) {
  const Vec factor = all(static_cast<const Scale*>(call->attributes)->factor);
  unary(call, [=](Vec x) { return x * factor; });
}

// The same; attributes: Clamp.
void llmc_clamp(const Call* call) {
  const Clamp& limits = *static_cast<const Clamp*>(call->attributes);
  const Vec least = all(limits.least), most = all(limits.most);
  unary(call, [=](Vec x) { return smaller(most, larger(least, x)); });
}

// The same, without attributes.
void llmc_relu(const Call* call) {
  unary(call, [](Vec x) { return larger(zeros(), x); });
}
void llmc_silu(const Call* call) {
  unary(call, [](Vec x) { return silu(x); });
}
void llmc_sigmoid(const Call* call) {
  unary(call, [](Vec x) { return sigmoid(x); });
}
void llmc_tanh(const Call* call) {
  unary(call, [](Vec x) { return tanh(x); });
}
void llmc_gelu_tanh(const Call* call) {
  unary(call, [](Vec x) { return gelu_tanh(x); });
}
void llmc_gelu_erf(const Call* call) {
  unary(call, [](Vec x) { return gelu_erf(x); });
}
void llmc_sin(const Call* call) { angles(call, 0); }
void llmc_cos(const Call* call) { angles(call, 1); }

}  // extern "C"
