// Arrays one after another in memory of large pages.
//
// Every token reads all weights. In pages of 4 kB a processor looks an address up for every sixty-
// four lines that it reads, and in a virtual machine twice; in pages of 2 MB hardly ever.

#pragma once

#include "mlx/mlx.h"

namespace mobilellm {

namespace mx = mlx::core;

class Pages {
 public:
  // Room for so many bytes in `count` arrays. Where the system has no large pages, it is ordinary
  // memory.
  Pages(std::size_t bytes, std::size_t count);

  // The same numbers in this room, which lives as long as anything in it.
  mx::array take(const mx::array& array);

 private:
  explicit Pages(std::size_t lines);

  mx::array room_; // bytes, a line of the cache in each row
  std::size_t used_;
};

} // namespace mobilellm
