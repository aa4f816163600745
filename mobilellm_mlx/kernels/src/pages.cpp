#include "pages.h"

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>

#include <sys/mman.h>

namespace mobilellm {
namespace {

constexpr std::size_t LINE = 64; // of a processor's cache
constexpr std::uintptr_t PAGE = 2 << 20;

// MLX's allocator for CPUs says nothing when there is no such room and counts it as in use from then
// on: every operation would wait for the one before it. So the system is asked first, which costs
// nothing. Without `volatile` a compiler may leave the asking out.
auto room(std::size_t bytes) {
  void* volatile trial = std::malloc(bytes);
  if (trial == nullptr) {
    throw std::bad_alloc();
  }
  std::free(trial);
  return mx::allocator::malloc(bytes);
}

} // namespace

// In lines, for MLX counts along an axis in 32 bits.
Pages::Pages(std::size_t bytes, std::size_t count)
    : Pages((bytes + LINE - 1) / LINE + count + 1) {}

Pages::Pages(std::size_t lines)
    : room_(room(lines * LINE), {mx::ShapeElem(lines), mx::ShapeElem(LINE)}, mx::uint8),
      used_(0) {
#if defined(MADV_HUGEPAGE)
  // Before anything is written: what is there already would stay where it is.
  const auto from = reinterpret_cast<std::uintptr_t>(room_.data<char>());
  const auto first = (from + PAGE - 1) / PAGE * PAGE, last = (from + room_.nbytes()) / PAGE * PAGE;
  if (first < last) {
    madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE); // only advice
  }
#endif
}

mx::array Pages::take(const mx::array& array) {
  auto rows = mx::contiguous(array, false, mx::Device::cpu);
  rows.eval();
  char* const start = room_.data<char>();
  const auto place = reinterpret_cast<std::uintptr_t>(start) + used_;
  const std::size_t at = used_ + (LINE - place % LINE) % LINE;
  if (at + rows.nbytes() > room_.nbytes()) {
    throw std::invalid_argument("more arrays than were announced");
  }
  std::memcpy(start + at, rows.data<char>(), rows.nbytes());
  used_ = at + rows.nbytes();
  mx::array same(rows.shape(), rows.dtype(), nullptr, {});
  same.copy_shared_buffer(
      room_, rows.strides(), rows.flags(), rows.data_size(), std::int64_t(at / rows.itemsize()));
  same.set_status(mx::array::Status::available);
  return same;
}

} // namespace mobilellm
