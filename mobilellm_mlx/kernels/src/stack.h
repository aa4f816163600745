// Tokens of one sequence through all blocks of a network at once.
//
// Between the products of one token lie dozens of small operations for each block, and every one of
// them costs MLX on a CPU some microseconds: together as much as the products. Here they are calls.
//
// models/network.py says what is computed; tests hold this to it.

#pragma once

#include <optional>
#include <string>
#include <vector>

#include "matmul.h"

namespace mobilellm {

// A change of low rank to a matrix (N, K): y += scale * (x A) B.
struct Adapter {
  mx::array a; // (K, R)
  mx::array b; // (R, N)
  float scale;
};

// The arrays of one packed matrix, kept alive.
struct Matrix {
  mx::array codes, scales, biases;
  Packed packed;
  std::vector<Adapter> adapters; // none, one, or one for each run of its block

  Matrix(
      mx::array codes, mx::array scales, mx::array biases, int group, int bits,
      std::vector<Adapter> adapters);
};

struct Rope {
  float theta;
  bool traditional;
};

struct Temperature {
  float floor_scale, attn_scale;
};

// What tokens a token sees: all, the last `window`, or those of its own `window` counted from 0.
enum class Sight { all, sliding, chunked };

struct Attention {
  mx::array norm;
  Matrix query, key, value, output;
  Sight sight;
  int window;
  std::optional<Rope> rope;
  bool qk_norm;
  std::optional<Temperature> temperature;
};

struct FeedForward {
  mx::array norm;
  Matrix gate, up, down;
};

struct Block {
  std::optional<Attention> attention;
  FeedForward feed_forward;
  int runs;
};

struct Shape {
  int hidden, heads, kv_heads, head_dim;
  float eps;
};

// Where one run keeps keys and values, (1, K, capacity, E) each: new ones go to `start`, and the
// token there is number `start + gone` of the sequence.
struct Room {
  mx::array keys, values;
  int start;
};

// The array itself when nobody else sees its numbers, so that they may be written over, else a copy.
mx::array own(const mx::array& array);

class Stack {
 public:
  Stack(Shape shape, Matrix embedding, std::vector<Block> blocks, mx::array norm);

  // Final hidden states (T, D) of token ids; writes keys and values into the rooms.
  mx::array operator()(const std::vector<std::uint32_t>& tokens, int offset, std::vector<Room> rooms);

 private:
  struct Work;

  void attend(const Attention& attention, Room& room, int offset, int run, Work& work) const;
  void feed(const FeedForward& feed_forward, int run, Work& work) const;
  void place(const Attention& attention, float* x, int heads, int position) const;

  Shape shape_;
  Matrix embedding_;
  std::vector<Block> blocks_;
  mx::array norm_;
};

} // namespace mobilellm
