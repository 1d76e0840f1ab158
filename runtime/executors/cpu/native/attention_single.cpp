// Attention of tokens that are the only new ones of their sequence, as in decoding. It takes the time in which the
// caches can be read, so they are read once, in the order in which they lie: for some keys at a time, all heads.
//
// The keys of all sequences are dealt out to the threads evenly, one sequence after the other. So a thread has part of
// a sequence at most at the beginning and at the end of its share; the states of those are joined afterwards.
#include "attention_tile.h"
#include "lanes.h"

namespace {

// A head that few queries share is computed by dot products, else as a tile.
constexpr int kFew = Vec::size / 2;

// How what a thread keeps lies in its scratch memory.
struct Layout {
  bool dots;
  int vecs;
  int64_t lanes, tiles;              // of a tile, and tiles of each head of keys
  int64_t padded_k, padded_v;        // the columns of a query and a context
  int64_t head_queries, head_state;  // floats of a head of keys: of its queries; of its state
  int64_t queries, state;            // floats of all heads

  explicit Layout(const Attention& form) {
    const int64_t group = form.group();
    dots = group <= kFew;
    vecs = group <= kHalf ? 1 : 2;
    lanes = dots ? group : vecs * Vec::size;
    tiles = dots ? 1 : (group + lanes - 1) / lanes;
    padded_k = dots ? up_to_multiple(form.width_k, 16) : form.width_k;
    padded_v = up_to_multiple(form.width_v, 16);
    head_queries = tiles * lanes * padded_k;
    head_state = tiles * lanes * (padded_v + 2);
    queries = up_to_multiple(form.kv_heads * head_queries, 16);
    state = up_to_multiple(form.kv_heads * head_state, 16);
  }
};

// What a query head has gathered: the largest score, the sum of powers, and its context.
struct HeadState {
  float *largest, *sum, *context;
  int64_t step;  // from an element of the context to the next

