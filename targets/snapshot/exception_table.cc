// SPDX-License-Identifier: Apache-2.0
#include "targets/snapshot/exception_table.h"

#include <algorithm>

#include "core/base/check.h"

namespace sectormap::targets {

ExceptionTable::Runs::const_iterator ExceptionTable::Holding(uint64_t chunk) const {
  auto next = runs_.upper_bound(chunk);
  if (next == runs_.begin()) return runs_.end();
  --next;
  return chunk - next->first < next->second.count() ? next : runs_.end();
}

ExceptionTable::Found ExceptionTable::Find(uint64_t chunk) const {
  const auto next = runs_.upper_bound(chunk);
  if (next != runs_.begin()) {
    const auto run = std::prev(next);
    const uint64_t into = chunk - run->first;
    if (into < run->second.count()) {
      return {true, run->second.new_chunk + into, run->second.count() - into};
    }
  }
  return {false, 0, (next != runs_.end() ? next->first : kChunksMax) - chunk};
}

std::optional<ExceptionRun> ExceptionTable::NextFrom(uint64_t chunk) const {
  const Found found = Find(chunk);
  if (found.exists) return ExceptionRun{chunk, found.new_chunk, found.count};
  const auto next = runs_.upper_bound(chunk);
  if (next == runs_.end()) return std::nullopt;
  return ExceptionRun{next->first, next->second.new_chunk, next->second.count()};
}

bool ExceptionTable::Insert(const ExceptionRun& run) {
  CHECK(run.count > 0 && run.old_chunk + run.count <= kChunksMax &&
        run.new_chunk + run.count <= kChunksMax);
  const Found found = Find(run.old_chunk);
  if (found.exists || found.count < run.count) return false;
  for (uint64_t done = 0; done < run.count; done += kRunMax) {
    InsertPart({run.old_chunk + done, run.new_chunk + done, std::min(run.count - done, kRunMax)});
  }
  size_ += run.count;
  return true;
}

// Joins the run with its neighbours where both chunks go on and the length allows.
void ExceptionTable::InsertPart(const ExceptionRun& run) {
  ExceptionRun joined = run;
  auto next = runs_.lower_bound(run.old_chunk);
  if (next != runs_.end() && next->first == run.old_chunk + run.count &&
      next->second.new_chunk == run.new_chunk + run.count &&
      run.count + next->second.count() <= kRunMax) {
    joined.count += next->second.count();
    next = runs_.erase(next);
  }
  if (next != runs_.begin()) {
    const auto before = std::prev(next);
    const uint64_t count = before->second.count();
    if (before->first + count == joined.old_chunk &&
        before->second.new_chunk + count == joined.new_chunk && count + joined.count <= kRunMax) {
      before->second = At(before->second.new_chunk, count + joined.count);
      return;
    }
  }
  runs_.emplace_hint(next, joined.old_chunk, At(joined.new_chunk, joined.count));
}

void ExceptionTable::Remove(uint64_t chunk) {
  const auto found = Holding(chunk);
  CHECK(found != runs_.end());
  const ExceptionRun run{found->first, found->second.new_chunk, found->second.count()};
  const uint64_t into = chunk - run.old_chunk;
  runs_.erase(found);
  if (into > 0) runs_.emplace(run.old_chunk, At(run.new_chunk, into));
  if (into + 1 < run.count) {
    runs_.emplace(chunk + 1, At(run.new_chunk + into + 1, run.count - into - 1));
  }
  --size_;
}

}  // namespace sectormap::targets
