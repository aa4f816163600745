#include "threads.h"

#include <mutex>

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#define PAUSE() _mm_pause()
#else
#define PAUSE() std::this_thread::yield()
#endif

namespace mobilellm {
namespace {

// How long a thread watches before it sleeps: longer than the gap between two products of one
// token, shorter than anybody would notice.
constexpr int PATIENCE = 4000;

std::mutex turn;

} // namespace

Threads& Threads::shared() {
  static Threads threads;
  return threads;
}

Threads::~Threads() {
  stop();
}

int Threads::count() const {
  return int(helpers_.size()) + 1;
}

void Threads::resize(int count) {
  const std::lock_guard lock(turn);
  stop();
  for (int i = 1; i < count; i++) {
    helpers_.emplace_back([this] { serve(); });
  }
}

void Threads::stop() {
  stopping_ = true;
  job_++;
  job_.notify_all();
  for (auto& helper : helpers_) {
    helper.join();
  }
  helpers_.clear();
  stopping_ = false;
}

void Threads::run(std::int64_t pieces, Call call, const void* work) {
  const std::lock_guard lock(turn);
  if (helpers_.empty() || pieces < 2) {
    for (std::int64_t piece = 0; piece < pieces; piece++) {
      call(work, piece);
    }
    return;
  }
  const std::uint64_t job = job_ + 1;
  ticket_ = job << 32 | 0xffffffff; // nothing to take: neither of the last job, nor yet of this one
  pieces_ = pieces;
  done_ = 0;
  call_ = call;
  work_ = work;
  ticket_ = job << 32;
  job_ = std::uint32_t(job);
  job_.notify_all();
  take_part(job & 0xffffffff);
  for (int waited = 0; done_ < pieces; waited++) {
    if (waited < PATIENCE) {
      PAUSE();
    } else { // whoever has the last piece may need this very core
      std::this_thread::yield();
    }
  }
}

void Threads::take_part(std::uint64_t job) {
  const auto pieces = pieces_.load();
  const auto call = call_.load();
  const auto work = work_.load();
  std::uint64_t ticket = ticket_;
  while (true) {
    const auto piece = std::int64_t(ticket & 0xffffffff);
    if (ticket >> 32 != job || piece >= pieces) {
      return;
    }
    if (ticket_.compare_exchange_weak(ticket, ticket + 1)) {
      call(work, piece); // the job cannot end before this piece has
      done_++;
      ticket = ticket_;
    }
  }
}

void Threads::serve() {
  std::uint32_t seen = job_;
  while (!stopping_) {
    std::uint32_t job = job_;
    for (int waited = 0; job == seen && waited < PATIENCE; waited++) {
      PAUSE();
      job = job_;
    }
    if (job == seen) {
      job_.wait(seen);
      continue;
    }
    seen = job;
    take_part(job);
  }
}

} // namespace mobilellm
