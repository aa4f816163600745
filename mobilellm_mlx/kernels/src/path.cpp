// One path of computing, compiled once for each instruction set (see kernels/build.py):
// PATH is its name, LANES how many floats its vectors have.

#include "paths.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "vectors.h"

#define NAME_(name) name##_path
#define NAME(name) NAME_(name)
#define TEXT_(name) #name
#define TEXT(name) TEXT_(name)

namespace mobilellm {
namespace {

Index blocks(const Packed& matrix) {
  const Index words = matrix.columns * matrix.bits / 32;
  return (words + LANES - 1) / LANES;
}

// Whole cache lines, so that no vector of the next token lies in two.
constexpr Index lines(Index floats) {
  return (floats + 15) / 16 * 16;
}

// A prepared token: its numbers in the order in which `codes` gives the weights, zeros where a
// block has no weights, and then the sums of its groups.
std::size_t prepared_floats(const Packed& matrix) {
  return lines(blocks(matrix) * LANES * (32 / matrix.bits) + matrix.columns / matrix.group);
}

void prepare(const Packed& matrix, const float* x, float* prepared) {
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
  float* sums = prepared + blocks(matrix) * block;
  for (Index start = 0; start < matrix.columns; start += matrix.group) {
    float total = 0;
    for (Index k = start; k < start + matrix.group; k++) {
      total += x[k];
    }
    *sums++ = total;
  }
}

constexpr Index AHEAD = 2048; // bytes by which weights are asked for before they are used

// R rows of the matrix with T tokens.
template <int BITS, int GROUP, int R, int T>
inline __attribute__((always_inline)) void multiply(const Packed& matrix, const float* prepared, float* y, Index row) {
  constexpr int per_word = PER_WORD<BITS>;
  constexpr Index block = BLOCK<BITS>;
  constexpr Index per_group = GROUP / per_word; // words
  const Index words = matrix.columns / per_word, groups = matrix.columns / GROUP;
  const Index padded = (words + LANES - 1) / LANES * block, stride = lines(padded + groups);
  const std::uint32_t* code = matrix.codes + row * words;
  const float* scale = matrix.scales + row * groups;
  Floats total[R][T];
#pragma GCC unroll 4
  for (int r = 0; r < R; r++) {
#pragma GCC unroll 4
    for (int t = 0; t < T; t++) {
      total[r][t] = Floats{};
    }
  }
  const auto add = [&](Index word, const Words(&packed)[R], int held) __attribute__((always_inline)) {
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
    const float* x = prepared + word * per_word;
#pragma GCC unroll 8
    for (int i = 0; i < per_word; i++) {
      Floats input[T];
#pragma GCC unroll 4
      for (int t = 0; t < T; t++) {
        input[t] = load(x + t * stride + i * LANES);
      }
#pragma GCC unroll 4
      for (int r = 0; r < R; r++) {
        const Floats weight = codes<BITS>(packed[r], i);
#pragma GCC unroll 4
        for (int t = 0; t < T; t++) {
          part[r][t][i % parts] += weight * input[t];
        }
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
      const Floats factor =
          spread<BITS, GROUP>(scale + r * groups + word / per_group, (held + per_group - 1) / per_group);
#pragma GCC unroll 4
      for (int t = 0; t < T; t++) {
        total[r][t] += (parts == 2 ? part[r][t][0] + part[r][t][1] : part[r][t][0]) * factor;
      }
    }
  };
  Index word = 0;
  for (; word + LANES <= words; word += LANES) {
    Words packed[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
      packed[r] = load_words(code + r * words + word);
      __builtin_prefetch(code + r * words + word + AHEAD / 4);
    }
    add(word, packed, LANES);
  }
  if (word < words) {
    Words packed[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
      packed[r] = load_words(code + r * words + word, int(words - word));
    }
    add(word, packed, int(words - word));
  }
  const float* sums = prepared + padded;
  const float* bias = matrix.biases + row * groups;
#pragma GCC unroll 4
  for (int r = 0; r < R; r++) {
#pragma GCC unroll 4
    for (int t = 0; t < T; t++) {
      Index group = 0;
      for (; group + LANES <= groups; group += LANES) {
        total[r][t] += load(bias + r * groups + group) * load(sums + t * stride + group);
      }
      if (group < groups) {
        const int rest = int(groups - group);
        total[r][t] += load(bias + r * groups + group, rest) * load(sums + t * stride + group, rest);
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
  constexpr int rows = BITS == 4 ? 2 : 1; // at once, as measured
  switch (tokens) {
    case 1:
      return multiply_rows<BITS, GROUP, rows, 1>(matrix, prepared, y, first, last);
    case 2:
      return multiply_rows<BITS, GROUP, 4, 2>(matrix, prepared, y, first, last);
    case 3:
      return multiply_rows<BITS, GROUP, 2, 3>(matrix, prepared, y, first, last);
    case 4:
      return multiply_rows<BITS, GROUP, 2, 4>(matrix, prepared, y, first, last);
  }
}

void few(
    const Packed& matrix, const float* prepared, Index tokens, float* y, Index first, Index last) {
  const auto run = matrix.bits == 4 ? (matrix.group == 32 ? few<4, 32> : few<4, 64>)
                                    : (matrix.group == 32 ? few<8, 32> : few<8, 64>);
  run(matrix, prepared, tokens, y, first, last);
}

// Many tokens. A tile is two vectors of rows; TOKENS of them at a time fill the registers.
constexpr Index TILE = 2 * LANES;
constexpr Index TOKENS = LANES == 16 ? 12 : 6;

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

void adapt(const float* x, Index columns, const float* a, Index rank, const float* b, Index rows,
           float scale, float* inner, float* y) {
  std::fill(inner, inner + rank, 0.0f);
  for (Index k = 0; k < columns; k++) {
    for (Index r = 0; r < rank; r++) {
      inner[r] += x[k] * a[k * rank + r];
    }
  }
  for (Index r = 0; r < rank; r++) {
    const float factor = scale * inner[r];
    for (Index n = 0; n < rows; n++) {
      y[n] += factor * b[r * rows + n];
    }
  }
}

void unpack_row(const Packed& matrix, Index row, float* y) {
  const int per_word = 32 / matrix.bits;
  const std::uint32_t* codes = matrix.codes + row * (matrix.columns / per_word);
  const Index groups = row * (matrix.columns / matrix.group);
  for (Index k = 0; k < matrix.columns; k++) {
    const std::uint32_t code =
        codes[k / per_word] >> (k % per_word * matrix.bits) & ((1u << matrix.bits) - 1);
    const Index group = groups + k / matrix.group;
    y[k] = matrix.scales[group] * code + matrix.biases[group];
  }
}

void rms_norm(const float* x, const float* weight, float eps, Index count, float* y) {
  Floats squares{};
  Index i = 0;
  for (; i + LANES <= count; i += LANES) {
    squares += load(x + i) * load(x + i);
  }
  float total = sum(squares);
  for (; i < count; i++) {
    total += x[i] * x[i];
  }
  const float factor = 1 / std::sqrt(total / count + eps);
  for (Index j = 0; j < count; j++) {
    y[j] = weight ? x[j] * factor * weight[j] : x[j] * factor;
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

void swiglu(float* x, const float* up, Index count) {
  Index i = 0;
  for (; i + LANES <= count; i += LANES) {
    const Floats gate = load(x + i);
    store(x + i, gate / (1.0f + exponential(-gate)) * load(up + i));
  }
  for (; i < count; i++) {
    x[i] = x[i] / (1 + std::exp(-x[i])) * up[i];
  }
}

// Sums of neighbours, first of `a` and then of `b`.
inline Floats pairs(Floats a, Floats b) {
  Ints even, odd;
  for (int i = 0; i < LANES; i++) {
    even[i] = 2 * i;
    odd[i] = 2 * i + 1;
  }
  return __builtin_shuffle(a, b, even) + __builtin_shuffle(a, b, odd);
}

// In lane i the sum of `x[i]`.
inline Floats sums(Floats (&x)[LANES]) {
  for (int count = LANES; count > 1; count /= 2) {
    for (int i = 0; i < count / 2; i++) {
      x[i] = pairs(x[2 * i], x[2 * i + 1]);
    }
  }
  return x[0];
}

// Queries that are answered together, so that they share what is read of keys and values.
constexpr int QUERIES = LANES / 4;

// scores (QUERIES, S) of four keys at a time: as many sums as a vector has lanes.
void score(const Seeing* seeing, int count, const float* keys, Index seen, Index dim, float scale,
           float* scores) {
  const float* queries[QUERIES];
  for (int q = 0; q < QUERIES; q++) {
    queries[q] = seeing[std::min(q, count - 1)].query;
  }
  Index s = 0;
  for (; s + 4 <= seen; s += 4) {
    Floats products[LANES] = {};
    Index i = 0;
    for (; i + LANES <= dim; i += LANES) {
      Floats own[QUERIES];
      for (int q = 0; q < QUERIES; q++) {
        own[q] = load(queries[q] + i);
      }
#pragma GCC unroll 4
      for (int key = 0; key < 4; key++) {
        const Floats other = load(keys + (s + key) * dim + i);
        for (int q = 0; q < QUERIES; q++) {
          products[4 * q + key] += own[q] * other;
        }
      }
    }
    for (; i < dim; i++) {
      for (int lane = 0; lane < LANES; lane++) {
        products[lane][0] += queries[lane / 4][i] * keys[(s + lane % 4) * dim + i];
      }
    }
    const Floats totals = sums(products) * scale;
    for (int q = 0; q < QUERIES; q++) {
      for (int key = 0; key < 4; key++) {
        scores[q * seen + s + key] = totals[4 * q + key];
      }
    }
  }
  for (; s < seen; s++) {
    for (int q = 0; q < QUERIES; q++) {
      float product = 0;
      for (Index i = 0; i < dim; i++) {
        product += queries[q][i] * keys[s * dim + i];
      }
      scores[q * seen + s] = product * scale;
    }
  }
}

// e^(score - greatest) in place, zeros for what is not seen; their sum.
float weigh(float* scores, Index first, Index last, Index seen) {
  float most = -INFINITY;
  for (Index s = first; s < last; s++) {
    most = std::max(most, scores[s]);
  }
  Floats totals{};
  Index s = first;
  for (; s + LANES <= last; s += LANES) {
    const Floats e = exponential(load(scores + s) - most);
    store(scores + s, e);
    totals += e;
  }
  float total = sum(totals);
  for (; s < last; s++) {
    total += scores[s] = std::exp(scores[s] - most);
  }
  std::fill(scores, scores + first, 0.0f);
  std::fill(scores + last, scores + seen, 0.0f);
  return total;
}

// What the scores make of VECTORS vectors of the values, from column `at`.
template <int VECTORS>
void mix(const Seeing* seeing, int count, const float* scores, const float* totals,
         const float* values, Index seen, Index dim, Index at) {
  Floats mixed[QUERIES][VECTORS] = {};
  for (Index s = 0; s < seen; s++) {
    for (int i = 0; i < VECTORS; i++) {
      const Floats value = load(values + s * dim + at + i * LANES);
      for (int q = 0; q < QUERIES; q++) {
        mixed[q][i] += value * scores[q * seen + s];
      }
    }
  }
  for (int q = 0; q < count; q++) {
    for (int i = 0; i < VECTORS; i++) {
      store(seeing[q].out + at + i * LANES, mixed[q][i] / totals[q]);
    }
  }
}

void attend(const Seeing* seeing, int count, const float* keys, const float* values, Index dim,
            float scale, float* scores) {
  Index first = seeing[0].first, last = seeing[0].last;
  for (int q = 1; q < count; q++) {
    first = std::min(first, seeing[q].first);
    last = std::max(last, seeing[q].last);
  }
  const Index seen = last - first;
  keys += first * dim;
  values += first * dim;
  score(seeing, count, keys, seen, dim, scale, scores);
  float totals[QUERIES];
  for (int q = 0; q < count; q++) {
    totals[q] = weigh(scores + q * seen, seeing[q].first - first, seeing[q].last - first, seen);
  }
  Index i = 0;
  for (; i + 4 * LANES <= dim; i += 4 * LANES) {
    mix<4>(seeing, count, scores, totals, values, seen, dim, i);
  }
  for (; i + LANES <= dim; i += LANES) {
    mix<1>(seeing, count, scores, totals, values, seen, dim, i);
  }
  for (; i < dim; i++) {
    for (int q = 0; q < count; q++) {
      float mixed = 0;
      for (Index s = 0; s < seen; s++) {
        mixed += values[s * dim + i] * scores[q * seen + s];
      }
      seeing[q].out[i] = mixed / totals[q];
    }
  }
}

} // namespace

extern const Path NAME(PATH);
const Path NAME(PATH) = {
    TEXT(PATH), prepared_floats, prepare,  few,    TILE,    TOKENS, pack,
    many,       adapt,           unpack_row, rms_norm, swiglu, QUERIES, attend,
};

} // namespace mobilellm
