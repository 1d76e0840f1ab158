// Weights as they are stored, row by row, into the panels of `weight.h`.
#include <cstdint>
#include <cstring>

#include "abi.h"
#include "pool.h"
#include "weight.h"

namespace {

// What is to be packed: `source` is [n, k] without gaps; I4 two to a byte, the first in the low half, each a two's
// complement.
struct Packing {
  int64_t n, k;
  int32_t dtype;
  int32_t integers;
  const void* source;
  void* panels;
  float* sums;  // of integers: [n padded]
};

constexpr int64_t kWordInputs = 8;     // of I4
constexpr int64_t kIntegerInputs = 4;  // side by side, of integers

int64_t padded(int64_t size, int64_t unit) { return (size + unit - 1) / unit * unit; }

// Panels [k][16] of elements of type T, of which only the size counts.
template <typename T>
void pack_plain(const Packing& packing, int64_t panel) {
  const int64_t k = packing.k, first = panel * kPanel;
  T* out = static_cast<T*>(packing.panels) + first * k;
  for (int lane = 0; lane < kPanel; lane++) {
    if (first + lane >= packing.n) {
      for (int64_t at = 0; at < k; at++) out[at * kPanel + lane] = 0;
      continue;
    }
    const T* from = static_cast<const T*>(packing.source) + (first + lane) * k;
    for (int64_t at = 0; at < k; at++) out[at * kPanel + lane] = from[at];
  }
}

// Panels [k / 4][16][4] of int8, and the sums of the outputs.
void pack_integers(const Packing& packing, int64_t panel) {
  const int64_t k = packing.k, wide = padded(k, kIntegerInputs), first = panel * kPanel;
  int8_t* out = static_cast<int8_t*>(packing.panels) + first * wide;
  for (int lane = 0; lane < kPanel; lane++) {
    const bool real = first + lane < packing.n;
    const int8_t* from = static_cast<const int8_t*>(packing.source) + (real ? first + lane : 0) * k;
    int32_t sum = 0;
    for (int64_t at = 0; at < wide; at++) {
      const int8_t value = real && at < k ? from[at] : 0;
      out[(at / kIntegerInputs * kPanel + lane) * kIntegerInputs + at % kIntegerInputs] = value;
      sum += value;
    }
    packing.sums[first + lane] = (float)sum;
  }
}

// Panels [k / 8][16] of words of eight int4, each with 8 added.
void pack_words(const Packing& packing, int64_t panel) {
  const int64_t k = packing.k, words = padded(k, kWordInputs) / kWordInputs, first = panel * kPanel;
  const uint8_t* source = static_cast<const uint8_t*>(packing.source);
  uint32_t* out = static_cast<uint32_t*>(packing.panels) + first * words;
  for (int lane = 0; lane < kPanel; lane++) {
    const int64_t begin = (first + lane) * k;
    for (int64_t word = 0; word < words; word++) {
      uint32_t bits = 0;
      if (first + lane < packing.n) {
        if (begin % 2 == 0 && (word + 1) * kWordInputs <= k) {
          std::memcpy(&bits, source + (begin + word * kWordInputs) / 2, sizeof bits);
        } else {
          for (int64_t at = word * kWordInputs; at < (word + 1) * kWordInputs && at < k; at++) {
            const uint32_t half = source[(begin + at) / 2] >> ((begin + at) % 2 * 4) & 15;
            bits |= half << (at % kWordInputs * 4);
          }
        }
      }
      out[word * kPanel + lane] = bits ^ 0x88888888;
    }
  }
}

void pack_part(void* argument, int thread, int threads) {
  const Packing& packing = *static_cast<const Packing*>(argument);
  const int64_t panels = padded(packing.n, kPanel) / kPanel;
  for (int64_t panel = panels * thread / threads; panel < panels * (thread + 1) / threads; panel++) {
    if (packing.integers) {
      pack_integers(packing, panel);
    } else if (packing.dtype == I4) {
      pack_words(packing, panel);
    } else if (packing.dtype == F32) {
      pack_plain<uint32_t>(packing, panel);
    } else if (packing.dtype == F16 || packing.dtype == BF16) {
      pack_plain<uint16_t>(packing, panel);
    } else {
      pack_plain<uint8_t>(packing, panel);
    }
  }
}

}  // namespace

extern "C" {

// How many bytes the panels of a weight take.
int64_t llmc_packed_bytes(const Packing* packing) {
  const int64_t n = padded(packing->n, kPanel), k = packing->k;
  if (packing->integers) return n * padded(k, kIntegerInputs);
  if (packing->dtype == I4) return n * padded(k, kWordInputs) / 2;
  return n * k * (packing->dtype == F32 ? 4 : packing->dtype == F16 || packing->dtype == BF16 ? 2 : 1);
}

// Packs a weight by so many threads.
void llmc_pack(Packing* packing, int32_t threads) { run_together(threads, pack_part, packing); }

}  // extern "C"
