// Quantization with scales given: each scale, and zero point if there are any, is for a block of columns side by side.
#include "abi.h"
#include "convert.h"
#include "rows.h"
#include "vec.h"

namespace {

struct Rounding {
  float least, most;  // of the quantized type
  int32_t shifted;    // whether there are zero points
};

// int8, or int4 in a byte each. NaN becomes 0.
struct Integers {
  using Stored = int8_t;
  static Vec widened(const Stored* p) { return load_i8(p); }
  static void narrow(Stored* p, Vec a) { store_i8(p, a); }
  static Vec nearest(Vec quotient, Vec zero) {
    return rounded(larger(quotient, zeros()) + smaller(quotient, zeros())) + zero;
  }
};

// float8 e4m3. NaN stays.
struct Floats {
  using Stored = uint8_t;
  static Vec widened(const Stored* p) {
    float values[Vec::size];
    for (int i = 0; i < Vec::size; i++) values[i] = f8_to_f32(p[i]);
    return load(values);
  }
  static void narrow(Stored* p, Vec a) {
    float values[Vec::size];
    store(values, a);
    for (int i = 0; i < Vec::size; i++) p[i] = f32_to_f8(values[i]);
  }
  static Vec nearest(Vec quotient, Vec) { return quotient; }
};

// What some columns are scaled by: one scale for all of them, or one for each.
template <bool kEach>
struct Scales {
  const float* scale;
  const int8_t* zero;  // or null

  Vec factor(int64_t at, int count) const { return kEach ? load_some(scale + at, count) : all(*scale); }
  Vec offset(int64_t at, int count) const {
    if (!zero) return zeros();
    if (!kEach) return all(*zero);
    int8_t values[Vec::size] = {};
    std::memcpy(values, zero + at, count);
    return load_i8(values);
  }
};

template <typename Type, bool kEach>
void quantize(const Rounding& rounding, const float* x, Scales<kEach> scales, typename Type::Stored* result,
              int64_t count) {
  const Vec least = all(rounding.least), most = all(rounding.most);
  const auto nearest = [&](int64_t at, Vec value, int some) {
    const Vec quotient = value * (all(1.0f) / scales.factor(at, some));
    return smaller(most, larger(least, Type::nearest(quotient, scales.offset(at, some))));
  };
  int64_t at = 0;
  for (; at + Vec::size <= count; at += Vec::size) Type::narrow(result + at, nearest(at, load(x + at), Vec::size));
  if (const int rest = count - at) {
    typename Type::Stored values[Vec::size];
    Type::narrow(values, nearest(at, load_some(x + at, rest), rest));
    std::memcpy(result + at, values, rest);
  }
}

template <typename Type, bool kEach>
void dequantize(const typename Type::Stored* x, Scales<kEach> scales, float* result, int64_t count) {
  const auto scaled = [&](int64_t at, const typename Type::Stored* values, int some) {
    return (Type::widened(values) - scales.offset(at, some)) * scales.factor(at, some);
  };
  int64_t at = 0;
  for (; at + Vec::size <= count; at += Vec::size) store(result + at, scaled(at, x + at, Vec::size));
  if (const int rest = count - at) {
    typename Type::Stored values[Vec::size] = {};
    std::memcpy(values, x + at, rest);
    store_some(result + at, scaled(at, values, rest), rest);
  }
}

// Calls `body(scales, row, first column, columns)` for runs of columns that have one scale, or one for each.
template <typename Body>
void for_runs(const Call* call, Body&& body) {
  const Rounding& rounding = *static_cast<const Rounding*>(call->attributes);
  const View &x = call->views[0], &scale = call->views[1], &zero = call->views[2];
  const int64_t width = x.columns / scale.columns;  // of the columns that share a scale
  const int64_t unit = scale.columns == 1 || width == 1 ? kLine : width;
  for_parts(call, x.rows, x.columns, unit, [&](int64_t at, int64_t begin, int64_t end) {
    const float* scales = row_for<float>(scale, at);
    const int8_t* offsets = rounding.shifted ? row_for<int8_t>(zero, at) : nullptr;
    if (width == 1 && x.columns > 1)
      return body(Scales<true>{scales + begin, offsets ? offsets + begin : nullptr}, at, begin, end - begin);
    for (int64_t column = begin; column < end;) {
      const int64_t block = column / width, stop = (block + 1) * width < end ? (block + 1) * width : end;
      body(Scales<false>{scales + block, offsets ? offsets + block : nullptr}, at, column, stop - column);
      column = stop;
    }
  });
}

template <typename Type>
void quantize_runs(const Call* call, const View& out) {
  const Rounding& rounding = *static_cast<const Rounding*>(call->attributes);
  for_runs(call, [&](auto scales, int64_t at, int64_t begin, int64_t count) {
    quantize<Type>(rounding, row<float>(call->views[0], at) + begin, scales,
                   row<typename Type::Stored>(out, at) + begin, count);
  });
}

template <typename Type>
void dequantize_runs(const Call* call, const View& out) {
  for_runs(call, [&](auto scales, int64_t at, int64_t begin, int64_t count) {
    dequantize<Type>(row<typename Type::Stored>(call->views[0], at) + begin, scales, row<float>(out, at) + begin, count);
  });
}

const View& result_of(const Call* call) {
  return call->views[static_cast<const Rounding*>(call->attributes)->shifted ? 3 : 2];
}

}  // namespace

extern "C" {

// views: x of float32, scale of float32, the zero points of int8 if the attributes say so, the result of int8 or float8.
// Scale and zero points have a row for each of x or one for all, and so many columns that each is for a block of x's.
// attributes: Rounding.
void llmc_quantize(const Call* call) {
  const View& out = result_of(call);
  return out.dtype == F8E4M3 ? quantize_runs<Floats>(call, out) : quantize_runs<Integers>(call, out);
}

// The same from a quantized x to a result of float32.
void llmc_dequantize(const Call* call) {
  const View& out = result_of(call);
  return call->views[0].dtype == F8E4M3 ? dequantize_runs<Floats>(call, out) : dequantize_runs<Integers>(call, out);
}

}  // extern "C"
