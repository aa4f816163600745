#include "matmul.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>
#include <stdexcept>
#include <tuple>

#include "mlx/backend/cpu/encoder.h"
#include "threads.h"

namespace mobilellm {
namespace {

// Rows that a thread takes at a time: enough to be worth it, few enough to share fairly.
constexpr Index ROWS = 64;
constexpr Index NUMBERS = 4096; // of an elementwise operation

constexpr std::align_val_t LINE{64}; // of a processor's cache

// Room that is not filled with zeros first, and kept from one product to the next.
float* scratch(std::size_t floats, int which) {
  struct Freed {
    void operator()(float* data) const {
      ::operator delete[](data, LINE);
    }
  };
  struct Room {
    std::unique_ptr<float[], Freed> data;
    std::size_t size = 0;
  };
  thread_local Room rooms[3];
  Room& room = rooms[which];
  if (room.size < floats) {
    room.data.reset(); // before there are two
    room.size = 0;
    room.data.reset(static_cast<float*>(::operator new[](floats * sizeof(float), LINE)));
    room.size = floats;
  }
  return room.data.get();
}

void multiply_few(const Product* products, int count, const float* x, Index tokens) {
  const Path& way = path();
  // Matrices that are packed alike take their tokens prepared alike.
  const Packed& first = *products[0].matrix;
  const std::size_t size = way.prepared_floats(first);
  float* prepared = scratch(size * tokens, 0);
  for (Index t = 0; t < tokens; t++) {
    way.prepare(first, x + t * first.columns, tokens, prepared + t * size);
  }
  Index pieces = 0;
  for (int i = 0; i < count; i++) {
    pieces += (products[i].matrix->rows + ROWS - 1) / ROWS;
  }
  Threads::shared().run(pieces, [&](Index piece) {
    int i = 0;
    for (Index own; piece >= (own = (products[i].matrix->rows + ROWS - 1) / ROWS); i++) {
      piece -= own;
    }
    const Packed& matrix = *products[i].matrix;
    const Index row = piece * ROWS;
    way.few(
        matrix, prepared, tokens, products[i].y, row, std::min(row + ROWS, matrix.rows));
  });
}

bool alike(const Packed& a, const Packed& b) {
  return a.columns == b.columns && a.bits == b.bits && a.group == b.group;
}

void multiply_many(const Packed& matrix, const float* x, Index tokens, float* y) {
  const Path& way = path();
  const Index panels = (tokens + way.panel_tokens - 1) / way.panel_tokens;
  float* packed = scratch(panels * way.panel_tokens * matrix.columns, 0);
  way.pack(x, tokens, matrix.columns, packed);
  Threads::shared().run((matrix.rows + way.tile - 1) / way.tile, [&](Index tile) {
    float* panel = scratch(matrix.columns * way.tile, 1);
    way.many(matrix, packed, tokens, panel, y, tile, tile + 1);
  });
}

// Weights are almost always there and without gaps: no operation for those.
mx::array in_rows(const mx::array& array, mx::Stream stream) {
  const bool is_ready = array.is_available() && array.flags().row_contiguous;
  return is_ready ? array : mx::contiguous(array, false, stream);
}

// The numbers of an array one after another, whatever its strides.
void copy(
    const float* from, const mx::Shape& shape, const mx::Strides& strides, int axis, float*& to) {
  if (axis == int(shape.size())) {
    *to++ = *from;
    return;
  }
  for (int i = 0; i < shape[axis]; i++) {
    copy(from + i * strides[axis], shape, strides, axis + 1, to);
  }
}

} // namespace

bool takes(int bits, int group) {
  return (bits == 4 || bits == 8) && (group == 32 || group == 64);
}

void multiply(const Packed& matrix, const float* x, Index tokens, float* y) {
  const Product product{&matrix, y};
  multiply(&product, 1, x, tokens);
}

void multiply(const Product* products, int count, const float* x, Index tokens) {
  if (tokens > path().most_few) {
    for (int i = 0; i < count; i++) {
      multiply_many(*products[i].matrix, x, tokens, products[i].y);
    }
    return;
  }
  for (int i = 0, next; i < count && tokens; i = next) {
    for (next = i + 1; next < count && alike(*products[i].matrix, *products[next].matrix);) {
      next++;
    }
    multiply_few(products + i, next - i, x, tokens);
  }
}

Packed packed(
    const mx::array& codes, const mx::array& scales, const mx::array& biases, int group, int bits) {
  return {
      codes.data<std::uint32_t>(), scales.data<float>(), biases.data<float>(), codes.shape(0),
      codes.shape(1) * 32 / bits,  bits,                 group,
  };
}

void require_packed(
    const mx::array& codes, const mx::array& scales, const mx::array& biases, int group, int bits) {
  if (!takes(bits, group)) {
    throw std::invalid_argument("no kernel for such a packing");
  }
  if (codes.ndim() != 2 || codes.dtype() != mx::uint32 || codes.size() == 0) {
    throw std::invalid_argument("the packed matrix must be (N, K * bits / 32) of uint32");
  }
  const int rows = codes.shape(0), columns = codes.shape(1) * 32 / bits;
  const mx::Shape groups{rows, columns / group};
  if (columns % group || scales.shape() != groups || biases.shape() != groups) {
    throw std::invalid_argument("scales and biases must be (N, K / group)");
  }
  if (scales.dtype() != mx::float32 || biases.dtype() != mx::float32) {
    throw std::invalid_argument("the kernels compute in float32");
  }
}

mx::array quantized_matmul(
    const mx::array& x, const mx::array& codes, const mx::array& scales, const mx::array& biases,
    int group, int bits) {
  require_packed(codes, scales, biases, group, bits);
  if (x.ndim() < 1 || x.shape(-1) != codes.shape(1) * 32 / bits) {
    throw std::invalid_argument("the last axis of x must be as long as the matrix is wide");
  }
  if (x.dtype() != mx::float32) {
    throw std::invalid_argument("the kernels compute in float32");
  }
  auto shape = x.shape();
  shape.back() = codes.shape(0);
  const auto stream = mx::default_stream(mx::Device::cpu);
  return mx::array(
      shape, mx::float32, std::make_shared<QuantizedMatmul>(stream, group, bits),
      {x, in_rows(codes, stream), in_rows(scales, stream), in_rows(biases, stream)});
}

void QuantizedMatmul::eval_cpu(
    const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) {
  auto& out = outputs[0];
  out.set_data(mx::allocator::malloc(out.nbytes()));
  if (out.size() == 0) {
    return;
  }
  auto& encoder = mx::cpu::get_command_encoder(stream());
  for (const auto& input : inputs) {
    encoder.set_input_array(input);
  }
  encoder.set_output_array(out);
  const auto& x = inputs[0];
  const Index tokens = x.size() / x.shape(-1);
  encoder.dispatch([matrix = packed(inputs[1], inputs[2], inputs[3], group_, bits_),
                    x = x.data<float>(), is_rows = x.flags().row_contiguous, shape = x.shape(),
                    strides = x.strides(), y = out.data<float>(), tokens] {
    if (is_rows) {
      multiply(matrix, x, tokens, y);
    } else {
      float *rows = scratch(tokens * matrix.columns, 2), *end = rows;
      copy(x, shape, strides, 0, end);
      multiply(matrix, rows, tokens, y);
    }
  });
}

void QuantizedMatmul::eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) {
  throw std::runtime_error("these kernels are for the CPU");
}

