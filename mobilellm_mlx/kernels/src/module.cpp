// The kernels as a Python module.

#include <algorithm>

#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "matmul.h"
#include "mlx/version.h"
#include "pages.h"
#include "stack.h"
#include "threads.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace mobilellm;

constexpr int MOST_THREADS = 256;

NB_MODULE(_kernels, module) {
  nb::module_::import_("mlx.core"); // whose array type this one takes and gives
  module.attr("built_for") = std::to_string(MLX_VERSION_MAJOR) + "." +
      std::to_string(MLX_VERSION_MINOR) + "." + std::to_string(MLX_VERSION_PATCH);
  module.def("takes", &takes, "bits"_a, "group"_a);
  module.def("paths", [] {
    std::vector<std::string> names;
    for (auto way = paths(); *way; way++) {
      names.emplace_back((*way)->name);
    }
    return names;
  });
  module.def("path", [] { return path().name; });
  module.def("choose", [](const std::string& name) {
    for (auto way = paths(); *way; way++) {
      if (name == (*way)->name) {
        return choose(**way);
      }
    }
    throw std::invalid_argument("this processor has no path of that name");
  });
  module.def("threads", [] { return Threads::shared().count(); });
  module.def("set_threads", [](int count) {
    Threads::shared().resize(std::clamp(count, 1, MOST_THREADS));
  });
  module.def(
      "quantized_matmul", &quantized_matmul, "x"_a, "codes"_a, "scales"_a, "biases"_a, "group"_a,
      "bits"_a);

  module.def("swiglu", &swiglu, "gate"_a, "up"_a);
  module.def("own", &own, "array"_a);
  nb::class_<Pages>(module, "Pages")
      .def(nb::init<std::size_t, std::size_t>(), "bytes"_a, "count"_a)
      .def("take", &Pages::take, "array"_a, nb::call_guard<nb::gil_scoped_release>());

  nb::class_<Matrix>(module, "Matrix")
      .def(
          "__init__",
          [](Matrix* self, mx::array codes, mx::array scales, mx::array biases, int group, int bits,
             const std::vector<std::tuple<mx::array, mx::array, float>>& adapters) {
            std::vector<Adapter> all;
            for (const auto& [a, b, scale] : adapters) {
              all.push_back({a, b, scale});
            }
            new (self) Matrix(codes, scales, biases, group, bits, std::move(all));
          },
          "codes"_a, "scales"_a, "biases"_a, "group"_a, "bits"_a, "adapters"_a);
  nb::class_<FeedForward>(module, "FeedForward")
      .def(nb::init<mx::array, Matrix, Matrix, Matrix>(), "norm"_a, "gate"_a, "up"_a, "down"_a);
  nb::class_<Attention>(module, "Attention")
      .def(
          "__init__",
          [](Attention* self, mx::array norm, Matrix query, Matrix key, Matrix value, Matrix output,
             const std::string& sight, int window, std::optional<std::tuple<float, bool>> rope,
             bool qk_norm, std::optional<std::tuple<float, float>> temperature) {
            new (self) Attention{
                norm, query, key, value, output,
                sight == "sliding"       ? Sight::sliding
                    : sight == "chunked" ? Sight::chunked
                                         : Sight::all,
                window, std::nullopt, qk_norm, std::nullopt};
            if (rope) {
              self->rope = Rope{std::get<0>(*rope), std::get<1>(*rope)};
            }
            if (temperature) {
              self->temperature = Temperature{std::get<0>(*temperature), std::get<1>(*temperature)};
            }
          },
          "norm"_a, "query"_a, "key"_a, "value"_a, "output"_a, nb::kw_only(), "sight"_a, "window"_a,
          "rope"_a.none(), "qk_norm"_a, "temperature"_a.none());
  nb::class_<Block>(module, "Block")
      .def(
          nb::init<std::optional<Attention>, FeedForward, int>(), "attention"_a.none(),
          "feed_forward"_a, "runs"_a);
  nb::class_<Stack>(module, "Stack")
      .def(
          "__init__",
          [](Stack* self, int heads, int kv_heads, int head_dim, float eps, Matrix embedding,
             std::vector<Block> blocks, mx::array norm) {
            const int hidden = int(embedding.packed.columns);
            new (self) Stack(
                Shape{hidden, heads, kv_heads, head_dim, eps}, std::move(embedding),
                std::move(blocks), std::move(norm));
          },
          nb::kw_only(), "heads"_a, "kv_heads"_a, "head_dim"_a, "eps"_a, "embedding"_a, "blocks"_a,
          "norm"_a)
      .def(
          "__call__",
          [](Stack& self, const std::vector<std::uint32_t>& tokens, int offset,
             const std::vector<std::tuple<mx::array, mx::array, int>>& rooms) {
            std::vector<Room> places;
            for (const auto& [keys, values, start] : rooms) {
              places.push_back({keys, values, start});
            }
            const nb::gil_scoped_release others; // such as an interface, while a prompt is read
            return self(tokens, offset, std::move(places));
          },
          "tokens"_a, "offset"_a, "rooms"_a);
}
