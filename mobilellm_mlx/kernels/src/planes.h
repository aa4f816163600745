// Rows of packed weights with tokens of whole numbers: codes are multiplied as the bytes they are, by
// processors that add up products of bytes. A part of path.cpp.
//
// A group of a token's numbers becomes whole ones of 24 bits, no further from it than floats next to
// its greatest number would be, and these three planes of bytes. All sums of a block are exact.

#pragma once

#include <algorithm>
#include <cstring>
#include <limits>
#include <vector>

#include "paths.h"
#include "vectors.h"

namespace mobilellm {
namespace {

constexpr Index FEW = 11; // tokens: for more of them tiles are sooner, as measured
constexpr int PLANES = 3;
constexpr float MOST = 127 * 65536; // three signed bytes hold a little more: room for rounding

using Byte = std::int8_t;

// Whether rows end in the middle of a vector of words, so that two of them are as many whole ones.
bool pairs_rows(const Packed& matrix) {
  return matrix.bits == 4 && matrix.columns / PER_WORD<4> % LANES == LANES / 2;
}

// Of a prepared token.
Index blocks(const Packed& matrix) {
  const Index words = matrix.columns * matrix.bits / 32;
  return pairs_rows(matrix) ? 2 * words / LANES : (words + LANES - 1) / LANES;
}

// Bytes of a token for one block of weights: planes, the highest bytes first and each in the order
// of the codes, and then for every lane what a unit of its group is.
template <int BITS>
constexpr Index BLOCK_BYTES = PLANES * BLOCK<BITS> + LANES * sizeof(float);

// Where the sums of a prepared token begin: floats of all its blocks.
Index sums_at(const Packed& matrix) {
  const Index bytes = matrix.bits == 4 ? BLOCK_BYTES<4> : BLOCK_BYTES<8>;
  return blocks(matrix) * bytes / sizeof(float);
}

// A prepared token: its blocks, then the sums of its groups; of both rows where they go in pairs.
std::size_t prepared_floats(const Packed& matrix) {
  const Index floats = sums_at(matrix) + 2 * matrix.columns / matrix.group;
  return (floats + 15) / 16 * 16; // whole cache lines, so that no vector of the next one lies in two
}

// One block of a token; `units` are those of the groups in it.
template <int BITS>
inline void prepare_block(
    const float* x, Index count, const float* units, Index group, Byte* block) {
  alignas(64) Byte bytes[PLANES][BLOCK<BITS>];
  for (Index k = 0; k < BLOCK<BITS>; k += LANES) {
    const float unit = k < count ? units[k / group] : 0;
    const float per_unit = unit >= std::numeric_limits<float>::min() ? 1 / unit : 0;
    const Index left = count - k;
    const Floats some = left >= LANES ? load(x + k) : left > 0 ? load(x + k, int(left)) : Floats{};
    Ints whole = (Ints)_mm512_cvtps_epi32(some * per_unit); // rounds
    for (int p = PLANES - 1; p >= 0; p--) {
      const __m128i lowest = _mm512_cvtepi32_epi8((__m512i)whole);
      std::memcpy(bytes[p] + k, &lowest, LANES);
      whole = (whole + 128) >> 8; // what is left of it without that byte, which has a sign
    }
  }
  for (int p = 0; p < PLANES; p++, block += BLOCK<BITS>) {
    if constexpr (BITS == 8) {
      std::memcpy(block, bytes[p], BLOCK<BITS>);
    } else { // codes of even columns are the low halves of bytes, those of odd ones the high halves
      for (Index half = 0; half < 2; half++) {
        const __m512i all = _mm512_load_si512(bytes[p] + half * 64);
        const __m256i even = _mm512_cvtepi16_epi8(all);
        const __m256i odd = _mm512_cvtepi16_epi8(_mm512_srli_epi16(all, 8));
        std::memcpy(block + half * 32, &even, 32);
        std::memcpy(block + BLOCK<BITS> / 2 + half * 32, &odd, 32);
      }
    }
  }
  float lanes[LANES] = {};
  for (Index lane = 0; lane * PER_WORD<BITS> < count; lane++) {
    lanes[lane] = units[lane * PER_WORD<BITS> / group];
  }
  std::memcpy(block, lanes, sizeof(lanes));
}

template <int BITS>
void prepare(const Packed& matrix, Index sums_at, const float* x, float* prepared) {
  auto* block = reinterpret_cast<Byte*>(prepared);
  float* sums = prepared + sums_at;
  float units[BLOCK<BITS> / 32];
  for (Index start = 0; start < matrix.columns; start += BLOCK<BITS>, block += BLOCK_BYTES<BITS>) {
    const Index count = std::min(BLOCK<BITS>, matrix.columns - start);
    for (Index group = 0; group < count; group += matrix.group) {
      Floats total{}, greatest{};
      for (Index k = start + group; k < start + group + matrix.group; k += LANES) {
        const Floats some = load(x + k), size = (Floats)((Words)some & 0x7fffffff);
        total += some;
        greatest = size > greatest ? size : greatest;
      }
      *sums++ = sum(total);
      units[group / matrix.group] = _mm512_reduce_max_ps((__m512)greatest) / MOST;
    }
    prepare_block<BITS>(x + start, count, units, matrix.group, block);
  }
}

void prepare(const Packed& matrix, const float* x, Index tokens, float* prepared) {
  if (tokens == 1 && pairs_rows(matrix)) {
    thread_local std::vector<float> twice;
    twice.assign(x, x + matrix.columns);
    twice.insert(twice.end(), x, x + matrix.columns);
    Packed pair = matrix;
    pair.columns *= 2;
    prepare<4>(pair, sums_at(matrix), twice.data(), prepared);
  } else {
    (matrix.bits == 4 ? prepare<4> : prepare<8>)(matrix, sums_at(matrix), x, prepared);
  }
}

// Weights are asked for so many bytes before they are used, as far as the second cache: they come no
// faster than that, and the first one is for the token.
inline void ask_for(const std::uint32_t* codes) {
  __builtin_prefetch(codes + 12288 / 4, 0, 2);
}

template <int BITS>
constexpr int ROWS = 1; // at once for one token, as measured

inline Words load_bytes(const Byte* p) {
  return load_words(reinterpret_cast<const std::uint32_t*>(p));
}

// sums += four unsigned bytes times four signed ones
inline Words dot(Words sums, Words bytes, Words planes) {
  return (Words)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)bytes, (__m512i)planes);
}

