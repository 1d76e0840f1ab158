// Weights of products, packed once at load: panels of 16 outputs side by side, so that a vector holds outputs, and no
// sum runs across a vector.
#pragma once

#include <cstdint>

constexpr int kPanel = 16;  // outputs of a panel, whatever the width of a vector

// y = x @ w.T + bias, for w [n, k]. n is padded to whole panels by zeros; so are scales, zeros and bias.
//
// Elements by `dtype` (see DType in abi.h):
//   F32, F16, BF16, F8E4M3, I8:  panels [n / 16][k][16]
//   I4:                          panels [n / 16][k / 8][16] words of 32 bits, in which input 8 j + i has bits 4 i to
//                                4 i + 3 of word j, as value + 8; k padded to whole words by value 0
//   I8, by `integers`:           panels [n / 16][k / 4][16][4], for inputs of int8; k padded by zeros
struct Weight {
  int64_t n, k;
  int32_t dtype;
  int32_t integers;     // whether x is int8, with a scale for each row in a second operand
  int64_t groups;       // scales along k: 0 without any, else each is for k / groups inputs
  const void* panels;
  const float* scales;  // [n / 16][groups][16]
  const float* zeros;   // the same, zero point times scale, to be taken off: w = scale * q - zero; or null
  const float* sums;    // of integers: the sum of each output's weights, [n]; else null
  const float* bias;    // [n], or null
  int32_t round_to;     // the type to which x may be rounded before it is multiplied, BF16; or F32: to none
  int32_t few;          // up to so many rows, `multiply_few` multiplies
};