  HeadState(const Attention& form, const Layout& layout, float* state, int64_t head) {
    const int64_t group = form.group(), member = head % group, lanes = layout.lanes;
    float* tile = state + head / group * layout.head_state + member / lanes * lanes * (layout.padded_v + 2);
    largest = tile + member % lanes;
    sum = largest + lanes;
    context = tile + 2 * lanes + (layout.dots ? member * layout.padded_v : member % lanes);
    step = layout.dots ? 1 : lanes;
  }
};

// Calls `apply(span, thread, from, to, begin, end)` for each thread's piece of each sequence with one new token: the
// keys from `from` to `to` of those from `begin` to `end` that the token sees.
template <typename F>
void each_piece(const Operands& of, const Attention& form, int threads, F&& apply) {
  const auto seen = [&](const Span& span) { return span.past + 1 - form.first_seen(span.past); };
  int64_t total = 0;
  for (int64_t at = 0; at < of.spans.rows; at++)
    if (of.span(at).tokens == 1) total += seen(of.span(at));
  const int64_t pieces = (total + kKeys - 1) / kKeys;
  if (pieces < threads) threads = (int)pieces;
  if (!threads) return;
  const int64_t least = total / threads / 16 + 16;  // fewer keys are not cut off
  int64_t before = 0;                               // keys of the sequences before
  int thread = 0;
  for (int64_t at = 0; at < of.spans.rows; at++) {
    const Span& span = of.span(at);
    if (span.tokens != 1) continue;
    const int64_t begin = form.first_seen(span.past), end = begin + seen(span);
    int64_t from = begin;
    while (from < end) {
      const int64_t cut = total * (thread + 1) / threads - before + begin;
      if (thread + 1 == threads || cut >= end) {
        apply(span, thread, from, end, begin, end);
        break;
      }
      int64_t to = cut - begin < least ? begin : end - cut < least ? end : cut;
      if (to > from) apply(span, thread, from, to, begin, end), from = to;
      thread++;
    }
    before += end - begin;
  }
}

// scores[j] = the dot product of a query and key j of `tokens`; `width` is a multiple of a vector.
template <typename R>
void score_keys(const R& reader, const Tokens& tokens, int64_t offset, int count, int64_t width, const float* q,
                float* scores) {
  for (int first = 0; first < count; first += Vec::size) {
    const char* const* rows = tokens.rows + first;
    Vec products[Vec::size];
#pragma GCC unroll 16
    for (int i = 0; i < Vec::size; i++) products[i] = reader.many(rows[i] + offset, 0) * load(q);
    for (int64_t at = Vec::size; at < width; at += Vec::size) {
      const Vec right = load(q + at);
#pragma GCC unroll 16
      for (int i = 0; i < Vec::size; i++) products[i] = fma(reader.many(rows[i] + offset, at), right, products[i]);
    }
    store(scores + first, sums_of(products));
  }
}

// context = context * factor + the sum of powers[j] times value j of `tokens`, for VECS vectors at a column.
template <int VECS, typename R>
void add_values(const R& reader, const Tokens& tokens, int64_t offset, int count, int64_t column, const float* powers,
                Vec factor, float* context) {
  Vec sums[VECS];
#pragma GCC unroll 4
  for (int v = 0; v < VECS; v++) sums[v] = load(context + column + v * Vec::size) * factor;
  for (int j = 0; j < count; j++) {
    const Vec power = all(powers[j]);
#pragma GCC unroll 4
    for (int v = 0; v < VECS; v++)
      sums[v] = fma(reader.many(tokens.rows[j] + offset, column + v * Vec::size), power, sums[v]);
  }
#pragma GCC unroll 4
  for (int v = 0; v < VECS; v++) store(context + column + v * Vec::size, sums[v]);
}

// The same for all columns.
template <typename R>
void add_all_values(const R& reader, const Tokens& tokens, int64_t offset, int count, int64_t width,
                    const float* powers, float factor, float* context) {
  int64_t column = 0;
  for (; column + 4 * Vec::size <= width; column += 4 * Vec::size)
    add_values<4>(reader, tokens, offset, count, column, powers, all(factor), context);
  for (; column < width; column += Vec::size)
    add_values<1>(reader, tokens, offset, count, column, powers, all(factor), context);
}

class Singles {
 public:
  Singles(const Call* call, const Attention& form)
      : of_(call->views), form_(form), layout_(form), scratch_(row<float>(of_.scratch, call->thread)) {
    queries_ = scratch_ + 2 * layout_.state;
    k_ = queries_ + layout_.queries;
    v_ = k_ + kKeys * kStride;
    scores_ = v_ + kKeys * kStride;
    lanes_ = scores_ + kKeys * kTile;
    for (int i = 0; i < kKeys; i++) {
      k_rows_.rows[i] = reinterpret_cast<const char*>(k_ + i * kStride);
      v_rows_.rows[i] = reinterpret_cast<const char*>(v_ + i * kStride);
    }
  }

  static int64_t floats(const Attention& form) {
    const Layout layout(form);
    return up_to_multiple(2 * layout.state + layout.queries + kKeys * (2 * kStride + kTile) + 2 * kTile, 16);
  }

  // Attends to the keys from `from` to `to`; the state says what was found.
  void attend(const Span& span, int64_t from, int64_t to, float* state) {
    prepare(span, state);
    const int64_t heads = form_.kv_heads;
    Tokens keys[2], values[2];
    const auto find = [&](int64_t first, int which) {
      const int count = (int)(to - first < kKeys ? to - first : kKeys);
      keys[which].find(of_.k, heads * k_bytes(), of_.table(span), form_.block, first, count);
      values[which].find(of_.v, heads * v_bytes(), of_.table(span), form_.block, first, count);
      return count;
    };
    int count = find(from, 0), next = 0;
    for (int which = 0; from < to; from += count, count = next, which = !which) {
      next = from + count < to ? find(from + count, !which) : 0;
      for (int64_t head = 0; head < heads; head++) {
        for (int64_t at = next * head / heads; at < next * (head + 1) / heads; at++) {
          prefetch(keys[!which].rows[at], heads * k_bytes());
          prefetch(values[!which].rows[at], heads * v_bytes());
        }
        float* own = state + head * layout_.head_state;
        if (layout_.dots) {
          attend_by_dots(span, head, keys[which], values[which], from, count, own);
        } else if (layout_.vecs == 1) {
          attend_by_tiles<1>(span, head, keys[which], values[which], from, count, own);
        } else {
          attend_by_tiles<2>(span, head, keys[which], values[which], from, count, own);
        }
      }
    }
  }

