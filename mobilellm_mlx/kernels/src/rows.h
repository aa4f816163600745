// Few tokens: row by row, as fast as memory gives the rows. A part of path.cpp.

#pragma once

#include "paths.h"
#if defined(__AVX512VNNI__)
#include "planes.h"
#else
#include "floats.h"
#endif

namespace mobilellm {
namespace {

constexpr Index LINE = 16; // floats of a line of a processor's cache
// Scales and biases are asked for so many floats before they are used, in step with the codes: left
// to the processor, which sees three streams at once, they come late.
constexpr Index AHEAD = 768;

// What all rows of a matrix have in common.
struct Row {
  Index words, groups;
  Index whole; // vectors of words in a row
  int rest; // words behind them
  Index stride, sums; // of prepared tokens: from one to the next, to the sums of its groups

  explicit Row(const Packed& matrix)
      : words(matrix.columns * matrix.bits / 32),
        groups(matrix.columns / matrix.group),
        whole(words / LANES),
        rest(int(words % LANES)),
        stride(prepared_floats(matrix)),
        sums(sums_at(matrix)) {}
};

// R rows of the matrix with T tokens.
template <int BITS, int GROUP, int R, int T>
inline __attribute__((always_inline)) void multiply(
    const Packed& matrix, const Row& all, const float* prepared, float* y, Index row) {
  constexpr Index per_group = GROUP / PER_WORD<BITS>; // words
  constexpr int most = LANES > per_group ? LANES / per_group : 1; // groups of a vector
  const std::uint32_t* codes = matrix.codes + row * all.words;
  const float* const scales = matrix.scales + row * all.groups;
  const float* const biases = matrix.biases + row * all.groups;
  for (Index group = 0; group < R * all.groups; group += LINE) {
    __builtin_prefetch(scales + group + AHEAD);
    __builtin_prefetch(biases + group + AHEAD);
  }
  Floats total[R][T];
#pragma GCC unroll 4
  for (int r = 0; r < R; r++) {
#pragma GCC unroll 4
    for (int t = 0; t < T; t++) {
      total[r][t] = Floats{};
    }
  }
  const float* x = prepared;
  Words packed[R];
  Floats scale[R];
  for (Index i = 0; i < all.whole; i++) {
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
      packed[r] = load_words(codes + r * all.words);
      ask_for(codes + r * all.words);
      scale[r] = spread<BITS, GROUP>(scales + r * all.groups + i * LANES / per_group, most);
    }
    multiply_block<BITS>(packed, x, all.stride, scale, total);
    codes += LANES;
    x += STEP<BITS>;
  }
  if (all.rest) {
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
      packed[r] = load_words(codes + r * all.words, all.rest);
      ask_for(codes + r * all.words);
      scale[r] = spread<BITS, GROUP>(
          scales + r * all.groups + all.whole * LANES / per_group,
          int((all.rest + per_group - 1) / per_group));
    }
    multiply_block<BITS>(packed, x, all.stride, scale, total);
  }
  const float* const sums = prepared + all.sums;
#pragma GCC unroll 4
  for (int r = 0; r < R; r++) {
#pragma GCC unroll 4
    for (int t = 0; t < T; t++) {
      Index group = 0;
      for (; group + LANES <= all.groups; group += LANES) {
        total[r][t] += load(biases + r * all.groups + group) * load(sums + t * all.stride + group);
      }
      if (group < all.groups) {
        const int rest = int(all.groups - group);
        total[r][t] +=
            load(biases + r * all.groups + group, rest) * load(sums + t * all.stride + group, rest);
      }
      y[t * matrix.rows + row + r] = sum(total[r][t]);
    }
  }
}

template <int BITS, int GROUP, int R, int T>
void multiply_rows(const Packed& matrix, const float* prepared, float* y, Index first, Index last) {
  const Row all(matrix);
  for (; first + R <= last; first += R) {
    multiply<BITS, GROUP, R, T>(matrix, all, prepared, y, first);
  }
  for (; first < last; first++) {
    multiply<BITS, GROUP, 1, T>(matrix, all, prepared, y, first);
  }
}

