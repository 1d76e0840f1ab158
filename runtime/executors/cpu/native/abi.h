// What Python and this library say to each other: plain structs, which `abi.py` mirrors.
//
// A program is a list of ops, each a kernel with its operands and attributes. Every thread of the pool runs every op of
// the program, each on its own part, and all wait for each other after each op. Kernels keep nothing: weights are in
// their attributes, and scratch memory is an operand like any other.
#pragma once

#include <cstdint>

extern "C" {

enum DType : int32_t { F32 = 0, F16 = 1, BF16 = 2, F8E4M3 = 3, I8 = 4, I4 = 5, I32 = 6, I64 = 7, BOOL = 8 };

// A matrix in memory. Rows are a step's tokens, or whatever else a step has some of; the elements of a row lie side by
// side.
struct View {
  char* data;
  int64_t rows;
  int64_t stride;  // bytes from one row to the next; 0 where all rows are the same one
  int64_t columns;
  int32_t dtype;
};

// What a kernel is called with. It computes the part of thread `thread` of `threads`, and nothing else.
struct Call {
  const View* views;
  const void* attributes;
  int32_t thread;
  int32_t threads;
};

typedef void (*Kernel)(const Call*);

// A matrix of a program: where it lies is known when a step begins.
struct Operand {
  int32_t slot;    // the memory that it is in
  int32_t size;    // which of the step's sizes is the number of its rows
  int64_t offset;  // bytes from the slot's beginning
  int64_t stride;
  int64_t columns;
  int32_t dtype;
  int32_t unused;
};

// A piece of memory: a caller's, or of the arena that the caller provides.
struct Slot {
  int64_t row_bytes;  // how many bytes it has for each row; of a caller's: 0
  int32_t size;       // which of the step's sizes is the number of its rows
  int32_t pointer;    // which of the caller's pointers it is; -1 in the arena
};

struct Op {
  Kernel kernel;
  const void* attributes;
  const Operand* operands;
  int64_t count;
};

struct Program {
  const Op* ops;
  const Slot* slots;
  int32_t op_count;
  int32_t slot_count;
};

}  // extern "C"

template <typename T>
inline T* row(const View& view, int64_t index) {
  return reinterpret_cast<T*>(view.data + index * view.stride);
}

struct Range {
  int64_t begin, end;
};

// The items of a thread if they are dealt out evenly, in pieces of `unit`.
inline Range part_of(const Call* call, int64_t items, int64_t unit = 1) {
  const int64_t units = (items + unit - 1) / unit;
  const int64_t begin = units * call->thread / call->threads * unit;
  const int64_t end = units * (call->thread + 1) / call->threads * unit;
  return {begin < items ? begin : items, end < items ? end : items};
}
