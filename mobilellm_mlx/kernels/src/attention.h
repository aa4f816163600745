// What queries make of the keys and values they see. A part of path.cpp.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>

#include "paths.h"
#include "tiles.h"
#include "vectors.h"

namespace mobilellm {
namespace {

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
inline __attribute__((always_inline)) Floats sums(Floats (&x)[LANES]) {
#pragma GCC unroll 4
  for (int count = LANES; count > 1; count /= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < count / 2; i++) {
      x[i] = pairs(x[2 * i], x[2 * i + 1]);
    }
  }
  return x[0];
}

// Queries that are answered together, so that they share what is read of keys and values.
constexpr int QUERIES = LANES / 4;

// Keys and values are asked for so many floats before they are used: they lie in small pages, and at
// the end of each a processor's own foresight begins anew.
constexpr Index AHEAD_OF_KEYS = 512;

constexpr int KEYS = 4; // at a time: with QUERIES of them as many sums as a vector has lanes

// products += queries (QUERIES) times keys (KEYS, dim), one vector of each.
inline __attribute__((always_inline)) void multiply_keys(
    const Floats (&queries)[QUERIES], const Floats (&keys)[KEYS], Floats (&products)[LANES]) {
#pragma GCC unroll 4
  for (int q = 0; q < QUERIES; q++) {
#pragma GCC unroll 4
    for (int key = 0; key < KEYS; key++) {
      products[KEYS * q + key] += queries[q] * keys[key];
    }
  }
}

// scores (QUERIES, S) of `count` queries.
void score(const Seeing* seeing, int count, const float* keys, Index seen, Index dim, float scale,
           float* scores) {
  const float* queries[QUERIES];
  for (int q = 0; q < QUERIES; q++) {
    queries[q] = seeing[std::min(q, count - 1)].query;
  }
  for (Index s = 0; s < seen; s += KEYS) {
    const float* rows[KEYS]; // the last one again where there are no more
#pragma GCC unroll 4
    for (int key = 0; key < KEYS; key++) {
      rows[key] = keys + std::min(s + key, seen - 1) * dim;
    }
    Floats products[LANES];
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++) {
      products[i] = Floats{};
    }
    Floats own[QUERIES], others[KEYS];
    Index i = 0;
    for (; i + LANES <= dim; i += LANES) {
#pragma GCC unroll 4
      for (int q = 0; q < QUERIES; q++) {
        own[q] = load(queries[q] + i);
      }
#pragma GCC unroll 4
      for (int key = 0; key < KEYS; key++) {
        others[key] = load(rows[key] + i);
        __builtin_prefetch(rows[key] + i + AHEAD_OF_KEYS);
      }
      multiply_keys(own, others, products);
    }
    if (i < dim) {
#pragma GCC unroll 4
      for (int q = 0; q < QUERIES; q++) {
        own[q] = load(queries[q] + i, int(dim - i));
      }
#pragma GCC unroll 4
      for (int key = 0; key < KEYS; key++) {
        others[key] = load(rows[key] + i, int(dim - i));
      }
      multiply_keys(own, others, products);
    }
    const Floats totals = sums(products) * scale;
    const auto* const each = reinterpret_cast<const float*>(&totals);
    if (s + KEYS <= seen) {
#pragma GCC unroll 4
      for (int q = 0; q < QUERIES; q++) {
        std::memcpy(scores + q * seen + s, each + KEYS * q, KEYS * sizeof(float));
      }
    } else {
      for (int q = 0; q < QUERIES; q++) {
        std::copy(each + KEYS * q, each + KEYS * q + seen - s, scores + q * seen + s);
      }
    }
  }
}

// e^(score - greatest) in place for [first, last), zeros for the rest of [low, high); their sum.
float weigh(float* scores, Index first, Index last, Index low, Index high) {
  Floats greatest = all(-INFINITY);
  Index s = first;
  for (; s + LANES <= last; s += LANES) {
    const Floats x = load(scores + s);
    greatest = x > greatest ? x : greatest;
  }
  float most = -INFINITY;
  for (int lane = 0; lane < LANES; lane++) {
    most = std::max(most, greatest[lane]);
  }
  for (; s < last; s++) {
    most = std::max(most, scores[s]);
  }
  Floats totals{};
  for (s = first; s + LANES <= last; s += LANES) {
    const Floats e = exponential(load(scores + s) - most);
    store(scores + s, e);
    totals += e;
  }
  float total = sum(totals);
  for (; s < last; s++) {
    total += scores[s] = std::exp(scores[s] - most);
  }
  std::fill(scores + low, scores + first, 0.0f);
  std::fill(scores + last, scores + high, 0.0f);
  return total;
}

// What the weights (ROWS, `stride`) of the values [low, high) make of VECTORS vectors of them, from
// column `at`.
template <int ROWS, int VECTORS>
void mix_columns(const Seeing* seeing, int count, const float* weights, Index stride,
                 const float* totals, const float* values, Index low, Index high, Index dim,
                 Index at) {
  const float* own[ROWS];
  for (int q = 0; q < ROWS; q++) {
    own[q] = weights + std::min(q, count - 1) * stride;
  }
  Floats mixed[ROWS][VECTORS] = {};
  for (Index s = low; s < high; s++) {
#pragma GCC unroll 4
    for (int i = 0; i < VECTORS; i++) {
      const Floats value = load(values + s * dim + at + i * LANES);
      __builtin_prefetch(values + s * dim + at + i * LANES + AHEAD_OF_KEYS);
#pragma GCC unroll 8
      for (int q = 0; q < ROWS; q++) {
        mixed[q][i] += value * own[q][s];
      }
    }
  }
  for (int q = 0; q < std::min(ROWS, count); q++) {
    for (int i = 0; i < VECTORS; i++) {
      store(seeing[q].out + at + i * LANES, mixed[q][i] / totals[q]);
    }
  }
}

