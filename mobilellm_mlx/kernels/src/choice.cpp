// Which path this processor takes.

#include <atomic>

#include "paths.h"

namespace mobilellm {

extern const Path plain_path;
#if defined(__x86_64__)
extern const Path avx2_path, avx512_path, vnni_path;
#endif

const Path* const* paths() {
  static const Path* found[5] = {};
  static const bool looked = [] {
    int count = 0;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq")) {
      if (__builtin_cpu_supports("avx512vnni")) {
        found[count++] = &vnni_path;
      }
      found[count++] = &avx512_path;
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
      found[count++] = &avx2_path;
    }
#endif
    found[count] = &plain_path;
    return true;
  }();
  (void)looked;
  return found;
}

namespace {
std::atomic<const Path*> chosen{nullptr};
}

const Path& path() {
  const Path* way = chosen.load(std::memory_order_relaxed);
  return way ? *way : *paths()[0];
}

void choose(const Path& way) {
  chosen = &way;
}

} // namespace mobilellm
