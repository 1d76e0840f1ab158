// Attention of each token over the tokens of its own sequence, up to itself, which pools of blocks hold.
#include "attention.h"
#include "pool.h"

extern "C" {

// views: q [T, heads * width_k], spans [spans, 4] (see Span), tables [sequences, blocks of the longest], the pools of
// keys and values [blocks, block * kv_heads * width], the result [T, heads * width_v], and scratch memory, a row for
// each thread of as many float32 as `llmc_attention_scratch` says.
void llmc_paged_attention(const Call* call) {
  const Attention& form = *static_cast<const Attention*>(call->attributes);
  attend_singles(call, form);
  attend_prompts(call, form, singles_scratch(form));
  if (call->threads == 1) return;
  wait_for_all(call->threads);
  join_singles(call, form);
}

// How many float32 of scratch memory a thread needs.
int64_t llmc_attention_scratch(const Attention* form) {
  return singles_scratch(*form) + prompts_scratch(*form);
}

}  // extern "C"
