#include "skinny.h"

#include "skinny_forms.h"

namespace {

// Of weights whose scales do not say otherwise, so many inputs are summed before they are added to the rest.
constexpr int64_t kSegment = 512;

// Panels that are read side by side: as few as possible, so that memory is read on and on, and as many as it takes to keep
// the arithmetic busy. `splits` is over how many sums the inputs of an output are spread, so that additions need not wait
// for each other.
#if defined(__AVX512F__)
constexpr int kGroup = 8;  // rows of which sums are kept in registers
constexpr int panels_at_once(int rows) { return rows <= 4 ? 1 : 2; }
constexpr int splits(int rows) { return rows <= 2 ? 4 : rows <= 4 ? 2 : 1; }
#elif defined(__AVX2__)
constexpr int kGroup = 6;
constexpr int panels_at_once(int) { return 1; }
constexpr int splits(int rows) { return rows <= 1 ? 4 : rows <= 2 ? 2 : 1; }
#else
constexpr int kGroup = 4;
constexpr int panels_at_once(int) { return 1; }
constexpr int splits(int) { return 1; }
#endif

// Inputs along k that are summed together: those of a scale, or `kSegment`.
struct Segments {
  int64_t k, size, count;
  bool scaled;  // whether each has a scale of its own
  explicit Segments(const Weight& weight) : k(weight.k), scaled(weight.groups > 1) {
    size = scaled ? k / weight.groups : kSegment;
    count = (k + size - 1) / size;
  }
  int64_t begin(int64_t at) const { return at * size; }
  int64_t end(int64_t at) const { return (at + 1) * size < k ? (at + 1) * size : k; }
};

// What is computed: a group of rows by the panels of a thread.
struct Task {
  const Weight& weight;
  const View &x, &out;
  const float* input_sums;  // [rows][segments]: the sums of x, if weights have zeros or an offset
  Segments segments;
};

template <typename Form, int ROWS, int PANELS>
struct Block {
  static constexpr int kSplits = splits(ROWS);
  static constexpr int kSteps = Form::kInputs < 4 ? 4 : 1;  // of a round of the loop
  Vec sums[ROWS][PANELS][kVecs];
  Vec partial[kSplits][ROWS][PANELS][kVecs];

  // Adds the products of `Form::kInputs` inputs, which are those of each x from number `k` on.
  inline __attribute__((always_inline)) void add_inputs(const char* const* panels, int64_t offset, const float* const* x,
                                                        int64_t k, int split) {
    typename Form::Raw raw[PANELS][kVecs];
#pragma GCC unroll 2
    for (int panel = 0; panel < PANELS; panel++)
#pragma GCC unroll 2
      for (int vec = 0; vec < kVecs; vec++) raw[panel][vec] = Form::raw(panels[panel] + offset, vec);
#pragma GCC unroll 8
    for (int input = 0; input < Form::kInputs; input++) {
      Vec weights[PANELS][kVecs];
#pragma GCC unroll 2
      for (int panel = 0; panel < PANELS; panel++)
#pragma GCC unroll 2
        for (int vec = 0; vec < kVecs; vec++) weights[panel][vec] = Form::weights(raw[panel][vec], input);
#pragma GCC unroll 8
      for (int row = 0; row < ROWS; row++) {
        const Vec number = all(x[row][k + input]);
#pragma GCC unroll 2
        for (int panel = 0; panel < PANELS; panel++)
#pragma GCC unroll 2
          for (int vec = 0; vec < kVecs; vec++) {
            Vec& sum = partial[(split + input) % kSplits][row][panel][vec];
            sum = fma(number, weights[panel][vec], sum);
          }
      }
    }
  }

  // Calls `apply` with each sum's row, panel and vector.
  template <typename F>
  inline __attribute__((always_inline)) void each(F&& apply) {
#pragma GCC unroll 8
    for (int row = 0; row < ROWS; row++)
#pragma GCC unroll 2
      for (int panel = 0; panel < PANELS; panel++)
#pragma GCC unroll 2
        for (int vec = 0; vec < kVecs; vec++) apply(row, panel, vec);
  }

