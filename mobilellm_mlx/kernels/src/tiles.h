// Many tokens: a tile of rows is unpacked once for all of them. A part of path.cpp.

#pragma once

#include <algorithm>
#include <cstring>

#include "paths.h"
#include "vectors.h"

namespace mobilellm {
namespace {

// Many tokens. A tile is two vectors of rows; TOKENS of them at a time fill the registers.
constexpr Index TILE = 2 * LANES;
constexpr Index TOKENS = LANES == 16 ? 12 : 6;

constexpr Index panels(Index tokens) {
  return (tokens + TOKENS - 1) / TOKENS;
}

// Whole tiles.
constexpr Index tiled(Index rows) {
  return (rows + TILE - 1) / TILE * TILE;
}

// Tokens (T, K) in panels of TOKENS, each (K, TOKENS); zeros after the last.
void pack(const float* x, Index tokens, Index columns, float* packed) {
  for (Index start = 0; start < tokens; start += TOKENS) {
    const Index count = std::min(TOKENS, tokens - start);
    for (Index k = 0; k < columns; k++) {
      for (Index t = 0; t < TOKENS; t++) {
        packed[k * TOKENS + t] = t < count ? x[(start + t) * columns + k] : 0;
      }
    }
    packed += columns * TOKENS;
  }
}

// LANES rows unpacked, (K, TILE) of which one half is written.
template <int BITS>
void unpack(const Packed& matrix, Index row, float* panel) {
  constexpr int per_word = PER_WORD<BITS>;
  const Index words = matrix.columns / per_word, groups = matrix.columns / matrix.group;
  Index at[LANES];
  for (int lane = 0; lane < LANES; lane++) {
    at[lane] = std::min(row + lane, matrix.rows - 1);
  }
  Floats scale{}, bias{};
  for (Index word = 0; word < words; word++) {
    if (word * per_word % matrix.group == 0) {
      const Index group = word * per_word / matrix.group;
      for (int lane = 0; lane < LANES; lane++) {
        scale[lane] = matrix.scales[at[lane] * groups + group];
        bias[lane] = matrix.biases[at[lane] * groups + group];
      }
    }
    Words packed{};
    for (int lane = 0; lane < LANES; lane++) {
      packed[lane] = matrix.codes[at[lane] * words + word];
    }
#pragma GCC unroll 8
    for (int i = 0; i < per_word; i++) {
      store(panel + (word * per_word + i) * TILE, codes<BITS>(packed, i) * scale + bias);
    }
  }
}

// A tile of rows with COUNT tokens of a panel.
template <Index COUNT>
void multiply_tile(
    const float* panel, const float* x, Index columns, Index tokens, float* y, Index stride,
    Index rows) {
  Floats total[COUNT][2] = {};
  for (Index k = 0; k < columns; k++) {
    const Floats left = load(panel + k * TILE), right = load(panel + k * TILE + LANES);
#pragma GCC unroll 12
    for (Index t = 0; t < COUNT; t++) {
      total[t][0] += left * x[k * TOKENS + t];
      total[t][1] += right * x[k * TOKENS + t];
    }
  }
  for (Index t = 0; t < std::min(COUNT, tokens); t++) {
    if (rows == TILE) {
      store(y + t * stride, total[t][0]);
      store(y + t * stride + LANES, total[t][1]);
    } else {
      std::memcpy(y + t * stride, total[t], rows * sizeof(float));
    }
  }
}

void many(
    const Packed& matrix, const float* packed, Index tokens, float* panel, float* y, Index first,
    Index last) {
  for (Index tile = first; tile < last; tile++) {
    const Index row = tile * TILE, rows = std::min(TILE, matrix.rows - row);
    for (int half = 0; half < 2; half++) {
      const auto run = matrix.bits == 4 ? unpack<4> : unpack<8>;
      run(matrix, std::min(row + half * LANES, matrix.rows - 1), panel + half * LANES);
    }
    for (Index start = 0; start < tokens; start += TOKENS) {
      const Index left = tokens - start;
      const auto run = left > TOKENS / 3 * 2 ? multiply_tile<TOKENS>
          : left > TOKENS / 3                ? multiply_tile<TOKENS / 3 * 2>
                                             : multiply_tile<TOKENS / 3>;
      run(panel, packed + start * matrix.columns, matrix.columns, left,
          y + start * matrix.rows + row, matrix.rows, rows);
    }
  }
}

} // namespace
} // namespace mobilellm
