#include "stack.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "threads.h"

namespace mobilellm {
namespace {

constexpr int MOST_KEPT = 256; // positions
constexpr int PART = 12; // tokens whose attention is one piece of work

// Its numbers one after another: itself where they lie so, which MLX's own operation copies when they
// are a small part of what was allocated at once.
mx::array in_rows(mx::array array) {
  array.eval();
  if (!array.flags().row_contiguous) {
    array = mx::contiguous(array, false, mx::Device::cpu);
    array.eval();
  }
  return array;
}

} // namespace

Matrix::Matrix(
    mx::array codes, mx::array scales, mx::array biases, int group, int bits,
    std::vector<Adapter> adapters)
    : codes(in_rows(codes)),
      scales(in_rows(scales)),
      biases(in_rows(biases)),
      adapters(std::move(adapters)) {
  require_packed(codes, scales, biases, group, bits);
  packed = mobilellm::packed(this->codes, this->scales, this->biases, group, bits);
  for (auto& [a, b, scale] : this->adapters) {
    a = in_rows(a);
    b = in_rows(b);
    if (a.ndim() != 2 || b.ndim() != 2 || a.dtype() != mx::float32 || b.dtype() != mx::float32 ||
        a.shape(0) != packed.columns || b.shape(1) != packed.rows || a.shape(1) != b.shape(0)) {
      throw std::invalid_argument("an adapter does not fit its matrix");
    }
  }
}

namespace {

struct Step {
  const Matrix* matrix;
  float* y;
};

// Rows (T, N) of several matrices from the same x (T, K), what adapters change included.
template <std::size_t COUNT>
void multiply(const Step (&steps)[COUNT], const float* x, Index tokens, int run) {
  Product products[COUNT];
  for (std::size_t i = 0; i < COUNT; i++) {
    products[i] = {&steps[i].matrix->packed, steps[i].y};
  }
  multiply(products, int(COUNT), x, tokens);
  for (const Step& step : steps) {
    const Matrix* const matrix = step.matrix;
    if (matrix->adapters.empty()) {
      continue;
    }
    const Adapter& adapter = matrix->adapters[run % matrix->adapters.size()];
    const Index rank = adapter.b.shape(0), rows = matrix->packed.rows, columns = matrix->packed.columns;
    Threads::shared().run(tokens, [&](Index t) {
      thread_local std::vector<float> inner;
      inner.resize(std::max(inner.size(), std::size_t(rank)));
      path().adapt(
          x + t * columns, columns, adapter.a.data<float>(), rank, adapter.b.data<float>(), rows,
          adapter.scale, inner.data(), step.y + t * rows);
    });
  }
}

} // namespace

mx::array own(const mx::array& array) {
  mx::array(array).eval();
  if (array.is_donatable() && array.flags().row_contiguous) {
    return array;
  }
  auto copy = mx::array(mx::allocator::malloc(array.nbytes()), array.shape(), array.dtype());
  auto rows = mx::contiguous(array, false, mx::Device::cpu);
  rows.eval();
  std::memcpy(copy.data<char>(), rows.data<char>(), array.nbytes());
  return copy;
}

// Rows of floats between the blocks, (T, ...) each.
struct Stack::Work {
  int tokens;
  std::vector<float> hidden, normed, queries, keys, values, mixed, gate, up, change;

  Work(const Shape& shape, int feed_forward, int tokens)
      : tokens(tokens),
        hidden(tokens * shape.hidden),
        normed(tokens * shape.hidden),
        queries(tokens * shape.heads * shape.head_dim),
        keys(tokens * shape.kv_heads * shape.head_dim),
        values(tokens * shape.kv_heads * shape.head_dim),
        mixed(tokens * shape.heads * shape.head_dim),
        gate(tokens * feed_forward),
        up(tokens * feed_forward),
        change(tokens * shape.hidden) {}

  void norm(const mx::array& weight, float eps) {
    const auto dim = Index(hidden.size() / tokens);
    Threads::shared().run(tokens, [&](Index t) {
      path().rms_norm(
          hidden.data() + t * dim, weight.data<float>(), eps, dim, normed.data() + t * dim);
    });
  }

