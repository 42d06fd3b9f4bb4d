// The threads of this process's operators.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace effnet {

// How many threads work on one operator: as many as the process may use processors.
int thread_count();

// Call work(task) for task = 0 .. tasks - 1, each once, on all threads, and return when all are done.
// Which thread does which task is left to chance, so a task must not depend on it.
void in_parallel(int64_t tasks, const std::function<void(int64_t)>& work);

// Memory of the calling thread that is kept from call to call: `count` floats of slot `slot`, aligned to
// 64 bytes. Contents are whatever was there before.
float* scratch(int slot, int64_t count);

// The part of 0 .. total - 1 that belongs to one of `parts`.
struct Range {
  int64_t begin, end;
};
inline Range share(int64_t total, int64_t part, int64_t parts) {
  return {total * part / parts, total * (part + 1) / parts};
}

}  // namespace effnet
