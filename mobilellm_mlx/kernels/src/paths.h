// What the kernels compute, and the ways (paths) there are to compute it.
//
// One source, path.cpp, is compiled once for every instruction set; which of them runs is decided
// when the library is loaded.
//
// Shapes: T tokens, K columns (inputs), N rows (outputs), S tokens seen, E head dim.

#pragma once

#include <cstddef>
#include <cstdint>

namespace mobilellm {

using Index = std::int64_t;

// A matrix (N, K) packed as MLX packs it: `bits` wide codes, the first of a word in its lowest
// bits, and for every `group` columns a scale and a bias: weight = scale * code + bias.
struct Packed {
  const std::uint32_t* codes; // (N, K * bits / 32)
  const float* scales; // (N, K / group)
  const float* biases; // (N, K / group)
  Index rows;
  Index columns;
  int bits; // 4 or 8
  int group; // 32 or 64
};

// A query (E), the keys [first, last) that it sees, and where its answer (E) goes.
struct Seeing {
  const float* query;
  float* out;
  Index first, last;
};

struct Path {
  const char* name;

  // Few tokens are multiplied row by row, as fast as memory gives the rows; more of them by
  // unpacking a tile of rows once for all.
  Index most_few;

  // Few tokens: rows [first, last) of y (T, rows) from prepared tokens, each of which is told how
  // many they are.
  std::size_t (*prepared_floats)(const Packed&);
  void (*prepare)(const Packed&, const float* x, Index tokens, float* prepared);
  void (*few)(
      const Packed&, const float* prepared, Index tokens, float* y, Index first, Index last);

  // Many tokens: tiles [first, last) of `tile` rows each. `panel` has room for K * tile floats.
  Index tile;
  Index panel_tokens;
  void (*pack)(const float* x, Index tokens, Index columns, float* packed);
  void (*many)(
      const Packed&, const float* packed, Index tokens, float* panel, float* y, Index first,
      Index last);

  // y (N) += scale * (x (K) A (K, R)) B (R, N); `inner` has room for R floats.
  void (*adapt)(const float* x, Index columns, const float* a, Index rank, const float* b,
                Index rows, float scale, float* inner, float* y);
  // Row `row` of the matrix, unpacked: y (K).
  void (*row)(const Packed&, Index row, float* y);
  // y (count) = x / sqrt(mean(x^2) + eps) * weight; weight may be null.
  void (*rms_norm)(const float* x, const float* weight, float eps, Index count, float* y);
  // x (count) = x * sigmoid(x) * up
  void (*swiglu)(float* x, const float* up, Index count);
  // Queries over keys and values (S, E) of the head they share; `room` has the floats that `count`
  // queries need, where `seen` keys are seen by any of them.
  std::size_t (*attend_floats)(int count, Index seen, Index dim);
  void (*attend)(const Seeing*, int count, const float* keys, const float* values, Index dim,
                 float scale, float* room);
};

// The paths this processor can take, best first; the last one runs everywhere.
const Path* const* paths();

// The path that is taken.
const Path& path();
void choose(const Path&);

} // namespace mobilellm