#if defined(__AVX512VNNI__)
// Two rows that together are whole vectors of words, with one token.
template <int GROUP>
inline __attribute__((always_inline)) void multiply_pair(
    const Packed& matrix, const Row& all, const float* prepared, float* y, Index row) {
  constexpr Index per_group = GROUP / PER_WORD<4>;
  constexpr int most = LANES / per_group;
  const std::uint32_t* codes = matrix.codes + row * all.words;
  const float* scales = matrix.scales + row * all.groups;
  const float* const biases = matrix.biases + row * all.groups;
  for (Index group = 0; group < 2 * all.groups; group += LINE) {
    __builtin_prefetch(scales + group + AHEAD);
    __builtin_prefetch(biases + group + AHEAD);
  }
  const auto add = [&](Floats& total) __attribute__((always_inline)) {
    const Words packed[1] = {load_words(codes)};
    const Floats scale[1] = {spread<4, GROUP>(scales, most)};
    Floats sum[1][1] = {{total}};
    ask_for(codes);
    multiply_block<4>(packed, prepared, 0, scale, sum);
    total = sum[0][0];
    codes += LANES;
    scales += most;
    prepared += STEP<4>;
  };
  const float* const sums = prepared + all.sums;
  Floats first{}, both{}, second{};
  for (Index i = 0; i < all.whole; i++) {
    add(first);
  }
  add(both);
  for (Index i = 0; i < all.whole; i++) {
    add(second);
  }
  Words low;
  for (int i = 0; i < LANES; i++) {
    low[i] = i < LANES / 2 ? ~0u : 0;
  }
  first += (Floats)((Words)both & low);
  second += (Floats)((Words)both & ~low);
  Index group = 0;
  for (; group + LANES <= all.groups; group += LANES) {
    first += load(biases + group) * load(sums + group);
    second += load(biases + all.groups + group) * load(sums + group);
  }
  if (group < all.groups) {
    const int rest = int(all.groups - group);
    first += load(biases + group, rest) * load(sums + group, rest);
    second += load(biases + all.groups + group, rest) * load(sums + group, rest);
  }
  y[row] = sum(first);
  y[row + 1] = sum(second);
}

template <int GROUP>
void multiply_pairs(
    const Packed& matrix, const float* prepared, float* y, Index first, Index last) {
  const Row all(matrix);
  for (; first + 2 <= last; first += 2) {
    multiply_pair<GROUP>(matrix, all, prepared, y, first);
  }
  if (first < last) {
    multiply<4, GROUP, 1, 1>(matrix, all, prepared, y, first);
  }
}
#endif

template <int BITS, int GROUP>
void few(
    const Packed& matrix, const float* prepared, Index tokens, float* y, Index first, Index last) {
#if defined(__AVX512VNNI__)
  if (BITS == 4 && tokens == 1 && pairs_rows(matrix)) {
    return multiply_pairs<GROUP>(matrix, prepared, y, first, last);
  }
#endif
  const auto run = [&](auto multiply, Index count) {
    multiply(matrix, prepared, y, first, last);
    prepared += count * prepared_floats(matrix);
    y += count * matrix.rows;
    tokens -= count;
  };
  while (tokens >= 4) {
    run(multiply_rows<BITS, GROUP, 2, 4>, 4);
  }
  if (tokens == 3) {
    run(multiply_rows<BITS, GROUP, 2, 3>, 3);
  } else if (tokens == 2) {
    run(multiply_rows<BITS, GROUP, 2, 2>, 2);
  } else if (tokens == 1) {
    run(multiply_rows<BITS, GROUP, ROWS<BITS>, 1>, 1);
  }
}

void few(
    const Packed& matrix, const float* prepared, Index tokens, float* y, Index first, Index last) {
  const auto run = matrix.bits == 4 ? (matrix.group == 32 ? few<4, 32> : few<4, 64>)
                                    : (matrix.group == 32 ? few<8, 32> : few<8, 64>);
  run(matrix, prepared, tokens, y, first, last);
}

} // namespace
} // namespace mobilellm
