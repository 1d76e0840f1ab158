// Attention of sequences that get several new tokens, as prompts do: tiles of queries by keys.
//
// The queries of a head of keys are its query heads' at all new tokens, token by token. A piece of work is some of
// them, for which the keys that they see are brought into float32 once.
#include "attention_tile.h"
#include "lanes.h"

namespace {

constexpr int kMostTiles = 4;   // tiles of a piece of work
constexpr int kPiecesEach = 8;  // pieces for each thread, if the tiles are so many

// What a thread has in its scratch memory.
struct Layout {
  int64_t padded_v, tile;  // columns of a context; floats of a tile
  int64_t floats;

  Layout(const Attention& form) {
    padded_v = up_to_multiple(form.width_v, 8);
    tile = (form.width_k + padded_v + 4) * kTile;
    floats = kMostTiles * tile + kKeys * (2 * kStride + kTile);
  }
};

// The queries of one head of keys, in one sequence.
struct Rows {
  const Span& span;
  int64_t group;

  int64_t count() const { return span.tokens * group; }
  int64_t position(int64_t at) const { return span.past + (at < count() ? at : count() - 1) / group; }
};

class Prompts {
 public:
  Prompts(const Call* call, const Attention& form, int64_t before)
      : of_(call->views), form_(form), layout_(form), tiles_(row<float>(of_.scratch, call->thread) + before) {
    k_ = tiles_ + kMostTiles * layout_.tile;
    v_ = k_ + kKeys * kStride;
    scores_ = v_ + kKeys * kStride;
  }

  // Computes the context of the queries of a head from `first` on, as many as `tiles` tiles have.
  template <int VECS>
  void attend(const Rows& rows, int64_t head, int64_t first, int tiles) {
    constexpr int lanes = VECS * Vec::size;
    const int64_t left = rows.count() - first;
    if (tiles * lanes > left) tiles = (int)((left + lanes - 1) / lanes);
    for (int tile = 0; tile < tiles; tile++) prepare<VECS>(rows, head, first + tile * lanes, tile);
    const int64_t end = rows.position(first + tiles * lanes - 1) + 1;
    int count = 0;
    for (int64_t key = form_.first_seen(rows.position(first)); key < end; key += count) {
      count = (int)(end - key < kKeys ? end - key : kKeys);
      read(rows.span, head, key, count);
      for (int tile = 0; tile < tiles; tile++) {
        const int64_t begins = rows.position(first + tile * lanes);
        const int64_t ends = rows.position(first + (tile + 1) * lanes - 1);
        const int64_t from = form_.first_seen(begins);
        if (key > ends || key + count <= from) continue;
        const int seen = (int)(ends + 1 - key < count ? ends + 1 - key : count);
        const bool masked = key + seen - 1 > begins || key < form_.first_seen(ends);
        attend_tile<VECS>(form_, queries<VECS>(tile), k_, v_, key, seen, masked, scores_);
      }
    }
    for (int tile = 0; tile < tiles; tile++) finish<VECS>(rows, head, first + tile * lanes, tile);
  }

 private:
  float* memory(int tile) const { return tiles_ + tile * layout_.tile; }
  float* q(int tile) const { return memory(tile) + 4 * kTile; }

  template <int VECS>
  Queries<VECS> queries(int tile) const {
    float* own = memory(tile);
    return {q(tile),   own,       form_.slopes ? own + kTile : nullptr, own + 2 * kTile, own + 3 * kTile,
            q(tile) + form_.width_k * kTile};
  }

  // The query at a lane, or the last one.
  const float* query(const Rows& rows, int64_t head, int64_t at) const {
    if (at >= rows.count()) at = rows.count() - 1;
    return row<float>(of_.q, rows.span.first + at / rows.group) + (head * rows.group + at % rows.group) * form_.width_k;
  }

  template <int VECS>
  void prepare(const Rows& rows, int64_t head, int64_t first, int tile) {
    constexpr int lanes = VECS * Vec::size;
    queries<VECS>(tile).clear(form_.width_v);
    const Vec factor = all(form_.query_factor(head, of_.k.dtype));
    for (int lane = 0; lane < lanes; lane++) {
      memory(tile)[lane] = (float)rows.position(first + lane);
      if (!form_.slopes) continue;
      memory(tile)[kTile + lane] = form_.slopes[head * rows.group + (first + lane) % rows.group] * kLog2E;
    }
    for (int lane = 0; lane < lanes; lane += 4) {
      float turned[4][kStride];
      for (int i = 0; i < 4; i++) {
        const float* from = query(rows, head, first + lane + i);
        int64_t d = 0;
        for (; d + Vec::size <= form_.width_k; d += Vec::size) store(turned[i] + d, load(from + d) * factor);
        if (const int rest = (int)(form_.width_k - d))
          store_some(turned[i] + d, load_some(from + d, rest) * factor, rest);
      }
      int64_t d = 0;
      for (; d + 4 <= form_.width_k; d += 4) turn_block(turned[0] + d, kStride, q(tile) + d * lanes + lane, lanes);
      for (; d < form_.width_k; d++)
        for (int i = 0; i < 4; i++) q(tile)[d * lanes + lane + i] = turned[i][d];
    }
  }

