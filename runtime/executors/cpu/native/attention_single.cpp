// Attention of tokens that are the only new ones of their sequence, as in decoding. It takes the time in which the
// caches can be read, so they are read once, in the order in which they lie: for some keys at a time, all heads.
//
// The keys of all sequences are dealt out to the threads evenly, one sequence after the other. So a thread has part of
// a sequence at most at the beginning and at the end of its share; the states of those are joined afterwards.
#include "attention_dots.h"
#include "attention_tile.h"

namespace {

// A head that few queries share is computed by dot products, else as a tile.
constexpr int kFew = Vec::size;

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
    padded_k = dots ? Chunks(form.width_k).padded() : form.width_k;
    padded_v = dots ? Chunks(form.width_v).padded() : up_to_multiple(form.width_v, 8);
    head_queries = tiles * lanes * padded_k;
    head_state = tiles * lanes * (padded_v + 2);
    queries = up_to_multiple(form.kv_heads * head_queries, 16);
    state = up_to_multiple(form.kv_heads * head_state, 16);
  }
};

// What a query head has gathered: the largest score, the sum of powers, and its context.
struct HeadState {
  float *largest, *sum, *context;
  int64_t step;   // from an element of the context to the next
  Chunks chunks;  // how those of a dot product's lie

  HeadState(const Attention& form, const Layout& layout, float* state, int64_t head) : chunks(form.width_v) {
    const int64_t group = form.group(), member = head % group, lanes = layout.lanes;
    float* tile = state + head / group * layout.head_state + member / lanes * lanes * (layout.padded_v + 2);
    largest = tile + member % lanes;
    sum = largest + lanes;
    context = tile + 2 * lanes + (layout.dots ? member * layout.padded_v : member % lanes);
    step = layout.dots ? 1 : lanes;
  }
  float at(int64_t element) const { return step == 1 ? context[chunks.place(element)] : context[element * step]; }
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
      const float factor = form_.value_factor(head / form_.group(), of_.v.dtype) / *from.sum;
      for (int64_t at = 0; at < form_.width_v; at++) out[at] = from.at(at) * factor;
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
    const Chunks chunks(width);
    std::memset(queries_, 0, layout_.queries * sizeof(float));
    std::memset(state, 0, layout_.state * sizeof(float));
    for (int64_t head = 0; head < form_.heads; head++) {
      const int64_t member = head % group;
      const float factor = form_.query_factor(head / group, of_.k.dtype);
      float* to = queries_ + head / group * layout_.head_queries;
      to += layout_.dots ? member * layout_.padded_k : member / lanes * lanes * width + member % lanes;
      for (int64_t d = 0; d < width; d++) to[layout_.dots ? chunks.place(d) : d * lanes] = q[head * width + d] * factor;
    }
    for (int64_t tile = 0; tile < form_.kv_heads * layout_.tiles; tile++)
      for (int64_t lane = 0; lane < lanes; lane++) state[tile * lanes * (layout_.padded_v + 2) + lane] = kLeast;
  }

  void attend_by_dots(const Span& span, int64_t head, const Tokens& keys, const Tokens& values, int64_t first,
                      int count, float* state) {
    const int64_t group = form_.group();
    const Chunks k_chunks(form_.width_k), v_chunks(form_.width_v);
    const float* q = queries_ + head * layout_.head_queries;
    with_rows(of_.k.dtype, form_.k_zero(head), keys, head * k_bytes(), count, form_.width_k, k_, k_rows_,
              [&](const auto& reader, const Tokens& rows, int64_t offset) {
                score_all(reader, rows, offset, count, k_chunks, group, q, scores_);
              });
    float factors[kFew];
    for (int64_t member = 0; member < group; member++)
      factors[member] = to_powers(span, head * group + member, first, count, scores_ + member * kKeys, state + member);
    with_rows(of_.v.dtype, form_.v_zero(head), values, head * v_bytes(), count, form_.width_v, v_, v_rows_,
              [&](const auto& reader, const Tokens& rows, int64_t offset) {
                add_all(reader, rows, offset, count, v_chunks, group, scores_, factors, state + 2 * group);
              });
  }

  // Calls `apply` with rows of a head as they are stored; or in float32, if they are less than a vector.
  template <typename F>
  static void with_rows(int32_t dtype, float zero, const Tokens& tokens, int64_t offset, int count, int64_t width,
                        float* brought, const Tokens& brought_rows, F&& apply) {
    with_reader(dtype, zero, [&](const auto& reader) {
      if (width >= Vec::size) return apply(reader, tokens, offset);
      read_rows(reader, tokens, offset, count, width, brought);
      apply(Reader<F32, false>(0.0f), brought_rows, 0);
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
      const int left = count - j;
      Vec x = left < Vec::size ? load_some(scores + j, left) : load(scores + j);
      x = fma(all(slope), places + all((float)(first + j - span.past)), x);
      if (left < Vec::size) x = x + smaller(zeros(), (places - all((float)(left - 1))) * all(kHidden));
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
    with_reader(of_.k.dtype, form_.k_zero(head), [&](const auto& reader) {
      read_rows(reader, keys, head * k_bytes(), count, form_.width_k, k_);
    });
    with_reader(of_.v.dtype, form_.v_zero(head), [&](const auto& reader) {
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
        for (int64_t at = 0; at < form.width_v; at++) out[at] += part.at(at) * factor;
      }
      const float factor = form.value_factor(head / form.group(), of.v.dtype) / total;
      for (int64_t at = 0; at < form.width_v; at++) out[at] *= factor;
    }
  });
}
