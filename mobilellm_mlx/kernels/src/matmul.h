// The product of activations with a packed matrix, and what feed-forward parts do between two of
// them, as operations of MLX.

#pragma once

#include "mlx/mlx.h"
#include "mlx/primitives.h"
#include "paths.h"

namespace mobilellm {

namespace mx = mlx::core;

// Whether the kernels have a way for such a matrix; what they do not have is left to MLX.
bool takes(int bits, int group);

// x (..., K) times a packed matrix (N, K): (..., N), all float32.
mx::array quantized_matmul(
    const mx::array& x, const mx::array& codes, const mx::array& scales, const mx::array& biases,
    int group, int bits);

// gate * sigmoid(gate) * up, arrays of one shape, all float32.
mx::array swiglu(const mx::array& gate, const mx::array& up);

// y (T, N) = x (T, K) times the matrix, on all threads. Both are rows without gaps.
void multiply(const Packed& matrix, const float* x, Index tokens, float* y);

// Several matrices that take the same x.
struct Product {
  const Packed* matrix;
  float* y;
};
void multiply(const Product* products, int count, const float* x, Index tokens);

// Throws std::invalid_argument when they are no packed matrix that the kernels have a way for.
void require_packed(
    const mx::array& codes, const mx::array& scales, const mx::array& biases, int group, int bits);

// The matrix that three evaluated arrays hold.
Packed packed(
    const mx::array& codes, const mx::array& scales, const mx::array& biases, int group, int bits);

class QuantizedMatmul : public mx::Primitive {
 public:
  QuantizedMatmul(mx::Stream stream, int group, int bits)
      : mx::Primitive(stream), group_(group), bits_(bits) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override;
  void eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) override;
  std::vector<mx::array> jvp(
      const std::vector<mx::array>& primals, const std::vector<mx::array>& tangents,
      const std::vector<int>& argnums) override;
  std::vector<mx::array> vjp(
      const std::vector<mx::array>& primals, const std::vector<mx::array>& cotangents,
      const std::vector<int>& argnums, const std::vector<mx::array>& outputs) override;
  const char* name() const override {
    return "MobileLLMQuantizedMatmul";
  }
  bool is_equivalent(const mx::Primitive& other) const override;

 private:
  int group_, bits_;
};

class SwiGLU : public mx::Primitive {
 public:
  using mx::Primitive::Primitive;

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override;
  void eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) override;
  std::vector<mx::array> vjp(
      const std::vector<mx::array>& primals, const std::vector<mx::array>& cotangents,
      const std::vector<int>& argnums, const std::vector<mx::array>& outputs) override;
  const char* name() const override {
    return "MobileLLMSwiGLU";
  }
  bool is_equivalent(const mx::Primitive&) const override {
    return true;
  }
};

} // namespace mobilellm
