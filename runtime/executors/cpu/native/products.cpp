// The product of a matrix with a weight, by the kernel that suits the number of rows.
#include "abi.h"
#include "skinny.h"
#include "vec.h"
#include "weight.h"
#include "wide.h"

extern "C" {

// views: x, the scale of each row (of integers only), the result, the packed rows, scratch for each thread.
void llmc_multiply(const Call* call) {
  const Weight& weight = *static_cast<const Weight*>(call->attributes);
  if (call->views[0].rows <= weight.few)
    multiply_few(call, weight);
  else
    multiply_many(call, weight);
}

// How many bytes of scratch `llmc_multiply` needs for each thread.
int64_t llmc_multiply_scratch(const Weight* weight) {
  const int64_t few = few_scratch(*weight);
  return few > kThreadScratch ? few : kThreadScratch;
}

// Up to how many rows `multiply_few` is the faster one for a weight, as measured. `multiply_many` has to decode weights
// and pack rows first, which pays late where its arithmetic is no faster, and soon where it is.
int32_t llmc_few_rows(const Weight* weight) {
  switch (row_form(*weight)) {
    case INTEGERS: return kFourAtOnce ? 12 : 4;
    case PAIRS: return 24;
    default: break;
  }
  if (Vec::size == 16) return 128;
  if (weight->dtype == I4) return 64;
  return weight->dtype == F32 ? 32 : 12;
}

}  // extern "C"