  void read(const Span& span, int64_t head, int64_t first, int count) {
    const int64_t k_bytes = form_.width_k * bytes_of(of_.k.dtype), v_bytes = form_.width_v * bytes_of(of_.v.dtype);
    Tokens tokens;
    tokens.find(of_.k, form_.kv_heads * k_bytes, of_.table(span), form_.block, first, count);
    with_reader(of_.k.dtype, form_.k_zero(head), [&](const auto& reader) {
      read_rows(reader, tokens, head * k_bytes, count, form_.width_k, k_);
    });
    tokens.find(of_.v, form_.kv_heads * v_bytes, of_.table(span), form_.block, first, count);
    with_reader(of_.v.dtype, form_.v_zero(head), [&](const auto& reader) {
      read_rows(reader, tokens, head * v_bytes, count, form_.width_v, v_);
    });
  }

  template <int VECS>
  void finish(const Rows& rows, int64_t head, int64_t first, int tile) {
    constexpr int lanes = VECS * Vec::size;
    const Queries<VECS> from = queries<VECS>(tile);
    for (int v = 0; v < VECS; v++) {
      const Vec factor = all(form_.value_factor(head, of_.v.dtype)) / load(from.sum + v * Vec::size);
      for (int64_t d = 0; d < form_.width_v; d++) {
        float* at = from.context + d * lanes + v * Vec::size;
        store(at, load(at) * factor);
      }
    }
    for (int lane = 0; lane < lanes && first + lane < rows.count(); lane += 4) {
      float turned[4][kStride];
      for (int64_t d = 0; d < layout_.padded_v; d += 4)
        turn_block(from.context + d * lanes + lane, lanes, turned[0] + d, kStride);
      for (int i = 0; i < 4 && first + lane + i < rows.count(); i++) {
        const int64_t at = first + lane + i, query_head = head * rows.group + at % rows.group;
        float* out = row<float>(of_.out, rows.span.first + at / rows.group) + query_head * form_.width_v;
        std::memcpy(out, turned[i], form_.width_v * sizeof(float));
      }
    }
  }

  const Operands of_;
  const Attention& form_;
  const Layout layout_;
  float *tiles_, *k_, *v_, *scores_;
};

// Calls `apply(rows, lanes)` for each sequence with several new tokens; `lanes`: how many queries a tile has.
template <typename F>
void each_prompt(const Operands& of, const Attention& form, F&& apply) {
  for (int64_t at = 0; at < of.spans.rows; at++) {
    if (of.span(at).tokens < 2) continue;
    const Rows rows = {of.span(at), form.group()};
    apply(rows, rows.count() <= kHalf ? kHalf : kTile);
  }
}

// How much a piece of work costs: as many queries as it computes times the keys that they see together.
int64_t cost_of(const Attention& form, const Rows& rows, int64_t first, int64_t queries) {
  if (first + queries > rows.count()) queries = up_to_multiple(rows.count() - first, kHalf);
  return queries * (rows.position(first + queries - 1) + 1 - form.first_seen(rows.position(first)));
}

}  // namespace

int64_t prompts_scratch(const Attention& form) { return Layout(form).floats; }

// Every thread goes through all pieces, and computes those whose middle is in its part of the costs.
void attend_prompts(const Call* call, const Attention& form, int64_t before) {
  const Operands of(call->views);
  int64_t count = 0;
  each_prompt(of, form, [&](const Rows& rows, int lanes) { count += (rows.count() + lanes - 1) / lanes; });
  if (!count) return;
  int tiles = kMostTiles;
  while (tiles > 1 && count * form.kv_heads < (int64_t)kPiecesEach * call->threads * tiles) tiles /= 2;
  int64_t total = 0;
  each_prompt(of, form, [&](const Rows& rows, int lanes) {
    for (int64_t first = 0; first < rows.count(); first += tiles * lanes)
      total += cost_of(form, rows, first, tiles * lanes) * form.kv_heads;
  });
  Prompts prompts(call, form, before);
  int64_t done = 0;
  each_prompt(of, form, [&](const Rows& rows, int lanes) {
    for (int64_t head = 0; head < form.kv_heads; head++)
      for (int64_t first = 0; first < rows.count(); first += tiles * lanes) {
        const int64_t cost = cost_of(form, rows, first, tiles * lanes), middle = done + cost / 2;
        done += cost;
        if (middle * call->threads / total != call->thread) continue;
        if (lanes == kHalf) {
          prompts.attend<1>(rows, head, first, tiles);
        } else {
          prompts.attend<2>(rows, head, first, tiles);
        }
      }
  });
}
