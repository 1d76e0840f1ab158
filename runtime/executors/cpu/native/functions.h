// Functions of vectors that are no single instruction. Each is right to about two units in the last place of float32.
#pragma once

#include "vec.h"

// A polynomial by its factors, that of the highest power first.
template <int N>
inline Vec polynomial(Vec x, const float (&factors)[N]) {
  Vec sum = all(factors[0]);
  for (int i = 1; i < N; i++) sum = fma(sum, x, all(factors[i]));
  return sum;
}

inline Vec sigmoid(Vec x) { return all(1.0f) / (all(1.0f) + exp(zeros() - x)); }

inline Vec silu(Vec x) { return x / (all(1.0f) + exp(zeros() - x)); }

// Near 0 by x + x**3 * p(x**2), else by exp.
inline Vec tanh(Vec x) {
  constexpr float factors[] = {-0.00571703631f, 0.0206505787f, -0.0537434965f, 0.133314908f, -0.333332837f};
  const Vec square = x * x, size = larger(zeros() - x, x);
  const Vec near = fma(x * square, polynomial(square, factors), x);
  const Vec far = all(1.0f) - all(2.0f) / (exp(size + size) + all(1.0f));
  return where_less(size, all(0.625f), near, where_less(x, zeros(), zeros() - far, far));
}

// Near 0 by x + x * p(x**2), else by 1 - exp(p(|x|)).
inline Vec erf(Vec x) {
  constexpr float near_factors[] = {7.85385782e-05f, -0.000801019254f, 0.00518832775f, -0.026853811f,
                                    0.112835854f,    -0.37612626f,     0.128379166f};
  constexpr float far_factors[] = {0.0001855749f, -0.00293961586f, 0.0218053516f,  -0.103037439f,
                                   -0.638225615f, -1.12704003f,    -0.000353708921f};
  const Vec square = x * x, size = larger(zeros() - x, x);
  const Vec near = fma(x, polynomial(square, near_factors), x);
  const Vec far = all(1.0f) - exp(polynomial(smaller(all(4.0f), size), far_factors));
  return where_less(size, all(1.0f), near, where_less(x, zeros(), zeros() - far, far));
}

// x * (1 + erf(x / sqrt 2)) / 2
inline Vec gelu_erf(Vec x) { return all(0.5f) * x * (all(1.0f) + erf(x * all(0.707106781f))); }

// x * (1 + tanh(u)) / 2 for u = sqrt(2 / pi) * (x + 0.044715 x**3), which is x * sigmoid(2 u)
inline Vec gelu_tanh(Vec x) {
  const Vec cubic = fma(x * x * x, all(0.044715f), x);
  return x / (all(1.0f) + exp(cubic * all(-1.59576912f)));
}

// The sine of x + quarters * pi / 2, number by number. The angle within a quarter is computed in double precision, so that
// positions times frequencies of any size keep theirs.
inline void sines(const float* x, float* result, int64_t count, int quarters) {
  constexpr double kRounding = 0x1.8p52;  // a double so large has no fraction
  constexpr double kQuarter = 0x1.921fb544p0, kQuarterRest = 0x1.0b4611a626331p-34;  // the sum is pi / 2
  for (int64_t at = 0; at < count; at++) {
    const double angle = x[at], turns = angle * 0.63661977236758134 + kRounding - kRounding;
    const float rest = (angle - turns * kQuarter) - turns * kQuarterRest, square = rest * rest;
    const float sine = rest + rest * square * ((-0.000195172979f * square + 0.008332178f) * square - 0.166666552f);
    const float cosine =
        1.0f - 0.5f * square +
        square * square * ((2.44384501e-05f * square - 0.00138873677f) * square + 0.0416666456f);
    const int quarter = (int)turns + quarters;
    const float size = quarter & 1 ? cosine : sine;
    result[at] = quarter & 2 ? -size : size;
  }
}
