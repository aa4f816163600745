// Rows of packed weights with tokens of floats: codes become floats too. A part of path.cpp.

#pragma once

#include <cstring>

#include "paths.h"
#include "vectors.h"

namespace mobilellm {
namespace {

constexpr Index FEW = 6; // tokens: for more of them tiles are sooner, as measured

// Where the sums of a prepared token begin: floats of whole blocks.
Index sums_at(const Packed& matrix) {
  const Index words = matrix.columns * matrix.bits / 32;
  return (words + LANES - 1) / LANES * LANES * (32 / matrix.bits);
}

// A prepared token: its numbers in the order in which `codes` gives the weights, zeros where a
// block has no weights, and then the sums of its groups.
std::size_t prepared_floats(const Packed& matrix) {
  const Index floats = sums_at(matrix) + matrix.columns / matrix.group;
  return (floats + 15) / 16 * 16; // whole cache lines, so that no vector of the next one lies in two
}

void prepare(const Packed& matrix, const float* x, Index, float* prepared) {
  const int per_word = 32 / matrix.bits;
  const Index block = LANES * per_word;
  const Index whole = matrix.columns / block * block;
  for (Index start = 0; start < whole; start += block) {
    for (int i = 0; i < per_word; i++) {
      for (int lane = 0; lane < LANES; lane++) {
        prepared[start + i * LANES + lane] = x[start + lane * per_word + i];
      }
    }
  }
  if (whole < matrix.columns) {
    std::memset(prepared + whole, 0, block * sizeof(float));
    for (Index k = 0; k < matrix.columns - whole; k++) {
      prepared[whole + k % per_word * LANES + k / per_word] = x[whole + k];
    }
  }
  float* sums = prepared + sums_at(matrix);
  for (Index start = 0; start < matrix.columns; start += matrix.group) {
    float total = 0;
    for (Index k = start; k < start + matrix.group; k++) {
      total += x[k];
    }
    *sums++ = total;
  }
}

inline void ask_for(const std::uint32_t* codes) {
  __builtin_prefetch(codes + 8192 / 4);
}

template <int BITS>
constexpr int ROWS = BITS == 4 ? 2 : 1; // at once for one token, as measured

// Floats of a prepared token for one vector of words.
template <int BITS>
constexpr Index STEP = BLOCK<BITS>;

// total += scale * the products of R rows' words with what T tokens have for them.
template <int BITS, int R, int T>
inline __attribute__((always_inline)) void multiply_block(
    const Words (&words)[R], const float* prepared, Index stride, const Floats (&scale)[R],
    Floats (&total)[R][T]) {
  constexpr int parts = R * T < 4 ? 2 : 1; // no sum should wait for the one before
  Floats part[R][T][parts];
#pragma GCC unroll 4
  for (int r = 0; r < R; r++) {
#pragma GCC unroll 4
    for (int t = 0; t < T; t++) {
#pragma GCC unroll 4
      for (int p = 0; p < parts; p++) {
        part[r][t][p] = Floats{};
      }
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < PER_WORD<BITS>; i++) {
    Floats input[T];
#pragma GCC unroll 4
    for (int t = 0; t < T; t++) {
      input[t] = load(prepared + t * stride + i * LANES);
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
      const Floats weight = codes<BITS>(words[r], i);
#pragma GCC unroll 4
      for (int t = 0; t < T; t++) {
        part[r][t][i % parts] += weight * input[t];
      }
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; r++) {
#pragma GCC unroll 4
    for (int t = 0; t < T; t++) {
      total[r][t] += (parts == 2 ? part[r][t][0] + part[r][t][1] : part[r][t][0]) * scale[r];
    }
  }
}

} // namespace
} // namespace mobilellm
