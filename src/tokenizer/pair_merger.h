// SPDX-License-Identifier: Apache-2.0
// Byte-pair merging of one piece, and what is remembered of pieces.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace plumb {

// A text that merging can produce. Ids below the vocabulary's size are its tokens; those above are
// texts that only merges mention; negative: a unit that no merge knows.
using Symbol = int32_t;

// Which two symbols merge, how soon, and into what. A hash table without deletion.
class PairTable {
 public:
  struct Merge {
    int32_t rank;
    Symbol joined;
  };
  void reserve(size_t pairs);
  // False: the pair is there already.
  bool add(Symbol left, Symbol right, Merge merge);
  const Merge* find(Symbol left, Symbol right) const {
    if (slots_.empty() || left < 0 || right < 0) return nullptr;
    const uint64_t key = key_of(left, right);
    for (size_t at = hash(key) & mask_;; at = (at + 1) & mask_) {
      if (slots_[at].key == key) return &slots_[at].merge;
      if (slots_[at].key == kEmpty) return nullptr;
    }
  }

 private:
  struct Slot {
    uint64_t key;
    Merge merge;
  };
  static constexpr uint64_t kEmpty = ~uint64_t{0};
  static uint64_t key_of(Symbol left, Symbol right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }
  static uint64_t hash(uint64_t key) {
    key *= 0x9E3779B97F4A7C15u;
    return key ^ key >> 32;
  }
  std::vector<Slot> slots_;
  uint64_t mask_ = 0;
};

// Units of a piece, then the symbols that merging leaves; `begin` is the first byte of each.
struct Run {
  Symbol symbol;
  uint32_t begin;
};

// Merges until no pair is in the table: the lowest rank first, the leftmost on ties. n log n in the
// number of units. Buffers are reused from piece to piece.
class PairMerger {
 public:
  void merge(const PairTable& table, std::vector<Run>& runs);

 private:
  struct Node {
    Symbol symbol;
    int32_t previous, next;  // -1: none
    uint32_t begin;
  };
  struct Candidate {
    int32_t rank;
    int32_t left;
    Symbol left_symbol, right_symbol, joined;
    bool operator>(const Candidate& other) const {
      return rank != other.rank ? rank > other.rank : left > other.left;
    }
  };
  void merge_short(const PairTable& table, std::vector<Run>& runs);
  void merge_long(const PairTable& table, std::vector<Run>& runs);
  void propose(const PairTable& table, int32_t left);

  std::vector<PairTable::Merge> merges_;
  std::vector<Node> nodes_;
  std::vector<Candidate> queue_;
};

// The tokens of pieces that came before. Bounded; starts afresh when it is full.
class PieceCache {
 public:
  // Null: not there; then `slot` is where put() may store it.
  struct Hit {
    const int32_t* tokens;
    size_t count;
  };
  bool find(std::string_view piece, Hit& hit);
  // Right after a find() of the same piece that found nothing.
  void put(std::string_view piece, std::span<const int32_t> tokens);

 private:
  struct Slot {
    uint64_t hash = 0;
    uint32_t text = 0, tokens = 0;
    uint16_t size = 0, count = 0;
  };
  static constexpr size_t kMostBytes = 256;
  std::vector<Slot> slots_;
  std::string texts_;
  std::vector<int32_t> tokens_;
  size_t used_ = 0, seen_ = 0, at_ = 0;
  uint64_t hash_ = 0;
};

}  // namespace plumb