  // Writes the context of a token whose keys have all been taken in.
  void finish(const Span& span, float* state) {
    for (int64_t head = 0; head < form_.heads; head++) {
      const HeadState from(form_, layout_, state, head);
      float* out = row<float>(of_.out, span.first) + head * form_.width_v;
      const float factor = 1.0f / *from.sum;
      for (int64_t at = 0; at < form_.width_v; at++) out[at] = from.context[at * from.step] * factor;
    }
  }

  float* state(int which) { return scratch_ + which * layout_.state; }

 private:
  int64_t k_bytes() const { return form_.width_k * bytes_of(of_.k.dtype); }
  int64_t v_bytes() const { return form_.width_v * bytes_of(of_.v.dtype); }

  static void prefetch(const char* from, int64_t bytes) {
    for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(from + at, 0, 2);
  }

  // Lays out the queries of a token, times what all scores are multiplied by, and begins a state.
  void prepare(const Span& span, float* state) {
    const float* q = row<float>(of_.q, span.first);
    const int64_t width = form_.width_k, group = form_.group(), lanes = layout_.lanes;
    const float factor = form_.scale * kLog2E;
    std::memset(queries_, 0, layout_.queries * sizeof(float));
    std::memset(state, 0, layout_.state * sizeof(float));
    for (int64_t head = 0; head < form_.heads; head++) {
      const int64_t member = head % group;
      float* to = queries_ + head / group * layout_.head_queries;
      to += layout_.dots ? member * layout_.padded_k : member / lanes * lanes * width + member % lanes;
      for (int64_t d = 0; d < width; d++) to[layout_.dots ? d : d * lanes] = q[head * width + d] * factor;
    }
    for (int64_t tile = 0; tile < form_.kv_heads * layout_.tiles; tile++)
      for (int64_t lane = 0; lane < lanes; lane++) state[tile * lanes * (layout_.padded_v + 2) + lane] = kLeast;
  }

  void attend_by_dots(const Span& span, int64_t head, const Tokens& keys, const Tokens& values, int64_t first,
                      int count, float* state) {
    const int64_t group = form_.group();
    const float* q = queries_ + head * layout_.head_queries;
    float factors[kFew + 1];
    each_member(form_.of_keys(head), of_.k, keys, head * k_bytes(), count, form_.width_k, k_, k_rows_,
                [&](const auto& reader, const Tokens& rows, int64_t offset, int64_t width, int64_t member) {
                  score_keys(reader, rows, offset, count, width, q + member * layout_.padded_k,
                             scores_ + member * kKeys);
                });
    for (int64_t member = 0; member < group; member++)
      factors[member] = to_powers(span, head * group + member, first, count, scores_ + member * kKeys, state + member);
    float* contexts = state + 2 * group;
    each_member(form_.of_values(head), of_.v, values, head * v_bytes(), count, form_.width_v, v_, v_rows_,
                [&](const auto& reader, const Tokens& rows, int64_t offset, int64_t width, int64_t member) {
                  add_all_values(reader, rows, offset, count, width, scores_ + member * kKeys, factors[member],
                                 contexts + member * layout_.padded_v);
                });
  }

  // Calls `apply` for each query head of a head with the stored rows; or with rows in float32, if several read them or
  // they are no whole vectors.
  template <typename F>
  void each_member(Scaling scaling, const View& pool, const Tokens& tokens, int64_t offset, int count, int64_t width,
                   float* brought, const Tokens& brought_rows, F&& apply) {
    const int64_t group = form_.group();
    with_reader(pool.dtype, scaling, [&](const auto& reader) {
      if (group == 1 && width % Vec::size == 0) return apply(reader, tokens, offset, width, 0);
      read_rows(reader, tokens, offset, count, width, brought);
      for (int64_t member = 0; member < group; member++)
        apply(Reader<F32>({1.0f, 0.0f}), brought_rows, 0, up_to_multiple(width, Vec::size), member);
    });
  }

