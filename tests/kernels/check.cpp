// The kernels' arithmetic and threads by themselves, for the sanitizers: buffers are exactly as
// long as they must be, so that whoever reads past their end is seen. See sanitize.py.

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <vector>

#include "paths.h"
#include "threads.h"

using namespace mobilellm;

namespace {

std::mt19937 numbers(1);

int any(int from, int to) {
  return std::uniform_int_distribution<int>(from, to)(numbers);
}

std::vector<float> floats(std::size_t count) {
  std::vector<float> result(count);
  std::normal_distribution<float> normal;
  for (auto& value : result) {
    value = normal(numbers);
  }
  return result;
}

// Exactly so long, wherever in memory.
template <class T>
std::unique_ptr<T[]> exactly(const std::vector<T>& values) {
  std::unique_ptr<T[]> result(new T[values.size()]);
  std::copy(values.begin(), values.end(), result.get());
  return result;
}

void require(bool condition, const char* what) {
  if (!condition) {
    std::fprintf(stderr, "wrong: %s on %s\n", what, path().name);
    std::exit(1);
  }
}

void check_products() {
  const int bits = any(0, 1) ? 4 : 8, group = any(0, 1) ? 32 : 64;
  const Index rows = any(1, 130), columns = any(1, 9) * group, tokens = any(1, 40);
  std::vector<std::uint32_t> words(rows * columns * bits / 32);
  for (auto& word : words) {
    word = numbers();
  }
  const auto scales = floats(rows * columns / group), biases = floats(rows * columns / group);
  const auto x = floats(tokens * columns);
  const auto c = exactly(words);
  const auto s = exactly(scales), b = exactly(biases), in = exactly(x);
  const Packed matrix{c.get(), s.get(), b.get(), rows, columns, bits, group};
  const auto y = exactly(std::vector<float>(tokens * rows, NAN));
  const Path& way = path();
  if (tokens <= path().most_few) {
    const auto size = way.prepared_floats(matrix);
    const auto prepared = exactly(std::vector<float>(size * tokens));
    for (Index t = 0; t < tokens; t++) {
      way.prepare(matrix, in.get() + t * columns, tokens, prepared.get() + t * size);
    }
    const Index pieces = (rows + 15) / 16;
    Threads::shared().run(pieces, [&](Index piece) {
      way.few(
          matrix, prepared.get(), tokens, y.get(), piece * 16, std::min(rows, piece * 16 + 16));
    });
  } else {
    const Index panels = (tokens + way.panel_tokens - 1) / way.panel_tokens;
    const auto packed = exactly(std::vector<float>(panels * way.panel_tokens * columns));
    way.pack(in.get(), tokens, columns, packed.get());
    Threads::shared().run((rows + way.tile - 1) / way.tile, [&](Index tile) {
      const auto panel = exactly(std::vector<float>(columns * way.tile));
      way.many(matrix, packed.get(), tokens, panel.get(), y.get(), tile, tile + 1);
    });
  }
  const auto row = exactly(std::vector<float>(columns));
  for (Index n = 0; n < rows; n++) {
    way.row(matrix, n, row.get());
    for (Index t = 0; t < tokens; t++) {
      double want = 0, size = 0;
      for (Index k = 0; k < columns; k++) {
        want += double(row[k]) * x[t * columns + k];
        size += std::abs(double(row[k]) * x[t * columns + k]);
      }
      require(std::abs(y[t * rows + n] - want) <= 1e-6 * size + 1e-6, "a product");
    }
  }
}

void check_attention() {
  const Path& way = path();
  const Index dim = any(1, 40) * 2, seen = any(1, 70);
  const int count = any(1, 40);
  const auto keys = exactly(floats(seen * dim)), values = exactly(floats(seen * dim));
  const auto queries = exactly(floats(count * dim));
  const auto out = exactly(std::vector<float>(count * dim));
  const auto room = exactly(std::vector<float>(way.attend_floats(count, seen, dim)));
  std::vector<Seeing> seeing;
  for (int q = 0; q < count; q++) {
    const Index first = any(0, int(seen) - 1);
    seeing.push_back(
        {queries.get() + q * dim, out.get() + q * dim, first, any(int(first) + 1, int(seen))});
  }
  way.attend(seeing.data(), count, keys.get(), values.get(), dim, 0.2f, room.get());
  for (const auto& one : seeing) {
    std::vector<double> weights, mixed(dim);
    double total = 0;
    for (Index s = one.first; s < one.last; s++) {
      double score = 0;
      for (Index i = 0; i < dim; i++) {
        score += double(one.query[i]) * keys[s * dim + i];
      }
      weights.push_back(std::exp(score * 0.2));
      total += weights.back();
      for (Index i = 0; i < dim; i++) {
        mixed[i] += weights.back() * values[s * dim + i];
      }
    }
    for (Index i = 0; i < dim; i++) {
      require(std::abs(one.out[i] - mixed[i] / total) < 1e-4, "attention");
    }
  }
}

void check_rest() {
  const Path& way = path();
  const Index count = any(1, 100), rank = any(1, 9), rows = any(1, 50);
  const auto x = exactly(floats(count)), up = exactly(floats(count)), y = exactly(floats(count));
  way.rms_norm(x.get(), any(0, 1) ? up.get() : nullptr, 1e-5f, count, y.get());
  const auto a = exactly(floats(count * rank)), b = exactly(floats(rank * rows));
  const auto inner = exactly(std::vector<float>(rank)), out = exactly(std::vector<float>(rows));
  way.adapt(x.get(), count, a.get(), rank, b.get(), rows, 0.5f, inner.get(), out.get());
  double want = 0;
  for (Index r = 0; r < rank; r++) {
    for (Index k = 0; k < count; k++) {
      want += 0.5 * x[k] * a[k * rank + r] * b[r * rows];
    }
  }
  require(std::abs(out[0] - want) < 1e-3, "an adapter");
  const float gate = x[0], factor = up[0];
  way.swiglu(x.get(), up.get(), count);
  require(std::abs(x[0] - gate / (1 + std::exp(-gate)) * factor) < 1e-5, "swiglu");
}

} // namespace

int main(int count, char** arguments) {
  const int rounds = count > 1 ? std::atoi(arguments[1]) : 100;
  for (auto way = paths(); *way; way++) {
    choose(**way);
    for (const int threads : {1, 2, 4}) {
      Threads::shared().resize(threads);
      for (int round = 0; round < rounds; round++) {
        check_products();
        check_attention();
        check_rest();
      }
    }
    std::printf("%s: right\n", path().name);
  }
}
