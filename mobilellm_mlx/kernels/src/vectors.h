// Vectors of LANES floats, and the codes of packed weights in them. For path.cpp alone: what is here
// is another thing in each of the files that are made of it, so it has no name outside them.

#pragma once

#include <cstdint>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "paths.h"

namespace mobilellm {
namespace {

typedef float Floats __attribute__((vector_size(LANES * 4)));
typedef std::uint32_t Words __attribute__((vector_size(LANES * 4)));
typedef std::int32_t Ints __attribute__((vector_size(LANES * 4)));
typedef float Unaligned __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef std::uint32_t UnalignedWords
    __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

inline Floats load(const float* p) {
  return *reinterpret_cast<const Unaligned*>(p);
}

inline void store(float* p, Floats x) {
  *reinterpret_cast<Unaligned*>(p) = x;
}

inline Words load_words(const std::uint32_t* p) {
  return *reinterpret_cast<const UnalignedWords*>(p);
}

inline Floats all(float x) {
  return x - Floats{};
}

inline float sum(Floats x) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps(x);
#else
  float total = 0;
  for (int i = 0; i < LANES; i++) {
    total += x[i];
  }
  return total;
#endif
}

// The first `count` words, zeros behind them.
inline Words load_words(const std::uint32_t* p, int count) {
#if defined(__AVX512F__)
  return (Words)_mm512_maskz_loadu_epi32(__mmask16((1u << count) - 1), p);
#else
  Words words{};
  for (int i = 0; i < count; i++) {
    words[i] = p[i];
  }
  return words;
#endif
}

// Code number `i` of every word.
template <int BITS>
inline Floats codes(Words words, int i) {
  const Words shifted = words >> (BITS * i);
#if defined(__AVX512F__)
  if constexpr (BITS == 4) { // a table of sixteen numbers in place of masking and converting
    const __m512 table = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return _mm512_permutexvar_ps((__m512i)shifted, table);
  }
#endif
  const Words kept = BITS * (i + 1) == 32 ? shifted : shifted & ((1u << BITS) - 1);
  return __builtin_convertvector((Ints)kept, Floats);
}

template <int BITS>
constexpr int PER_WORD = 32 / BITS;

// Columns that one vector of words holds.
template <int BITS>
constexpr Index BLOCK = LANES * PER_WORD<BITS>;

// The first `count` numbers, zeros behind them.
inline Floats load(const float* p, int count) {
  return (Floats)load_words(reinterpret_cast<const std::uint32_t*>(p), count);
}

// For every lane of a block the scale of its group; `count` groups are there.
template <int BITS, int GROUP>
inline Floats spread(const float* scales, int count) {
  constexpr int words = GROUP / PER_WORD<BITS>; // of one group
  if constexpr (words >= LANES) {
    return all(scales[0]);
  } else {
#if defined(__AVX512F__)
    Ints lane;
    for (int i = 0; i < LANES; i++) {
      lane[i] = i / words;
    }
    const __m128 few = _mm_maskz_loadu_ps(__mmask8((1u << count) - 1), scales);
    return _mm512_permutexvar_ps((__m512i)lane, _mm512_castps128_ps512(few));
#else
    static_assert(2 * words == LANES);
    const float first = scales[0], second = count > 1 ? scales[1] : 0;
    Floats result = all(first);
    for (int i = words; i < LANES; i++) {
      result[i] = second;
    }
    return result;
#endif
  }
}

// Rows become columns.
inline __attribute__((always_inline)) void transpose(Floats (&x)[LANES]) {
  Ints low, high; // lanes of two vectors in turn: of their first halves, of their second ones
  for (int i = 0; i < LANES; i++) {
    low[i] = i / 2 + i % 2 * LANES;
    high[i] = low[i] + LANES / 2;
  }
  for (int round = 1; round < LANES; round *= 2) {
    Floats next[LANES];
#pragma GCC unroll 8
    for (int i = 0; i < LANES / 2; i++) {
      next[2 * i] = __builtin_shuffle(x[i], x[i + LANES / 2], low);
      next[2 * i + 1] = __builtin_shuffle(x[i], x[i + LANES / 2], high);
    }
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++) {
      x[i] = next[i];
    }
  }
}

// e^x within two units in the last place, by Cody and Waite's reduction and a polynomial.
inline Floats exponential(Floats x) {
  const Floats low = all(-87.0f), high = all(88.0f);
  x = x < low ? low : x;
  x = x > high ? high : x;
  const Floats shift = all(12582912.0f); // 1.5 * 2^23: adding it rounds to a whole number
  const Floats n = (x * 1.44269504f + shift) - shift;
  Floats r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  Floats p = all(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const Ints power = (__builtin_convertvector(n, Ints) + 127) << 23;
  return p * (Floats)power;
}

} // namespace
} // namespace mobilellm
