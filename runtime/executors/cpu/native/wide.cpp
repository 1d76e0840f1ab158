// Products of many rows: the loops around tiles, and who computes what.
#include "wide.h"

#include "decode.h"
#include "tile.h"

namespace {

constexpr int64_t kTile = kVectors * Vec::size;             // outputs of a tile
constexpr int64_t kChunkBlocks = 384 / kBlockRows;          // blocks of rows that stay in a second-level cache together
static_assert(kVectors * Vec::size / kPanel * kSlab * kPanel * 4 <= kThreadScratch);
constexpr int64_t kPanels = kTile < kPanel ? 1 : kTile / kPanel;  // panels that a tile reads

// What a thread computes: tiles of outputs by blocks of rows.
struct Part {
  Range tiles, blocks;
};

int64_t share(int64_t items, int64_t parts) { return (items + parts - 1) / parts; }

// Deals out tiles, and where they are few, blocks of rows as well.
Part part_for(const Call* call, int64_t tiles, int64_t blocks) {
  int64_t best = 1, least = share(tiles, call->threads) * blocks;
  for (int64_t parts = 2; parts <= call->threads; parts++) {
    if (call->threads % parts) continue;
    const int64_t work = share(tiles, call->threads / parts) * share(blocks, parts);
    if (work < least) best = parts, least = work;
  }
  const int64_t columns = call->threads / best, column = call->thread / best, line = call->thread % best;
  return {{tiles * column / columns, tiles * (column + 1) / columns},
          {blocks * line / best, blocks * (line + 1) / best}};
}

// Words along k that are multiplied at once: all of one slab, and of one group.
struct WordBlocks {
  int64_t words, group;  // of a row, and of a group
  WordBlocks(const Weight& weight, RowForm form) : words(row_words(form, weight.k)), group(words) {
    if (form == PAIRS && weight.groups) group = words / weight.groups;
  }
  int64_t end(int64_t begin) const {
    const int64_t of_group = (begin / group + 1) * group, of_slab = (begin / kSlab + 1) * kSlab;
    const int64_t least = of_group < of_slab ? of_group : of_slab;
    return least < words ? least : words;
  }
};

// Some words of a panel, as `Form` multiplies them: where they are, or brought into the scratch.
template <typename Form>
const uint32_t* panel_words(const Weight& weight, int64_t panel, int64_t begin, int64_t end, uint32_t* scratch);

template <>
const uint32_t* panel_words<Floats>(const Weight& weight, int64_t panel, int64_t begin, int64_t end,
                                    uint32_t* scratch) {
  if (weight.dtype == F32 && !weight.groups)
    return reinterpret_cast<const uint32_t*>(panel_of(weight, panel)) + begin * kPanel;
  with_stored(weight.dtype, [&](auto stored) {
    decode_floats<decltype(stored)>(weight, panel, begin, end, reinterpret_cast<float*>(scratch));
  });
  return scratch;
}

#if defined(__AVX512BF16__)
template <>
const uint32_t* panel_words<Pairs>(const Weight& weight, int64_t panel, int64_t begin, int64_t end, uint32_t* scratch) {
  const int64_t last = 2 * end < weight.k ? 2 * end : weight.k;
  if (weight.dtype == BF16)
    decode_pairs<StoredBF16>(weight, panel, 2 * begin, last, scratch);
  else if (weight.dtype == I8)
    decode_pairs<StoredI8>(weight, panel, 2 * begin, last, scratch);
  else
    decode_pairs<StoredI4>(weight, panel, 2 * begin, last, scratch);
  return scratch;
}
#endif

template <>
const uint32_t* panel_words<Integers>(const Weight& weight, int64_t panel, int64_t begin, int64_t end,
                                      uint32_t* scratch) {
  if (kFourAtOnce) return reinterpret_cast<const uint32_t*>(panel_of(weight, panel)) + begin * kPanel;
  decode_halves(panel_of(weight, panel), begin / 2, end / 2, scratch);
  return scratch;
}

// A block of the weights of the tile that begins at an output.
template <typename Form>
Tile tile_at(const Weight& weight, int64_t output, int64_t columns, int64_t begin, int64_t end, int64_t group,
             uint32_t* scratch) {
  Tile tile;
  tile.words = end - begin;
  const uint32_t* panels[kPanels] = {};
  for (int64_t each = 0; each < kPanels; each++) {
    const int64_t panel = output / kPanel + each;
    panels[each] = panel * kPanel < weight.n
                       ? panel_words<Form>(weight, panel, begin, end, scratch + each * kSlab * kPanel)
                       : panels[0];  // is multiplied, but not kept
  }
  for (int vector = 0; vector < kVectors; vector++) {
    const int64_t wanted = output + vector * Vec::size, first = wanted < weight.n ? wanted : output;
    const int64_t lane = first % kPanel, panel = first / kPanel;
    const int64_t scales = (panel * weight.groups + group) * kPanel + lane;
    tile.weights[vector] = panels[(first - output / kPanel * kPanel) / kPanel] + lane;
    tile.scales[vector] = weight.groups ? weight.scales + scales : nullptr;
    tile.bias[vector] = weight.bias ? weight.bias + first : nullptr;
    tile.sums[vector] = weight.sums ? weight.sums + first : nullptr;
    const int64_t lanes = columns - wanted;
    tile.lanes[vector] = lanes < 0 ? 0 : lanes < Vec::size ? lanes : Vec::size;
  }
  return tile;
}

// Has the words of the weights of a tile brought near, in a number of parts.
void prefetch(const Weight& weight, RowForm form, int64_t tile, int64_t begin, int64_t end, int64_t part,
              int64_t parts) {
  const int64_t inputs = form == FLOATS ? 1 : form == PAIRS ? 2 : kFourAtOnce ? 4 : 2;  // of a word
  const int64_t first = panel_bytes(weight, begin * inputs), bytes = panel_bytes(weight, end * inputs) - first;
  for (int64_t each = 0; each < kPanels; each++) {
    const int64_t panel = tile * kTile / kPanel + each;
    if (panel * kPanel >= weight.n) return;
    const char* from = panel_of(weight, panel) + first;
    for (int64_t at = bytes * part / parts; at < bytes * (part + 1) / parts; at += 64)
      __builtin_prefetch(from + at, 0, 2);
  }
}

template <typename Form>
void multiply_part(const Call* call, const Weight& weight, RowForm form) {
  const int inputs = weight.integers ? 2 : 1;
  const View &x = call->views[0], &out = call->views[inputs], &packed = call->views[inputs + 1];
  auto* scratch = row<uint32_t>(call->views[inputs + 2], call->thread);
  const WordBlocks along(weight, form);
  const RowBlocks blocks(x.rows, along.words);
  const Part part = part_for(call, share(out.columns, kTile), blocks.count);
  const MultiplyTile whole = tile_function<Form>(kBlockRows);
  const int64_t chunks = share(part.blocks.end - part.blocks.begin, kChunkBlocks);
  for (int64_t chunk = 0; chunk < chunks; chunk++) {
    const int64_t some = part.blocks.end - part.blocks.begin;
    const Range rows = {part.blocks.begin + some * chunk / chunks, part.blocks.begin + some * (chunk + 1) / chunks};
    for (int64_t begin = 0, end; begin < along.words; begin = end) {
      end = along.end(begin);
      for (int64_t at = part.tiles.begin; at < part.tiles.end; at++) {
        Tile tile = tile_at<Form>(weight, at * kTile, out.columns, begin, end, begin / along.group, scratch);
        tile.first = begin == 0;
        tile.last = end == along.words;
        for (int64_t block = rows.begin; block < rows.end; block++) {
          if (at + 1 < part.tiles.end)
            prefetch(weight, form, at + 1, begin, end, block - rows.begin, rows.end - rows.begin);
          const int64_t first = blocks.begin(block), count = blocks.size(block);
          const auto* from = reinterpret_cast<const uint32_t*>(packed.data) + blocks.offset(block, begin);
          Results results = {out.data + first * out.stride + at * kTile * 4, out.stride, nullptr, 0};
          if (weight.integers) {
            const View& scales = call->views[1];
            results.scale_stride = scales.rows == 1 ? 0 : scales.stride;
            results.row_scales = scales.data + first * results.scale_stride;
          }
          const MultiplyTile multiply = count == kBlockRows ? whole : tile_function<Form>(count);
          multiply(tile, from, results);
        }
      }
    }
  }
}

}  // namespace

