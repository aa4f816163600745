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

// R rows of the matrix with T tokens.
template <int BITS, int GROUP, int R, int T>
inline __attribute__((always_inline)) void multiply(
    const Packed& matrix, const float* prepared, float* y, Index row) {
  constexpr Index per_group = GROUP / PER_WORD<BITS>; // words
  const Index words = matrix.columns / PER_WORD<BITS>, groups = matrix.columns / GROUP;
  const Index stride = prepared_floats(matrix);
  const std::uint32_t* const codes = matrix.codes + row * words;
  const float* const scales = matrix.scales + row * groups;
  Floats total[R][T];
#pragma GCC unroll 4
  for (int r = 0; r < R; r++) {
#pragma GCC unroll 4
    for (int t = 0; t < T; t++) {
      total[r][t] = Floats{};
    }
  }
  const auto add = [&](Index word, const Words(&packed)[R], int held)
                       __attribute__((always_inline)) {
    Floats scale[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
      scale[r] = spread<BITS, GROUP>(
          scales + r * groups + word / per_group, (held + per_group - 1) / per_group);
    }
    multiply_block<BITS>(packed, prepared, stride, word, scale, total);
  };
  Words packed[R];
  Index word = 0;
  for (; word + LANES <= words; word += LANES) {
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
      packed[r] = load_words(codes + r * words + word);
      ask_for(codes + r * words + word);
    }
    add(word, packed, LANES);
  }
  if (word < words) {
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
      packed[r] = load_words(codes + r * words + word, int(words - word));
      ask_for(codes + r * words + word);
    }
    add(word, packed, int(words - word));
  }
  const float* const sums = prepared + sums_at(matrix);
  const float* const biases = matrix.biases + row * groups;
#pragma GCC unroll 4
  for (int r = 0; r < R; r++) {
#pragma GCC unroll 4
    for (int t = 0; t < T; t++) {
      Index group = 0;
      for (; group + LANES <= groups; group += LANES) {
        total[r][t] += load(biases + r * groups + group) * load(sums + t * stride + group);
      }
      if (group < groups) {
        const int rest = int(groups - group);
        total[r][t] +=
            load(biases + r * groups + group, rest) * load(sums + t * stride + group, rest);
      }
      y[t * matrix.rows + row + r] = sum(total[r][t]);
    }
  }
}

template <int BITS, int GROUP, int R, int T>
void multiply_rows(const Packed& matrix, const float* prepared, float* y, Index first, Index last) {
  for (; first + R <= last; first += R) {
    multiply<BITS, GROUP, R, T>(matrix, prepared, y, first);
  }
  for (; first < last; first++) {
    multiply<BITS, GROUP, 1, T>(matrix, prepared, y, first);
  }
}

template <int BITS, int GROUP>
void few(
    const Packed& matrix, const float* prepared, Index tokens, float* y, Index first, Index last) {
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
