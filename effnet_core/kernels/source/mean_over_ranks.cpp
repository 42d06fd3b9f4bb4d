// The mean of a vector over the ranks of one machine, through memory that all of them map.
//
// Ranks go through the vector in pieces. Each puts its piece into a slot of its own, waits until all have
// done so, and adds the slots up in the order of the ranks, so that every rank has the same bits. Slots
// are there twice: a rank may fill one set while others still read the other.
#include <algorithm>
#include <atomic>
#include <cerrno>
#include <climits>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <ctime>

#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "operator.h"

namespace effnet {
namespace {

constexpr int kMostRanks = 256;
constexpr int64_t kPiece = int64_t{1} << 16;  // floats; a few slots fit into a core's own cache
constexpr int kSpins = 4000;                  // tens of microseconds, then the processor is given away

struct Meeting {
  alignas(64) std::atomic<uint32_t> arrived;
  alignas(64) std::atomic<uint32_t> round;
  alignas(64) std::atomic<int32_t> processes[kMostRanks];
};

struct Place {
  Meeting* meeting = nullptr;
  float* slots = nullptr;
  int rank = 0, ranks = 0;
  int64_t done = 0;  // pieces, of all vectors so far; the same on all ranks

  float* slot(int64_t piece, int of_rank) const {
    return slots + ((piece & 1) * ranks + of_rank) * kPiece;
  }
};

Place place;

void sleep_while(std::atomic<uint32_t>& value, uint32_t is) {
  const timespec second{1, 0};
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&value), FUTEX_WAIT, is, &second, nullptr, 0);
}

void wake_all(std::atomic<uint32_t>& value) {
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&value), FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

bool someone_is_gone() {
  for (int rank = 0; rank < place.ranks; ++rank) {
    const int32_t process = place.meeting->processes[rank].load(std::memory_order_relaxed);
    if (process > 0 && kill(process, 0) != 0 && errno == ESRCH) return true;
  }
  return false;
}

// Returns false where a rank has died, which would be waited for without end.
bool meet() {
  Meeting& m = *place.meeting;
  const uint32_t round = m.round.load(std::memory_order_acquire);
  if (m.arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == static_cast<uint32_t>(place.ranks)) {
    m.arrived.store(0, std::memory_order_relaxed);
    m.round.fetch_add(1, std::memory_order_release);
    wake_all(m.round);
    return true;
  }
  for (int spin = 0; spin < kSpins; ++spin) {
    if (m.round.load(std::memory_order_acquire) != round) return true;
  }
  while (m.round.load(std::memory_order_acquire) == round) {
    sleep_while(m.round, round);
    if (m.round.load(std::memory_order_acquire) == round && someone_is_gone()) return false;
  }
  return true;
}

void mean_of_slots(int64_t piece, float* to, int64_t count) {
  const float share = 1.0f / static_cast<float>(place.ranks);
  const float* first = place.slot(piece, 0);
  if (place.ranks == 2) {  // no second pass over the output
    const float* second = place.slot(piece, 1);
    for (int64_t i = 0; i < count; ++i) to[i] = (first[i] + second[i]) * share;
    return;
  }
  std::memcpy(to, first, static_cast<size_t>(count) * sizeof(float));
  for (int rank = 1; rank < place.ranks; ++rank) {
    const float* slot = place.slot(piece, rank);
    for (int64_t i = 0; i < count; ++i) to[i] += slot[i];
  }
  for (int64_t i = 0; i < count; ++i) to[i] *= share;
}

// Input x (n,), output its mean over all ranks (n,).
int mean(const Tensors& t) {
  if (place.meeting == nullptr) return kFailed;
  const int64_t size = t.size(0);
  for (int64_t start = 0; start < size; start += kPiece) {
    const int64_t piece = place.done++, count = std::min(kPiece, size - start);
    std::memcpy(place.slot(piece, place.rank), t[0] + start, static_cast<size_t>(count) * sizeof(float));
    if (!meet()) return kFailed;
    mean_of_slots(piece, t[1] + start, count);
  }
  return 0;
}

}  // namespace
}  // namespace effnet

// Bytes that the memory of so many ranks takes.
extern "C" int64_t effnet_shared_bytes(int ranks) {
  return static_cast<int64_t>(sizeof(effnet::Meeting)) +
         2 * ranks * effnet::kPiece * static_cast<int64_t>(sizeof(float));
}

// Take part as `rank` in the memory at `start`, which began as zeros; 0 where it can be used.
extern "C" int effnet_join_memory(void* start, int rank, int ranks) {
  using effnet::Meeting;
  static_assert(std::atomic<uint32_t>::is_always_lock_free, "processes cannot share locks of a process");
  if (ranks < 2 || ranks > effnet::kMostRanks || rank < 0 || rank >= ranks) return effnet::kFailed;
  auto* meeting = static_cast<Meeting*>(start);
  auto* slots = reinterpret_cast<float*>(static_cast<char*>(start) + sizeof(Meeting));
  meeting->processes[rank].store(static_cast<int32_t>(getpid()));
  effnet::place = {meeting, slots, rank, ranks, 0};
  return 0;
}

// As effnet_join_memory, with the memory of an open file that is effnet_shared_bytes long.
extern "C" int effnet_join_file(int file, int rank, int ranks) {
  const auto bytes = static_cast<size_t>(effnet_shared_bytes(ranks));
  void* start = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (start == MAP_FAILED) return effnet::kFailed;
  return effnet_join_memory(start, rank, ranks);
}

EFFNET_OPERATOR(effnet_mean_over_ranks) { return effnet::mean({data, ranks, shapes}); }
