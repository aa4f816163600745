// A few threads that stay, and share pieces of work with whoever calls.

#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace mobilellm {

class Threads {
 public:
  static Threads& shared();

  // How many work, the caller included.
  int count() const;
  void resize(int count);

  // work(piece) for every piece from 0 to `pieces`, in any order and on any thread; returns when
  // all are done. One caller at a time: others wait for their turn.
  template <class Work>
  void run(std::int64_t pieces, const Work& work) {
    run(pieces, [](const void* w, std::int64_t piece) { (*static_cast<const Work*>(w))(piece); },
        &work);
  }

  ~Threads();

 private:
  using Call = void (*)(const void*, std::int64_t);

  Threads() = default;
  void run(std::int64_t pieces, Call call, const void* work);
  void take_part(std::uint64_t job);
  void serve();
  void stop();

  std::vector<std::thread> helpers_;
  // The number of the job in the upper half, its next piece in the lower one: a helper that comes
  // too late finds another number there, and takes nothing.
  std::atomic<std::uint64_t> ticket_{0};
  std::atomic<std::uint32_t> job_{0};
  std::atomic<std::int64_t> pieces_{0}, done_{0};
  std::atomic<Call> call_{nullptr};
  std::atomic<const void*> work_{nullptr};
  std::atomic<bool> stopping_{false};
};

} // namespace mobilellm
