#include "convert.h"

#include <cstring>

namespace {

constexpr int64_t kBlock = 256;

bool is_float(int32_t type) { return type <= F8E4M3; }

template <typename From, typename To, typename Apply>
void each(const void* from, void* to, int64_t count, Apply apply) {
  const From* source = static_cast<const From*>(from);
  To* result = static_cast<To*>(to);
  for (int64_t at = 0; at < count; at++) result[at] = apply(source[at]);
}

template <typename From, typename To>
void each(const void* from, void* to, int64_t count) {
  each<From, To>(from, to, count, [](From value) { return (To)value; });
}

// The elements of a type that is floating-point, or small enough to be in it exactly.
void to_floats(const void* from, int32_t type, float* to, int64_t count) {
  int64_t at = 0;
  switch (type) {
    case F32:
      std::memcpy(to, from, count * sizeof(float));
      return;
    case F16: {
      const uint16_t* source = static_cast<const uint16_t*>(from);
      for (; at + Vec::size <= count; at += Vec::size) store(to + at, load_f16(source + at));
      return each<uint16_t, float>(source + at, to + at, count - at, f16_to_f32);
    }
    case BF16: return each<uint16_t, float>(from, to, count, bf16_to_f32);
    case F8E4M3: return each<uint8_t, float>(from, to, count, f8_to_f32);
    case I8: return each<int8_t, float>(from, to, count);
    case BOOL: return each<uint8_t, float>(from, to, count, [](uint8_t value) { return value ? 1.0f : 0.0f; });
    case I32: return each<int32_t, float>(from, to, count);
    case I64: return each<int64_t, float>(from, to, count);
  }
}

void from_floats(const float* from, void* to, int32_t type, int64_t count) {
  int64_t at = 0;
  switch (type) {
    case F16: {
      uint16_t* result = static_cast<uint16_t*>(to);
      for (; at + Vec::size <= count; at += Vec::size) store_f16(result + at, load(from + at));
      return each<float, uint16_t>(from + at, result + at, count - at, f32_to_f16);
    }
    case BF16: return each<float, uint16_t>(from, to, count, f32_to_bf16);
    case F8E4M3: return each<float, uint8_t>(from, to, count, f32_to_f8);
    case BOOL: return each<float, uint8_t>(from, to, count, [](float value) { return (uint8_t)(value != 0.0f); });
    case I8: return each<float, int8_t>(from, to, count, [](float value) { return (int8_t)(int64_t)value; });
    case I32: return each<float, int32_t>(from, to, count);
    case I64: return each<float, int64_t>(from, to, count);
  }
}

void to_integers(const void* from, int32_t type, int64_t* to, int64_t count) {
  switch (type) {
    case I8: return each<int8_t, int64_t>(from, to, count);
    case BOOL: return each<uint8_t, int64_t>(from, to, count, [](uint8_t value) { return (int64_t)(value != 0); });
    case I32: return each<int32_t, int64_t>(from, to, count);
  }
  std::memcpy(to, from, count * sizeof(int64_t));
}

void from_integers(const int64_t* from, void* to, int32_t type, int64_t count) {
  switch (type) {
    case I8: return each<int64_t, int8_t>(from, to, count);
    case BOOL: return each<int64_t, uint8_t>(from, to, count, [](int64_t value) { return (uint8_t)(value != 0); });
    case I32: return each<int64_t, int32_t>(from, to, count);
  }
  std::memcpy(to, from, count * sizeof(int64_t));
}

// By way of the wide type of the result's family, float32 or int64.
void convert_block(const void* from, int32_t from_type, void* to, int32_t to_type, int64_t count) {
  if (is_float(from_type) || is_float(to_type)) {
    float wide[kBlock];
    to_floats(from, from_type, wide, count);
    from_floats(wide, to, to_type, count);
  } else {
    int64_t wide[kBlock];
    to_integers(from, from_type, wide, count);
    from_integers(wide, to, to_type, count);
  }
}

}  // namespace

void convert(const void* from, int32_t from_type, void* to, int32_t to_type, int64_t count) {
  const char* source = static_cast<const char*>(from);
  char* result = static_cast<char*>(to);
  if (from_type == to_type) {
    std::memmove(result, source, count * bytes_of(to_type));
  } else if (to_type == F32) {
    to_floats(source, from_type, static_cast<float*>(to), count);
  } else if (from_type == F32) {
    from_floats(static_cast<const float*>(from), to, to_type, count);
  } else {
    for (int64_t at = 0; at < count; at += kBlock)
      convert_block(source + at * bytes_of(from_type), from_type, result + at * bytes_of(to_type), to_type,
                    count - at < kBlock ? count - at : kBlock);
  }
}