// The answers to all queries: what their weights (count, `stride`) make of the values.
template <int ROWS>
void mix(const Seeing* seeing, int count, const float* weights, Index stride, const float* totals,
         const float* values, Index low, Index high, Index dim) {
  for (int q = 0; q < count; q += ROWS) {
    const auto columns = [&](auto run, Index at) {
      run(seeing + q, count - q, weights + q * stride, stride, totals + q, values, low, high, dim, at);
    };
    Index at = 0;
    for (; at + 4 * LANES <= dim; at += 4 * LANES) {
      columns(mix_columns<ROWS, 4>, at);
    }
    for (; at + LANES <= dim; at += LANES) {
      columns(mix_columns<ROWS, 1>, at);
    }
    for (; at < dim; at++) {
      for (int row = q; row < std::min(q + ROWS, count); row++) {
        float mixed = 0;
        for (Index s = low; s < high; s++) {
          mixed += values[s * dim + at] * weights[row * stride + s];
        }
        seeing[row].out[at] = mixed / totals[row];
      }
    }
  }
}

struct Span {
  Index first, last;
};

// What any of the queries sees.
Span seen_by(const Seeing* seeing, int count) {
  Span all{seeing[0].first, seeing[0].last};
  for (int q = 1; q < count; q++) {
    all.first = std::min(all.first, seeing[q].first);
    all.last = std::max(all.last, seeing[q].last);
  }
  return all;
}

void attend_few(const Seeing* seeing, int count, const float* keys, const float* values, Index dim,
                float scale, float* scores) {
  const auto [first, last] = seen_by(seeing, count);
  const Index seen = last - first;
  score(seeing, count, keys + first * dim, seen, dim, scale, scores);
  float totals[QUERIES];
  for (int q = 0; q < count; q++) {
    totals[q] = weigh(scores + q * seen, seeing[q].first - first, seeing[q].last - first, 0, seen);
  }
  mix<QUERIES>(seeing, count, scores, seen, totals, values + first * dim, 0, seen, dim);
}

// At most TILE keys on their side, (E, TILE), zeros behind them.
void turn(const float* keys, Index count, Index dim, float* turned) {
  for (Index half = 0; half < TILE; half += LANES) {
    Index i = 0;
    for (; i + LANES <= dim; i += LANES) {
      Floats x[LANES];
      for (Index lane = 0; lane < LANES; lane++) {
        x[lane] = half + lane < count ? load(keys + (half + lane) * dim + i) : Floats{};
      }
      transpose(x);
      for (Index j = 0; j < LANES; j++) {
        store(turned + (i + j) * TILE + half, x[j]);
      }
    }
    for (; i < dim; i++) {
      for (Index lane = half; lane < half + LANES; lane++) {
        turned[i * TILE + lane] = lane < count ? keys[lane * dim + i] : 0;
      }
    }
  }
}

// Queries by the panel: their scores are products of tiles of keys, which are turned once for all.
void attend_many(const Seeing* seeing, int count, const float* keys, const float* values, Index dim,
                 float scale, float* room) {
  const auto [first, last] = seen_by(seeing, count);
  const Index stride = tiled(last - first);
  float* const queries = room; // panels of (E, TOKENS)
  float* const turned = queries + panels(count) * TOKENS * dim;
  float* const scores = turned + TILE * dim; // (count, stride)
  for (int q = 0; q < panels(count) * TOKENS; q++) {
    float* const to = queries + q / TOKENS * TOKENS * dim + q % TOKENS;
    for (Index i = 0; i < dim; i++) {
      to[i * TOKENS] = q < count ? seeing[q].query[i] * scale : 0;
    }
  }
  const auto each_panel = [&](auto call) {
    for (Index q = 0; q < count; q += TOKENS) {
      const int held = int(std::min(TOKENS, count - q));
      const Span seen = seen_by(seeing + q, held);
      call(q, held, seen.first - first, seen.last - first);
    }
  };
  for (Index s = 0; s < last - first; s += TILE) {
    turn(keys + (first + s) * dim, std::min(TILE, last - first - s), dim, turned);
    each_panel([&](Index q, int held, Index low, Index high) {
      if (s < high && s + TILE > low) {
        multiply_tile<TOKENS>(
            turned, queries + q * dim, dim, held, scores + q * stride + s, stride, TILE);
      }
    });
  }
  each_panel([&](Index q, int held, Index low, Index high) {
    float totals[TOKENS];
    for (int i = 0; i < held; i++) {
      totals[i] = weigh(scores + (q + i) * stride, seeing[q + i].first - first,
                        seeing[q + i].last - first, low, high);
    }
    mix<TOKENS / 2>(seeing + q, held, scores + q * stride, stride, totals,
                       values + first * dim, low, high, dim);
  });
}

std::size_t attend_floats(int count, Index seen, Index dim) {
  return count < TOKENS ? QUERIES * seen
                        : panels(count) * TOKENS * dim + TILE * dim + count * tiled(seen);
}

void attend(const Seeing* seeing, int count, const float* keys, const float* values, Index dim,
            float scale, float* room) {
  if (count >= TOKENS) {
    return attend_many(seeing, count, keys, values, dim, scale, room);
  }
  for (int q = 0; q < count; q += QUERIES) {
    attend_few(seeing + q, std::min(QUERIES, count - q), keys, values, dim, scale, room);
  }
}

} // namespace
} // namespace mobilellm
