// Rows chosen by number, and copies.
#include "abi.h"
#include "convert.h"
#include "rows.h"
#include "vec.h"

namespace {

struct Table {
  const char* data;     // [entries, columns of the result], rows one after the other
  const float* scales;  // what each row is multiplied by, [entries], or null
  int64_t entries;
  int32_t dtype;
};

// Copies some columns of a row, converted to the result's type.
void copy_part(const char* source, int32_t dtype, const View& out, int64_t at, int64_t begin, int64_t end) {
  convert(source + begin * bytes_of(dtype), dtype, row<char>(out, at) + begin * bytes_of(out.dtype), out.dtype,
          end - begin);
}

int64_t number(const View& view, int64_t index) {
  return view.dtype == I64 ? *row_for<int64_t>(view, index) : *row_for<int32_t>(view, index);
}

void multiply(float* x, int64_t count, float factor) {
  for (int64_t at = 0; at < count; at++) x[at] *= factor;
}

}  // namespace

extern "C" {

// views: ids [rows, 1] of int32 or int64, the result, float32. attributes: Table. An id that the table has not gives NaN.
void llmc_embedding(const Call* call) {
  const View &ids = call->views[0], &out = call->views[1];
  const Table& table = *static_cast<const Table*>(call->attributes);
  const int64_t row_bytes = out.columns * bytes_of(table.dtype);
  for_parts(call, out.rows, out.columns, kLine, [&](int64_t at, int64_t begin, int64_t end) {
    const int64_t id = number(ids, at);
    float* result = row<float>(out, at);
    if (id < 0 || id >= table.entries) {
      for (int64_t column = begin; column < end; column++) result[column] = from_bits(0x7fc00000);
      return;
    }
    copy_part(table.data + id * row_bytes, table.dtype, out, at, begin, end);
    if (table.scales) multiply(result + begin, end - begin, table.scales[id]);
  });
}

// views: x, the result; of any types but int4. A single row of x is copied to all rows.
void llmc_copy(const Call* call) {
  const View &x = call->views[0], &out = call->views[1];
  for_parts(call, out.rows, out.columns, kLine, [&](int64_t at, int64_t begin, int64_t end) {
    copy_part(row_for<char>(x, at), x.dtype, out, at, begin, end);
  });
}

// views: x [rows, columns], index [wanted, 1] of int32 or int64, the result [wanted, columns]. The indices are rows of x.
void llmc_gather_rows(const Call* call) {
  const View &x = call->views[0], &index = call->views[1], &out = call->views[2];
  for_parts(call, out.rows, out.columns, kLine, [&](int64_t at, int64_t begin, int64_t end) {
    copy_part(row<char>(x, number(index, at)), x.dtype, out, at, begin, end);
  });
}

}  // extern "C"