// The products of a vector of codes with a token's block, in units of their groups.
template <int BITS>
inline __attribute__((always_inline)) Floats products(Words words, const Byte* planes) {
  constexpr Index plane = BLOCK<BITS>;
  if constexpr (BITS == 4) {
    const Words low = words & 0x0f0f0f0f, high = (words >> 4) & 0x0f0f0f0f;
    Words sums{};
#pragma GCC unroll 3
    for (int p = 0; p < PLANES; p++) {
      sums = dot(sums << 8, low, load_bytes(planes + p * plane));
      sums = dot(sums, high, load_bytes(planes + p * plane + plane / 2));
    }
    return __builtin_convertvector((Ints)sums, Floats);
  } else { // 24 bits times eight of four codes do not fit into 32
    const Words high = dot(Words{}, words, load_bytes(planes));
    Words low = dot(Words{}, words, load_bytes(planes + plane));
    low = dot(low << 8, words, load_bytes(planes + 2 * plane));
    return __builtin_convertvector((Ints)high, Floats) * 65536.0f +
        __builtin_convertvector((Ints)low, Floats);
  }
}

// Floats of a prepared token for one vector of words.
template <int BITS>
constexpr Index STEP = BLOCK_BYTES<BITS> / sizeof(float);

// total += scale * the products of R rows' words with what T tokens have for them.
template <int BITS, int R, int T>
inline __attribute__((always_inline)) void multiply_block(
    const Words (&words)[R], const float* prepared, Index stride, const Floats (&scale)[R],
    Floats (&total)[R][T]) {
#pragma GCC unroll 4
  for (int r = 0; r < R; r++) {
#pragma GCC unroll 4
    for (int t = 0; t < T; t++) {
      const auto* const block = reinterpret_cast<const Byte*>(prepared + t * stride);
      const Floats units = load(reinterpret_cast<const float*>(block + PLANES * BLOCK<BITS>));
      total[r][t] += products<BITS>(words[r], block) * (units * scale[r]);
    }
  }
}

} // namespace
} // namespace mobilellm
