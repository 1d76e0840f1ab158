// Products of few int8 rows with int8 weights, exact until they are scaled.
#include <cstring>

#include "skinny.h"
#include "vec.h"

namespace {

constexpr int kInputs = 4;  // that lie side by side
constexpr int kBytes = kPanel * kInputs;  // a cache line

// Each form sums the products of four inputs of a panel in `kSums` vectors. `kLanes` is how many of their lanes add up to
// an output's sum, and `kAdded` what it has added to each x.
#if defined(__AVX512VNNI__) && defined(__AVX512F__)
struct IntegerForm {
  using Sum = __m512i;
  using Inputs = __m512i;
  static constexpr int kSums = 1, kLanes = 1, kAdded = 128, kGroup = 8;
  static constexpr int kPanels = 2;
  static Sum none() { return _mm512_setzero_si512(); }
  static Inputs inputs(uint32_t word) { return _mm512_set1_epi32((int)(word ^ 0x80808080)); }
  static Sum add(Sum sum, Inputs x, const int8_t* weights, int) {
    return _mm512_dpbusd_epi32(sum, x, _mm512_loadu_si512(weights));
  }
};
#elif defined(__AVX512F__)
struct IntegerForm {
  using Sum = __m512i;
  using Inputs = __m512i;
  static constexpr int kSums = 2, kLanes = 2, kAdded = 0, kGroup = 8;
  static constexpr int kPanels = 1;
  static Sum none() { return _mm512_setzero_si512(); }
  static Inputs inputs(uint32_t word) { return _mm512_cvtepi8_epi16(_mm256_set1_epi32((int)word)); }
  static Sum add(Sum sum, Inputs x, const int8_t* weights, int at) {
    const __m512i wide = _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i*)weights + at));
    return _mm512_add_epi32(sum, _mm512_madd_epi16(x, wide));
  }
};
#elif defined(__AVXVNNI__)
struct IntegerForm {
  using Sum = __m256i;
  using Inputs = __m256i;
  static constexpr int kSums = 2, kLanes = 1, kAdded = 128, kGroup = 6;
  static constexpr int kPanels = 1;
  static Sum none() { return _mm256_setzero_si256(); }
  static Inputs inputs(uint32_t word) { return _mm256_set1_epi32((int)(word ^ 0x80808080)); }
  static Sum add(Sum sum, Inputs x, const int8_t* weights, int at) {
    return _mm256_dpbusd_avx_epi32(sum, x, _mm256_loadu_si256((const __m256i*)weights + at));
  }
};
#elif defined(__AVX2__)
struct IntegerForm {
  using Sum = __m256i;
  using Inputs = __m256i;
  static constexpr int kSums = 4, kLanes = 2, kAdded = 0, kGroup = 3;
  static constexpr int kPanels = 1;
  static Sum none() { return _mm256_setzero_si256(); }
  static Inputs inputs(uint32_t word) { return _mm256_cvtepi8_epi16(_mm_set1_epi32((int)word)); }
  static Sum add(Sum sum, Inputs x, const int8_t* weights, int at) {
    const __m256i wide = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)weights + at));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(x, wide));
  }
};
#else
struct IntegerForm {
  struct Sum {
    int32_t of[kPanel];
  };
  struct Inputs {
    int8_t of[kInputs];
  };
  static constexpr int kSums = 1, kLanes = 1, kAdded = 0, kGroup = 2;
  static constexpr int kPanels = 1;
  static Sum none() { return {}; }
  static Inputs inputs(uint32_t word) {
    Inputs x;
    std::memcpy(&x, &word, sizeof x);
    return x;
  }
  static Sum add(Sum sum, Inputs x, const int8_t* weights, int) {
    for (int lane = 0; lane < kPanel; lane++)
      for (int input = 0; input < kInputs; input++) sum.of[lane] += x.of[input] * weights[lane * kInputs + input];
    return sum;
  }
};
#endif

using Form = IntegerForm;

inline uint32_t word_at(const int8_t* x) {
  uint32_t word;
  std::memcpy(&word, x, sizeof word);
  return word;
}

template <int ROWS, int PANELS>
struct Block {
  typename Form::Sum sums[ROWS][PANELS][Form::kSums];

  inline __attribute__((always_inline)) void add(const int8_t* const* panels, int64_t word, const uint32_t* x) {
#pragma GCC unroll 8
    for (int row = 0; row < ROWS; row++) {
      const auto inputs = Form::inputs(x[row]);
#pragma GCC unroll 2
      for (int panel = 0; panel < PANELS; panel++)
#pragma GCC unroll 4
        for (int at = 0; at < Form::kSums; at++)
          sums[row][panel][at] = Form::add(sums[row][panel][at], inputs, panels[panel] + word * kBytes, at);
    }
  }
};

