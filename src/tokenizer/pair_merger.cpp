// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/pair_merger.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <functional>
#include <limits>

namespace plumb {
namespace {

constexpr int32_t kNever = std::numeric_limits<int32_t>::max();

// Eight bytes at a time, multiplied and folded.
uint64_t hash_of(std::string_view text) {
  uint64_t hash = 0x9E3779B97F4A7C15u ^ text.size();
  while (!text.empty()) {
    uint64_t word = 0;
    const size_t size = std::min<size_t>(text.size(), sizeof(word));
    std::memcpy(&word, text.data(), size);
    hash = (hash ^ word) * 0xBF58476D1CE4E5B9u;
    hash ^= hash >> 29;
    text.remove_prefix(size);
  }
  return hash | 1;  // 0 marks an empty slot
}

}  // namespace

void PairTable::reserve(size_t pairs) {
  const size_t size = std::bit_ceil(std::max<size_t>(pairs, 8) * 2);
  slots_.assign(size, Slot{kEmpty, {0, 0}});
  mask_ = size - 1;
}

bool PairTable::add(Symbol left, Symbol right, Merge merge) {
  const uint64_t key = key_of(left, right);
  for (size_t at = hash(key) & mask_;; at = (at + 1) & mask_) {
    if (slots_[at].key == key) return false;
    if (slots_[at].key != kEmpty) continue;
    slots_[at] = {key, merge};
    return true;
  }
}

void PairMerger::merge(const PairTable& table, std::vector<Run>& runs) {
  constexpr size_t kShort = 40;  // above, a heap is faster than looking through all pairs
  if (runs.size() < 2) return;
  if (runs.size() <= kShort) {
    merge_short(table, runs);
  } else {
    merge_long(table, runs);
  }
}

void PairMerger::merge_short(const PairTable& table, std::vector<Run>& runs) {
  const auto look = [&](size_t i) {
    const auto* found = table.find(runs[i].symbol, runs[i + 1].symbol);
    return found == nullptr ? PairTable::Merge{kNever, -1} : *found;
  };
  merges_.clear();
  for (size_t i = 0; i + 1 < runs.size(); ++i) merges_.push_back(look(i));
  while (!merges_.empty()) {
    size_t best = 0;
    for (size_t i = 1; i < merges_.size(); ++i)
      if (merges_[i].rank < merges_[best].rank) best = i;
    if (merges_[best].rank == kNever) return;
    runs[best].symbol = merges_[best].joined;
    runs.erase(runs.begin() + static_cast<ptrdiff_t>(best) + 1);
    merges_.erase(merges_.begin() + static_cast<ptrdiff_t>(best));
    if (best > 0) merges_[best - 1] = look(best - 1);
    if (best < merges_.size()) merges_[best] = look(best);
  }
}

void PairMerger::propose(const PairTable& table, int32_t left) {
  if (left < 0) return;
  const Node& node = nodes_[static_cast<size_t>(left)];
  if (node.next < 0) return;
  const Symbol right = nodes_[static_cast<size_t>(node.next)].symbol;
  const auto* found = table.find(node.symbol, right);
  if (found == nullptr) return;
  queue_.push_back({found->rank, left, node.symbol, right, found->joined});
  std::ranges::push_heap(queue_, std::greater{});
}

void PairMerger::merge_long(const PairTable& table, std::vector<Run>& runs) {
  constexpr Symbol kGone = std::numeric_limits<Symbol>::min();
  nodes_.clear();
  queue_.clear();
  const auto count = static_cast<int32_t>(runs.size());
  for (int32_t i = 0; i < count; ++i) {
    const Run& run = runs[static_cast<size_t>(i)];
    nodes_.push_back({run.symbol, i - 1, i + 1 < count ? i + 1 : -1, run.begin});
  }
  for (int32_t i = 0; i + 1 < count; ++i) propose(table, i);
  while (!queue_.empty()) {
    std::ranges::pop_heap(queue_, std::greater{});
    const Candidate candidate = queue_.back();
    queue_.pop_back();
    Node& left = nodes_[static_cast<size_t>(candidate.left)];
    // Out of date when either side has been merged since.
    if (left.symbol != candidate.left_symbol || left.next < 0) continue;
    Node& right = nodes_[static_cast<size_t>(left.next)];
    if (right.symbol != candidate.right_symbol) continue;
    left.symbol = candidate.joined;
    left.next = right.next;
    right.symbol = kGone;
    if (left.next >= 0) nodes_[static_cast<size_t>(left.next)].previous = candidate.left;
    propose(table, left.previous);
    propose(table, candidate.left);
  }
  runs.clear();
  for (int32_t i = 0; i >= 0; i = nodes_[static_cast<size_t>(i)].next)
    runs.push_back({nodes_[static_cast<size_t>(i)].symbol, nodes_[static_cast<size_t>(i)].begin});
}

bool PieceCache::find(std::string_view piece, Hit& hit) {
  // Short texts do not repeat their pieces enough to pay for the table.
  constexpr size_t kWarmUp = 64;
  constexpr size_t kSlots = 1 << 15;
  hash_ = 0;
  if (piece.size() > kMostBytes || ++seen_ < kWarmUp) return false;
  if (slots_.empty()) slots_.resize(kSlots);
  hash_ = hash_of(piece);
  for (at_ = hash_ >> 16 & (kSlots - 1); slots_[at_].hash != 0; at_ = (at_ + 1) & (kSlots - 1)) {
    const Slot& slot = slots_[at_];
    if (slot.hash != hash_ || slot.size != piece.size() ||
        std::memcmp(texts_.data() + slot.text, piece.data(), piece.size()) != 0)
      continue;
    hit = {tokens_.data() + slot.tokens, slot.count};
    return true;
  }
  return false;
}

void PieceCache::put(std::string_view piece, std::span<const int32_t> tokens) {
  if (hash_ == 0) return;
  if (used_ * 2 >= slots_.size()) {
    std::ranges::fill(slots_, Slot{});
    texts_.clear();
    tokens_.clear();
    used_ = 0;
    at_ = hash_ >> 16 & (slots_.size() - 1);
  }
  slots_[at_] = {hash_, static_cast<uint32_t>(texts_.size()), static_cast<uint32_t>(tokens_.size()),
                 static_cast<uint16_t>(piece.size()), static_cast<uint16_t>(tokens.size())};
  ++used_;
  texts_ += piece;
  tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
}

}  // namespace plumb
