// Very many small jobs, so that helpers come late to some: every piece is worked on once, for the
// job that it belongs to.

#include "threads.h"

#include <cstdio>
#include <cstdlib>
#include <memory>

using namespace mobilellm;

int main(int count, char** arguments) {
  const long jobs = count > 1 ? std::atol(arguments[1]) : 100'000;
  unsigned number = 1;
  long wrong = 0;
  for (const int threads : {2, 4}) {
    Threads::shared().resize(threads);
    for (long job = 0; job < jobs; job++) {
      number = number * 1664525u + 1013904223u;
      const int pieces = number >> 16 & 31;
      const std::unique_ptr<int[]> seen(new int[pieces + 1]());
      int* const times = seen.get();
      Threads::shared().run(pieces, [=](std::int64_t piece) { times[piece]++; });
      for (int piece = 0; piece < pieces; piece++) {
        wrong += times[piece] != 1;
      }
      wrong += times[pieces] != 0;
    }
  }
  std::printf("threads: %ld wrong\n", wrong);
  return wrong != 0;
}