template <int ROWS, int PANELS>
void multiply_panels(const Call* call, const Weight& weight, int64_t first_row, const int64_t* numbers) {
  const View &x = call->views[0], &row_scales = call->views[1], &out = call->views[2];
  const int64_t words = (weight.k + kInputs - 1) / kInputs, whole = weight.k / kInputs;
  const int8_t* panels[PANELS];
  for (int panel = 0; panel < PANELS; panel++)
    panels[panel] = static_cast<const int8_t*>(weight.panels) + numbers[panel] * words * kBytes;
  const int8_t* rows[ROWS];
  for (int at = 0; at < ROWS; at++) rows[at] = row_or_only<const int8_t>(x, first_row + at);

  Block<ROWS, PANELS> block;
#pragma GCC unroll 8
  for (int at = 0; at < ROWS; at++)
#pragma GCC unroll 2
    for (int panel = 0; panel < PANELS; panel++)
#pragma GCC unroll 4
      for (int each = 0; each < Form::kSums; each++) block.sums[at][panel][each] = Form::none();
  const char* ahead[PANELS];  // what is soon to be read when the panel's beginning is read now
  for (int panel = 0; panel < PANELS; panel++) ahead[panel] = (const char*)panels[panel] + ask_ahead(PANELS);
  const int64_t last = words - ask_ahead(PANELS) / kBytes;  // from here on that is in the panels that follow
  uint32_t inputs[ROWS];
  for (int64_t word = 0; word < whole; word++) {
#pragma GCC unroll 2
    for (int panel = 0; panel < PANELS; panel++)
      __builtin_prefetch(ahead[panel] + (word < last ? word : word + (PANELS - 1) * words) * kBytes);
#pragma GCC unroll 8
    for (int at = 0; at < ROWS; at++) inputs[at] = word_at(rows[at] + word * kInputs);
    block.add(panels, word, inputs);
  }
  if (whole < words) {
    for (int at = 0; at < ROWS; at++) {
      inputs[at] = 0;
      std::memcpy(&inputs[at], rows[at] + whole * kInputs, weight.k - whole * kInputs);
    }
    block.add(panels, whole, inputs);
  }

  for (int panel = 0; panel < PANELS; panel++) {
    const int64_t output = numbers[panel] * kPanel;
    for (int at = 0; at < ROWS; at++) {
      int32_t sums[kPanel * Form::kLanes];
      std::memcpy(sums, block.sums[at][panel], sizeof sums);
      const float row_scale = *row_or_only<const float>(row_scales, first_row + at);
      float* result = row_or_only<float>(out, first_row + at) + output;
      for (int lane = 0; lane < kPanel && output + lane < weight.n; lane++) {
        uint32_t sum = 0;
        for (int each = 0; each < Form::kLanes; each++) sum += (uint32_t)sums[lane * Form::kLanes + each];
        sum -= (uint32_t)Form::kAdded * (uint32_t)(int32_t)weight.sums[output + lane];
        const float scaled = (float)(int32_t)sum * weight.scales[output + lane] * row_scale;
        result[lane] = weight.bias ? scaled + weight.bias[output + lane] : scaled;
      }
    }
  }
}

template <int ROWS>
void multiply_part(const Call* call, const Weight& weight, const RowGroups& groups) {
  constexpr int PANELS = Form::kPanels;
  const Range part = part_of(call, (weight.n + kPanel - 1) / kPanel);
  for (int64_t first = part.begin; first < part.end; first += PANELS) {
    int64_t numbers[PANELS];
    for (int panel = 0; panel < PANELS; panel++)
      numbers[panel] = first + panel < part.end ? first + panel : part.end - 1;
    for (int64_t group = 0; group < groups.count; group++)
      multiply_panels<ROWS, PANELS>(call, weight, groups.begin(group), numbers);
  }
}

template <int ROWS = Form::kGroup>
void multiply_by_rows(const Call* call, const Weight& weight, const RowGroups& groups) {
  if constexpr (ROWS > 1) {
    if (groups.size < ROWS) return multiply_by_rows<ROWS - 1>(call, weight, groups);
  }
  multiply_part<ROWS>(call, weight, groups);
}

}  // namespace

void multiply_few_integers(const Call* call, const Weight& weight) {
  multiply_by_rows(call, weight, RowGroups(call->views[0].rows, Form::kGroup));
}
