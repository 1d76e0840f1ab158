// Running a program: every thread goes through all ops, and waits for the others after each.
#include <chrono>
#include <cstdint>

#include "abi.h"
#include "pool.h"

namespace {

constexpr int64_t kAlign = 64;
constexpr int kMostOperands = 16;
constexpr int kMostSlots = 4096;

int64_t aligned(int64_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

struct Run {
  const Program* program;
  const int64_t* sizes;
  int64_t* nanoseconds;
  char* memory[kMostSlots];
};

int64_t now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void run_ops(void* argument, int thread, int threads) {
  const Run& run = *static_cast<const Run*>(argument);
  int64_t* const nanoseconds = thread == 0 ? run.nanoseconds : nullptr;
  int64_t begin = nanoseconds ? now() : 0;
  View views[kMostOperands];
  for (int32_t at = 0; at < run.program->op_count; at++) {
    const Op& op = run.program->ops[at];
    for (int64_t each = 0; each < op.count; each++) {
      const Operand& operand = op.operands[each];
      views[each] = {run.memory[operand.slot] + operand.offset, run.sizes[operand.size], operand.stride,
                     operand.columns, operand.dtype};
    }
    const Call call = {views, op.attributes, thread, threads};
    op.kernel(&call);
    if (run.nanoseconds || at + 1 < run.program->op_count) wait_for_all(threads);
    if (nanoseconds) {
      const int64_t end = now();
      nanoseconds[at] += end - begin;
      begin = end;
    }
  }
}

}  // namespace

extern "C" {

// How many bytes of arena a step of some sizes takes.
int64_t llmc_arena_bytes(const Program* program, const int64_t* sizes) {
  int64_t bytes = 0;
  for (int32_t at = 0; at < program->slot_count; at++) {
    const Slot& slot = program->slots[at];
    if (slot.pointer < 0) bytes += aligned(slot.row_bytes * sizes[slot.size]);
  }
  return bytes;
}

// Runs a program. Returns 0, or 1 if it has more slots or operands than this library takes.
//
// sizes: the step's sizes, by number. pointers: the caller's memory, by number. arena: as many bytes as
// `llmc_arena_bytes` says, beginning at a multiple of 64. nanoseconds: a number for each op, to which the time is added
// until all threads have done it; or null.
int32_t llmc_run(const Program* program, const int64_t* sizes, void* const* pointers, void* arena, int32_t threads,
                 int64_t* nanoseconds) {
  if (program->slot_count > kMostSlots) return 1;
  for (int32_t at = 0; at < program->op_count; at++)
    if (program->ops[at].count > kMostOperands) return 1;
  Run run;
  run.program = program;
  run.sizes = sizes;
  run.nanoseconds = nanoseconds;
  char* next = static_cast<char*>(arena);
  for (int32_t at = 0; at < program->slot_count; at++) {
    const Slot& slot = program->slots[at];
    if (slot.pointer >= 0) {
      run.memory[at] = static_cast<char*>(pointers[slot.pointer]);
      continue;
    }
    run.memory[at] = next;
    next += aligned(slot.row_bytes * sizes[slot.size]);
  }
  run_together(threads, run_ops, &run);
  return 0;
}

}  // extern "C"
