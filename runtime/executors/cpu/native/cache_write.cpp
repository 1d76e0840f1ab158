// Writing what a step adds to caches.
#include "abi.h"
#include "cache_rows.h"
#include "vec.h"

namespace {

void write_f16(const float* from, uint16_t* to, int64_t count) {
  int64_t at = 0;
#if defined(__AVX2__)
  for (; at + 8 <= count; at += 8)
    _mm_storeu_si128((__m128i*)(to + at), _mm256_cvtps_ph(_mm256_loadu_ps(from + at), _MM_FROUND_TO_NEAREST_INT));
#endif
  for (; at < count; at++) to[at] = f32_to_f16(from[at]);
}

void write_bf16(const float* from, uint16_t* to, int64_t count) {
  for (int64_t at = 0; at < count; at++) to[at] = f32_to_bf16(from[at]);
}

}  // namespace

extern "C" {

// The attributes of `paged_append`.
struct Append {
  int64_t block;  // the tokens of a block
};

// Writes a token of `new` to its place in the pool: pool[tables[rows[t], p // block], p % block] = new[t].
//
// views: new [T, heads * width], of float32 or of the type of the pool; positions [T, 1] and rows [T, 1] of int32;
// tables [sequences, blocks of the longest]; the pool [blocks, block * heads * width].
void llmc_paged_append(const Call* call) {
  const View &added = call->views[0], &positions = call->views[1], &rows = call->views[2], &tables = call->views[3];
  const View& pool = call->views[4];
  const int64_t block = static_cast<const Append*>(call->attributes)->block;
  const Range part = part_of(call, added.rows);
  for (int64_t at = part.begin; at < part.end; at++) {
    const int32_t position = *row<int32_t>(positions, positions.rows == 1 ? 0 : at);
    const int32_t sequence = *row<int32_t>(rows, rows.rows == 1 ? 0 : at);
    const int32_t* table = row<int32_t>(tables, tables.rows == 1 ? 0 : sequence);
    char* to = pool.data + table[position / block] * pool.stride + position % block * (pool.stride / block);
    const float* from = row<float>(added, at);
    if (added.dtype == pool.dtype) {
      std::memcpy(to, from, added.columns * bytes_of(added.dtype));
    } else if (pool.dtype == F16) {
      write_f16(from, (uint16_t*)to, added.columns);
    } else {
      write_bf16(from, (uint16_t*)to, added.columns);
    }
  }
}

}  // extern "C"