  // Makes scores of keys powers of 2 less the largest so far, and returns what the context so far is to be multiplied
  // by. `state`: the largest of a head, and `group` floats on, the sum.
  float to_powers(const Span& span, int64_t head, int64_t first, int count, float* scores, float* state) {
    float order[Vec::size];
    for (int i = 0; i < Vec::size; i++) order[i] = (float)i;
    const Vec places = load(order);
    const float slope = form_.slopes ? form_.slopes[head] * kLog2E : 0.0f;
    Vec most = all(state[0]);
    for (int j = 0; j < count; j += Vec::size) {
      Vec x = fma(all(slope), places + all((float)(first + j - span.past)), load(scores + j));
      if (count - j < Vec::size) x = x + smaller(zeros(), (places - all((float)(count - j - 1))) * all(kHidden));
      store(scores + j, x);
      most = larger(x, most);
    }
    const float largest_now = largest(most);
    Vec powers = zeros();
    for (int j = 0; j < count; j += Vec::size) {
      const Vec power = power_of_two(load(scores + j) - all(largest_now));
      store(scores + j, power);
      powers = powers + power;
    }
    const float factor = power_of_two(state[0] - largest_now);
    state[0] = largest_now;
    float& total = state[form_.group()];
    total = total * factor + sum(powers);
    return factor;
  }

  template <int VECS>
  void attend_by_tiles(const Span& span, int64_t head, const Tokens& keys, const Tokens& values, int64_t first,
                       int count, float* state) {
    const int64_t lanes = layout_.lanes, group = form_.group();
    with_reader(of_.k.dtype, form_.of_keys(head), [&](const auto& reader) {
      read_rows(reader, keys, head * k_bytes(), count, form_.width_k, k_);
    });
    with_reader(of_.v.dtype, form_.of_values(head), [&](const auto& reader) {
      read_rows(reader, values, head * v_bytes(), count, form_.width_v, v_);
    });
    float *places = lanes_, *slopes = lanes_ + kTile;
    for (int64_t tile = 0; tile < layout_.tiles; tile++, state += lanes * (layout_.padded_v + 2)) {
      for (int64_t lane = 0; lane < lanes; lane++) {
        const int64_t member = tile * lanes + lane;
        places[lane] = (float)span.past;
        slopes[lane] = form_.slopes && member < group ? form_.slopes[head * group + member] * kLog2E : 0.0f;
      }
      const float* q = queries_ + head * layout_.head_queries + tile * lanes * form_.width_k;
      const Queries<VECS> queries = {q,     places,        form_.slopes ? slopes : nullptr,
                                     state, state + lanes, state + 2 * lanes};
      attend_tile<VECS>(form_, queries, k_, v_, first, count, false, scores_);
    }
  }

  const Operands of_;
  const Attention& form_;
  const Layout layout_;
  float *scratch_, *queries_, *k_, *v_, *scores_, *lanes_;
  Tokens k_rows_, v_rows_;
};

}  // namespace

int64_t singles_scratch(const Attention& form) { return Singles::floats(form); }

void attend_singles(const Call* call, const Attention& form) {
  Singles singles(call, form);
  each_piece(Operands(call->views), form, call->threads,
             [&](const Span& span, int thread, int64_t from, int64_t to, int64_t begin, int64_t end) {
               if (thread != call->thread) return;
               float* state = singles.state(from > begin ? 0 : 1);
               singles.attend(span, from, to, state);
               if (from == begin && to == end) singles.finish(span, state);
             });
}

void join_singles(const Call* call, const Attention& form) {
  const Operands of(call->views);
  const Layout layout(form);
  const Range heads = part_of(call, form.heads);
  int first = 0;
  each_piece(of, form, call->threads,
             [&](const Span& span, int thread, int64_t from, int64_t to, int64_t begin, int64_t end) {
    if (from == begin) first = thread;
    if (to < end || first == thread) return;
    const auto state = [&](int of_thread, int64_t head) {
      return HeadState(form, layout, row<float>(of.scratch, of_thread) + (of_thread == first ? layout.state : 0), head);
    };
    for (int64_t head = heads.begin; head < heads.end; head++) {
      float most = kLeast, total = 0.0f;
      for (int each = first; each <= thread; each++) {
        const float largest = *state(each, head).largest;
        most = largest > most ? largest : most;
      }
      float* out = row<float>(of.out, span.first) + head * form.width_v;
      std::memset(out, 0, form.width_v * sizeof(float));
      for (int each = first; each <= thread; each++) {
        const HeadState part = state(each, head);
        const float factor = power_of_two(*part.largest - most);
        total += *part.sum * factor;
        for (int64_t at = 0; at < form.width_v; at++) out[at] += part.context[at * part.step] * factor;
      }
      for (int64_t at = 0; at < form.width_v; at++) out[at] /= total;
    }
  });
}