std::vector<mx::array> QuantizedMatmul::jvp(
    const std::vector<mx::array>& primals, const std::vector<mx::array>& tangents,
    const std::vector<int>& argnums) {
  if (argnums.size() != 1 || argnums[0] != 0) {
    throw std::runtime_error("packed weights have no derivatives");
  }
  return {mx::quantized_matmul(
      tangents[0], primals[1], primals[2], primals[3], true, group_, bits_, "affine", stream())};
}

std::vector<mx::array> QuantizedMatmul::vjp(
    const std::vector<mx::array>& primals, const std::vector<mx::array>& cotangents,
    const std::vector<int>& argnums, const std::vector<mx::array>&) {
  if (argnums.size() != 1 || argnums[0] != 0) {
    throw std::runtime_error("packed weights have no derivatives");
  }
  return {mx::quantized_matmul(
      cotangents[0], primals[1], primals[2], primals[3], false, group_, bits_, "affine",
      stream())};
}

bool QuantizedMatmul::is_equivalent(const mx::Primitive& other) const {
  const auto& same = static_cast<const QuantizedMatmul&>(other);
  return group_ == same.group_ && bits_ == same.bits_;
}

mx::array swiglu(const mx::array& gate, const mx::array& up) {
  if (gate.shape() != up.shape()) {
    throw std::invalid_argument("gate and up must have the same shape");
  }
  if (gate.dtype() != mx::float32 || up.dtype() != mx::float32) {
    throw std::invalid_argument("the kernels compute in float32");
  }
  const auto stream = mx::default_stream(mx::Device::cpu);
  return mx::array(gate.shape(), mx::float32, std::make_shared<SwiGLU>(stream), {gate, up});
}

void SwiGLU::eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) {
  auto& out = outputs[0];
  out.set_data(mx::allocator::malloc(out.nbytes()));
  auto& encoder = mx::cpu::get_command_encoder(stream());
  encoder.set_input_array(inputs[0]);
  encoder.set_input_array(inputs[1]);
  encoder.set_output_array(out);
  const auto view = [](const mx::array& array) {
    return std::tuple(array.data<float>(), array.flags().row_contiguous, array.strides());
  };
  encoder.dispatch([gate = view(inputs[0]), up = view(inputs[1]), shape = out.shape(),
                    y = out.data<float>(), count = Index(out.size())] {
    const auto in_rows = [&](const auto& view, float* to) {
      const auto& [from, is_rows, strides] = view;
      if (is_rows) {
        std::memcpy(to, from, count * sizeof(float));
      } else {
        copy(from, shape, strides, 0, to);
      }
    };
    in_rows(gate, y);
    const float* right = std::get<0>(up);
    if (!std::get<1>(up)) {
      float* rows = scratch(count, 2);
      in_rows(up, rows);
      right = rows;
    }
    Threads::shared().run((count + NUMBERS - 1) / NUMBERS, [&](Index piece) {
      const Index at = piece * NUMBERS;
      path().swiglu(y + at, right + at, std::min(NUMBERS, count - at));
    });
  });
}

void SwiGLU::eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) {
  throw std::runtime_error("these kernels are for the CPU");
}

std::vector<mx::array> SwiGLU::vjp(
    const std::vector<mx::array>& primals, const std::vector<mx::array>& cotangents,
    const std::vector<int>& argnums, const std::vector<mx::array>&) {
  const auto plain = [&](const std::vector<mx::array>& inputs) {
    const auto& gate = inputs[0];
    const auto s = stream();
    return std::vector{
        mx::multiply(mx::multiply(gate, mx::sigmoid(gate, s), s), inputs[1], s)};
  };
  const auto all = mx::vjp(plain, primals, cotangents).second;
  std::vector<mx::array> asked;
  for (const int argnum : argnums) {
    asked.push_back(all[argnum]);
  }
  return asked;
}

} // namespace mobilellm