  void add_change() {
    for (std::size_t i = 0; i < hidden.size(); i++) {
      hidden[i] += change[i];
    }
  }
};

Stack::Stack(Shape shape, Matrix embedding, std::vector<Block> blocks, mx::array norm)
    : shape_(shape),
      embedding_(std::move(embedding)),
      blocks_(std::move(blocks)),
      norm_(std::move(norm)) {
  // The arithmetic below trusts these sizes.
  const auto require = [](bool condition) {
    if (!condition) {
      throw std::invalid_argument("a matrix does not fit the network");
    }
  };
  const auto fits = [&](const Matrix& matrix, Index rows, Index columns) {
    require(matrix.packed.rows == rows && matrix.packed.columns == columns);
  };
  const auto is_norm = [&](const mx::array& norm) {
    require(
        norm.dtype() == mx::float32 && int(norm.size()) == shape_.hidden && norm.is_available() &&
        norm.flags().row_contiguous);
  };
  require(shape_.heads > 0 && shape_.kv_heads > 0 && shape_.heads % shape_.kv_heads == 0);
  require(embedding_.packed.columns == shape_.hidden);
  is_norm(norm_);
  for (const auto& block : blocks_) {
    if (const auto& attention = block.attention) {
      is_norm(attention->norm);
      fits(attention->query, shape_.heads * shape_.head_dim, shape_.hidden);
      fits(attention->key, shape_.kv_heads * shape_.head_dim, shape_.hidden);
      fits(attention->value, shape_.kv_heads * shape_.head_dim, shape_.hidden);
      fits(attention->output, shape_.hidden, shape_.heads * shape_.head_dim);
      require(attention->sight == Sight::all || attention->window > 0);
    }
    is_norm(block.feed_forward.norm);
    const Index inner = block.feed_forward.gate.packed.rows;
    fits(block.feed_forward.gate, inner, shape_.hidden);
    fits(block.feed_forward.up, inner, shape_.hidden);
    fits(block.feed_forward.down, shape_.hidden, inner);
  }
}

mx::array Stack::operator()(
    const std::vector<std::uint32_t>& tokens, int offset, std::vector<Room> rooms) {
  int inner = 0;
  std::size_t runs = 0;
  for (const auto& block : blocks_) {
    inner = std::max(inner, int(block.feed_forward.gate.packed.rows));
    runs += block.attention ? block.runs : 0;
  }
  const int count = int(tokens.size());
  if (rooms.size() != runs || tokens.empty() || offset < 0) {
    throw std::invalid_argument("one room for each run that attends, and at least one token");
  }
  for (auto& room : rooms) {
    const mx::Shape shape{1, shape_.kv_heads, room.keys.shape(2), shape_.head_dim};
    for (auto* array : {&room.keys, &room.values}) {
      array->eval();
      if (array->shape() != shape || array->dtype() != mx::float32 ||
          !array->flags().row_contiguous || room.start < 0 || room.start > offset ||
          room.start + count > array->shape(2)) {
        throw std::invalid_argument("a room does not fit the tokens");
      }
    }
  }
  Work work(shape_, inner, count);
  for (int t = 0; t < count; t++) {
    if (tokens[t] >= embedding_.packed.rows) {
      throw std::invalid_argument("a token is not in the vocabulary");
    }
    path().row(embedding_.packed, tokens[t], work.hidden.data() + t * shape_.hidden);
  }
  auto room = rooms.begin();
  for (const auto& block : blocks_) {
    for (int run = 0; run < block.runs; run++) {
      if (block.attention) {
        attend(*block.attention, *room++, offset, run, work);
      }
      feed(block.feed_forward, run, work);
    }
  }
  work.norm(norm_, shape_.eps);
  return mx::array(work.normed.begin(), {1, count, shape_.hidden});
}

void Stack::attend(const Attention& attention, Room& room, int offset, int run, Work& work) const {
  const int dim = shape_.head_dim, group = shape_.heads / shape_.kv_heads;
  const Index capacity = room.keys.shape(2);
  float* const keys = room.keys.data<float>();
  float* const values = room.values.data<float>();
  work.norm(attention.norm, shape_.eps);
  const Step inputs[] = {
      {&attention.query, work.queries.data()},
      {&attention.key, work.keys.data()},
      {&attention.value, work.values.data()},
  };
  multiply(inputs, work.normed.data(), work.tokens, run);
  for (int t = 0; t < work.tokens; t++) {
    float* const key = work.keys.data() + t * shape_.kv_heads * dim;
    float* const value = work.values.data() + t * shape_.kv_heads * dim;
    float* const query = work.queries.data() + t * shape_.heads * dim;
    place(attention, query, shape_.heads, offset + t);
    place(attention, key, shape_.kv_heads, offset + t);
    if (const auto& temperature = attention.temperature) {
      const float steps = std::floor((offset + t + 1.0f) / temperature->floor_scale);
      const float factor = std::log1p(steps) * temperature->attn_scale + 1.0f;
      for (int i = 0; i < shape_.heads * dim; i++) {
        query[i] *= factor;
      }
    }
    for (int head = 0; head < shape_.kv_heads; head++) {
      const Index at = (head * capacity + room.start + t) * dim;
      std::memcpy(keys + at, key + head * dim, dim * sizeof(float));
      std::memcpy(values + at, value + head * dim, dim * sizeof(float));
    }
  }
  const float scale = 1 / std::sqrt(float(dim));
  const Index parts = (work.tokens + PART - 1) / PART;
  Threads::shared().run(shape_.kv_heads * parts, [&](Index piece) {
    const Index kv_head = piece / parts;
    const int from = int(piece % parts) * PART, to = std::min(from + PART, work.tokens);
    // Heads that share keys and values, and neighbouring tokens, mostly see the same.
    std::vector<Seeing> all;
    for (int t = from; t < to; t++) {
      const int here = room.start + t;
      int first = 0;
      if (attention.sight == Sight::sliding) {
        first = std::max(0, here - (attention.window - 1));
      } else if (attention.sight == Sight::chunked) {
        first = here / attention.window * attention.window;
      }
      for (int head = int(kv_head) * group; head < (kv_head + 1) * group; head++) {
        const Index own = (t * shape_.heads + head) * dim;
        all.push_back({work.queries.data() + own, work.mixed.data() + own, first, here + 1});
      }
    }
    const Index at = kv_head * capacity * dim;
    const auto floats = path().attend_floats(int(all.size()), room.start + to, dim);
    thread_local std::vector<float> scratch;
    scratch.resize(std::max(scratch.size(), floats));
    path().attend(
        all.data(), int(all.size()), keys + at, values + at, dim, scale, scratch.data());
  });
  const Step output[] = {{&attention.output, work.change.data()}};
  multiply(output, work.mixed.data(), work.tokens, run);
  work.add_change();
}

void Stack::feed(const FeedForward& feed_forward, int run, Work& work) const {
  const Index inner = feed_forward.gate.packed.rows;
  work.norm(feed_forward.norm, shape_.eps);
  const Step inputs[] = {
      {&feed_forward.gate, work.gate.data()},
      {&feed_forward.up, work.up.data()},
  };
  multiply(inputs, work.normed.data(), work.tokens, run);
  Threads::shared().run(work.tokens, [&](Index t) {
    path().swiglu(work.gate.data() + t * inner, work.up.data() + t * inner, inner);
  });
  const Step output[] = {{&feed_forward.down, work.change.data()}};
  multiply(output, work.gate.data(), work.tokens, run);
  work.add_change();
}

// Cosine and sine of every pair's angle, (E / 2, 2): all blocks of a network ask for the same ones.
const float* rope_turns(const Rope& rope, int dim, int position) {
  struct Turns {
    float theta = 0;
    int position = -1;
    std::vector<float> values;
  };
  thread_local std::vector<Turns> kept(MOST_KEPT);
  Turns& turns = kept[position % MOST_KEPT];
  if (turns.theta != rope.theta || turns.position != position || int(turns.values.size()) != dim) {
    turns.theta = rope.theta;
    turns.position = position;
    turns.values.resize(dim);
    for (int i = 0; i < dim / 2; i++) {
      const float angle = position * std::exp2(-std::log2(rope.theta) * i / (dim / 2));
      turns.values[2 * i] = std::cos(angle);
      turns.values[2 * i + 1] = std::sin(angle);
    }
  }
  return turns.values.data();
}

// Positions, then the norm: heads (H, E) of one token.
void Stack::place(const Attention& attention, float* x, int heads, int position) const {
  const int dim = shape_.head_dim, half = dim / 2;
  if (const auto& rope = attention.rope) {
    const float* turns = rope_turns(*rope, dim, position);
    for (int i = 0; i < half; i++) {
      const float cosine = turns[2 * i], sine = turns[2 * i + 1];
      const int left = rope->traditional ? 2 * i : i, right = rope->traditional ? 2 * i + 1 : i + half;
      for (int head = 0; head < heads; head++) {
        float* const h = x + head * dim;
        const float a = h[left], b = h[right];
        h[left] = a * cosine - b * sine;
        h[right] = a * sine + b * cosine;
      }
    }
  }
  if (attention.qk_norm) {
    for (int head = 0; head < heads; head++) {
      path().rms_norm(x + head * dim, nullptr, shape_.eps, dim, x + head * dim);
    }
  }
}

} // namespace mobilellm
