// One path of computing, compiled once for each instruction set (see kernels/build.py):
// PATH is its name, LANES how many floats its vectors have.

#include "paths.h"

#include <algorithm>
#include <cmath>

#include "attention.h"
#include "rows.h"
#include "tiles.h"
#include "vectors.h"

#define NAME_(name) name##_path
#define NAME(name) NAME_(name)
#define TEXT_(name) #name
#define TEXT(name) TEXT_(name)

namespace mobilellm {
namespace {

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

} // namespace

extern const Path NAME(PATH);
const Path NAME(PATH) = {
    TEXT(PATH), FEW,   prepared_floats, prepare,  few,    TILE,          TOKENS, pack,
    many,       adapt, unpack_row,      rms_norm, swiglu, attend_floats, attend,
};

} // namespace mobilellm