RowForm row_form(const Weight& weight) {
  if (weight.integers) return INTEGERS;
#if defined(__AVX512BF16__)
  const bool whole_pairs = !weight.groups || weight.groups == 1 || weight.k / weight.groups % 2 == 0;
  const bool exact = weight.dtype == BF16 || weight.dtype == I8 || weight.dtype == I4;
  if (weight.round_to == BF16 && exact && whole_pairs) return PAIRS;
#endif
  return FLOATS;
}

void multiply_many(const Call* call, const Weight& weight) {
  const RowForm form = row_form(weight);
#if defined(__AVX512BF16__)
  if (form == PAIRS) return multiply_part<Pairs>(call, weight, form);
#endif
  if (form == INTEGERS) return multiply_part<Integers>(call, weight, form);
  multiply_part<Floats>(call, weight, form);
}

extern "C" {

// In which form rows for a weight are packed: a RowForm.
int32_t llmc_row_form(const Weight* weight) { return row_form(*weight); }

// How many bytes a packed row of a form takes.
int64_t llmc_packed_row_bytes(int32_t form, int64_t k) { return 4 * row_words(form, k); }

// How many bytes of scratch `multiply_many` takes for each thread.
int64_t llmc_thread_scratch_bytes() { return kThreadScratch; }

// views and attributes: those of `multiply_many`.
void llmc_multiply_many(const Call* call) { multiply_many(call, *static_cast<const Weight*>(call->attributes)); }

}  // extern "C"
