// A stand-in: rows are multiplied a few at a time.
#include "wide.h"

#include "skinny.h"

RowForm row_form(const Weight&) { return FLOATS; }

void multiply_many(const Call* call, const Weight& weight) {
  const int at = weight.integers ? 1 : 0;
  View views[5];
  for (int each = 0; each < 4 + at; each++) views[each] = call->views[each];
  const Call part = {views, call->attributes, call->thread, call->threads};
  for (int64_t first = 0; first < call->views[0].rows; first += kMostRows) {
    for (int each = 0; each < 2 + at; each++) {
      const View& whole = call->views[each];
      const int64_t left = whole.rows - first;
      views[each].rows = whole.rows == 1 || left > kMostRows ? (whole.rows == 1 ? 1 : kMostRows) : left;
      views[each].data = whole.data + (whole.rows == 1 ? 0 : first * whole.stride);
    }
    multiply_few(&part, weight);
  }
}

extern "C" void llmc_pack_rows(const Call*) {}