  // The sums of inputs from `begin` to `end`.
  //
  // ahead: what is soon to be read from each panel when its beginning is read now.
  inline __attribute__((always_inline)) void sum_segment(const char* const* panels, const char* const* ahead,
                                                         int64_t begin, int64_t end, const float* const* x) {
#pragma GCC unroll 4
    for (int split = 0; split < kSplits; split++)
      each([&](int row, int panel, int vec) { partial[split][row][panel][vec] = zeros(); });
    int64_t k = begin, offset = begin / Form::kInputs * Form::kBytes;
    for (; k + kSteps * Form::kInputs <= end; k += kSteps * Form::kInputs, offset += kSteps * Form::kBytes) {
#pragma GCC unroll 2
      for (int panel = 0; panel < PANELS; panel++)
#pragma GCC unroll 4
        for (int line = 0; line < kSteps * Form::kBytes; line += kLine)
          __builtin_prefetch(ahead[panel] + offset + line);
#pragma GCC unroll 4
      for (int step = 0; step < kSteps; step++)
        add_inputs(panels, offset + step * Form::kBytes, x, k + step * Form::kInputs, step);
    }
    for (; k + Form::kInputs <= end; k += Form::kInputs, offset += Form::kBytes) add_inputs(panels, offset, x, k, 0);
    if (k < end) {
      float last[ROWS][Form::kInputs] = {};
      const float* rest[ROWS];
      for (int row = 0; row < ROWS; row++) {
        std::memcpy(last[row], x[row] + k, (end - k) * sizeof(float));
        rest[row] = last[row];
      }
      add_inputs(panels, offset, rest, 0, 0);
    }
    each([&](int row, int panel, int vec) { sums[row][panel][vec] = partial[0][row][panel][vec]; });
#pragma GCC unroll 4
    for (int split = 1; split < kSplits; split++)
      each([&](int row, int panel, int vec) {
        sums[row][panel][vec] = sums[row][panel][vec] + partial[split][row][panel][vec];
      });
  }
};

template <typename Form>
int64_t panel_bytes(const Weight& weight) {
  return (weight.k + Form::kInputs - 1) / Form::kInputs * Form::kBytes;
}

// A group of rows by some panels, of which the last may be the same one several times.
template <typename Form, int ROWS, int PANELS>
void multiply_panels(const Task& task, int64_t first_row, const int64_t* numbers) {
  const Weight& weight = task.weight;
  const int64_t size = panel_bytes<Form>(weight);
  const char* panels[PANELS];
  for (int panel = 0; panel < PANELS; panel++)
    panels[panel] = static_cast<const char*>(weight.panels) + numbers[panel] * size;
  const float* x[ROWS];
  for (int row = 0; row < ROWS; row++) x[row] = row_or_only<const float>(task.x, first_row + row);

  alignas(64) float totals[ROWS][PANELS][kPanel] = {};
  for (int64_t at = 0; at < task.segments.count; at++) {
    Block<Form, ROWS, PANELS> block;
    const int64_t begin = task.segments.begin(at), end = task.segments.end(at);
    const char* ahead[PANELS];
    const bool at_the_end = end / Form::kInputs * Form::kBytes + ask_ahead(PANELS) > size;
    for (int panel = 0; panel < PANELS; panel++)
      ahead[panel] = panels[panel] + ask_ahead(PANELS) + (at_the_end ? (PANELS - 1) * size : 0);
    block.sum_segment(panels, ahead, begin, end, x);
#pragma GCC unroll 2
    for (int panel = 0; panel < PANELS; panel++)
#pragma GCC unroll 2
      for (int vec = 0; vec < kVecs; vec++) {
        const int64_t number = (numbers[panel] * weight.groups + (task.segments.scaled ? at : 0)) * kPanel;
        const int64_t place = number + vec * Vec::size;
        const Vec scale = weight.scales ? load(weight.scales + place) : all(1.0f);
        Vec zero = weight.zeros ? load(weight.zeros + place) : zeros();
        if constexpr (Form::kOffset != 0.0f) zero = fma(scale, all(Form::kOffset), zero);
#pragma GCC unroll 8
        for (int row = 0; row < ROWS; row++) {
          float* total = totals[row][panel] + vec * Vec::size;
          Vec sum = fma(block.sums[row][panel][vec], scale * all(Form::kFactor), load(total));
          if (task.input_sums) {
            const float inputs = task.input_sums[(first_row + row) * task.segments.count + at];
            sum = sum - zero * all(inputs);
          }
          store(total, sum);
        }
      }
  }
  for (int panel = 0; panel < PANELS; panel++) {
    const int64_t output = numbers[panel] * kPanel;
    for (int row = 0; row < ROWS; row++)
      for (int vec = 0; vec < kVecs; vec++) {
        const int64_t at = output + vec * Vec::size, left = weight.n - at;
        if (left <= 0) break;
        Vec sum = load(totals[row][panel] + vec * Vec::size);
        if (weight.bias) sum = sum + load(weight.bias + at);
        float* result = row_or_only<float>(task.out, first_row + row) + at;
        if (left >= Vec::size)
          store(result, sum);
        else
          store_some(result, sum, (int)left);
      }
  }
}

template <typename Form, int ROWS>
void multiply_part(const Call* call, const Task& task, const RowGroups& groups) {
  constexpr int PANELS = panels_at_once(ROWS);
  const Range part = part_of(call, (task.weight.n + kPanel - 1) / kPanel);
  for (int64_t first = part.begin; first < part.end; first += PANELS) {
    int64_t numbers[PANELS];
    for (int panel = 0; panel < PANELS; panel++)
      numbers[panel] = first + panel < part.end ? first + panel : part.end - 1;
    for (int64_t group = 0; group < groups.count; group++)
      multiply_panels<Form, ROWS, PANELS>(task, groups.begin(group), numbers);
  }
}

template <typename Form, int ROWS = kGroup>
void multiply_by_rows(const Call* call, const Task& task, const RowGroups& groups) {
  if constexpr (ROWS > 1) {
    if (groups.size < ROWS) return multiply_by_rows<Form, ROWS - 1>(call, task, groups);
  }
  multiply_part<Form, ROWS>(call, task, groups);
}

// Sums of the inputs of each segment, which each thread computes for itself.
void sum_inputs(const View& x, const Segments& segments, float* sums) {
  for (int64_t at = 0; at < x.rows; at++) {
    const float* numbers = row_or_only<const float>(x, at);
    for (int64_t segment = 0; segment < segments.count; segment++) {
      int64_t k = segments.begin(segment);
      const int64_t end = segments.end(segment);
      Vec total = zeros();
      for (; k + Vec::size <= end; k += Vec::size) total = total + load(numbers + k);
      if (k < end) total = total + load_some(numbers + k, (int)(end - k));
      sums[at * segments.count + segment] = sum(total);
    }
  }
}

template <typename Form>
void multiply_form(const Call* call, const Weight& weight) {
  Task task = {weight, call->views[0], call->views[1], nullptr, Segments(weight)};
  if (weight.zeros || Form::kOffset != 0.0f) {
    float* sums = row<float>(call->views[3], call->thread);
    sum_inputs(task.x, task.segments, sums);
    task.input_sums = sums;
  }
  multiply_by_rows<Form>(call, task, RowGroups(task.x.rows, kGroup));
}

}  // namespace

int64_t few_scratch(const Weight& weight) {
  return weight.integers ? 0 : kMostRows * Segments(weight).count * (int64_t)sizeof(float);
}

void multiply_few(const Call* call, const Weight& weight) {
  if (call->views[0].rows == 0) return;
  if (weight.integers) return multiply_few_integers(call, weight);
  switch (weight.dtype) {
    case F32: return multiply_form<F32Form>(call, weight);
    case F16: return multiply_form<F16Form>(call, weight);
    case BF16: return multiply_form<BF16Form>(call, weight);
    case F8E4M3: return multiply_form<F8Form>(call, weight);
    case I8: return multiply_form<I8Form>(call, weight);
    default: return multiply_form<I4Form>(call, weight);
  }
}
