// Merging one word, and remembering words.

#include <algorithm>
#include <limits>
#include <queue>

#include "cpu/tokenizer.h"

namespace clipfast {
namespace {

constexpr std::int32_t kFirstMerged = 512;
constexpr std::int32_t kNoMerge = std::numeric_limits<std::int32_t>::max();
constexpr std::size_t kMergeSlots = 1 << 17;  // at most half full
constexpr std::size_t kShortWord = 64;
constexpr std::size_t kCacheSlots = 1 << 17, kCachedWords = kCacheSlots / 2, kCachedBytes = 64;

std::size_t merge_slot(std::uint32_t pair) { return (pair * 0x9e3779b1u) >> 15; }

std::uint32_t pair_key(std::int32_t left, std::int32_t right) {
    return static_cast<std::uint32_t>(left) << 16 | static_cast<std::uint32_t>(right);
}

std::uint32_t hash_of(std::string_view word) {
    std::uint64_t hash = word.size();
    for (const char c : word) hash = (hash ^ static_cast<unsigned char>(c)) * 0x9e3779b97f4a7c15u;
    return static_cast<std::uint32_t>(hash >> 32);
}

// A pair that may be merged: the smallest token first (lowest rank), then the leftmost.
struct Candidate {
    std::int32_t merged;
    std::int32_t left, right;
    std::size_t at;

    bool operator>(const Candidate& other) const {
        return merged != other.merged ? merged > other.merged : at > other.at;
    }
};

}  // namespace

Vocabulary::Vocabulary(const std::int32_t* byte_ids, const std::int32_t* merges, std::int64_t count)
    : table_(kMergeSlots) {
    std::copy_n(byte_ids, 256, byte_ids_);
    for (std::int64_t rank = 0; rank < count; ++rank) {
        const std::uint32_t pair = pair_key(merges[2 * rank], merges[2 * rank + 1]);
        std::size_t slot = merge_slot(pair);
        while (table_[slot].pair != Merge().pair) slot = (slot + 1) % kMergeSlots;
        table_[slot] = {pair, kFirstMerged + static_cast<std::int32_t>(rank)};
    }
}

std::int32_t Vocabulary::merged(std::int32_t left, std::int32_t right) const {
    const std::uint32_t pair = pair_key(left, right);
    for (std::size_t slot = merge_slot(pair);; slot = (slot + 1) % kMergeSlots) {
        if (table_[slot].pair == pair) return table_[slot].merged;
        if (table_[slot].pair == Merge().pair) return kNoMerge;
    }
}

void Vocabulary::encode_word(std::string_view word, std::vector<std::int32_t>& ids) const {
    const std::size_t from = ids.size();
    for (const char c : word) ids.push_back(byte_ids_[static_cast<unsigned char>(c)]);
    ids.back() += 256;
    if (word.size() <= kShortWord)
        merge_short(ids, from);
    else
        merge_long(ids, from);
}

void Vocabulary::merge_short(std::vector<std::int32_t>& ids, std::size_t from) const {
    std::int32_t* tokens = ids.data() + from;
    std::size_t size = ids.size() - from;
    std::int32_t next[kShortWord];  // token that tokens[i] and tokens[i + 1] make
    for (std::size_t i = 0; i + 1 < size; ++i) next[i] = merged(tokens[i], tokens[i + 1]);
    while (size > 1) {
        const std::size_t at = std::min_element(next, next + size - 1) - next;
        if (next[at] == kNoMerge) break;
        tokens[at] = next[at];
        std::copy(tokens + at + 2, tokens + size, tokens + at + 1);
        --size;
        if (at + 1 < size) {
            std::copy(next + at + 2, next + size, next + at + 1);
            next[at] = merged(tokens[at], tokens[at + 1]);
        }
        if (at > 0) next[at - 1] = merged(tokens[at - 1], tokens[at]);
    }
    ids.resize(from + size);
}

// No two merges make the same token, and the parts of a merge are older than it, so taking pairs in
// (rank, position) order from a heap does what merging all occurrences round by round does.
void Vocabulary::merge_long(std::vector<std::int32_t>& ids, std::size_t from) const {
    std::vector<std::int32_t> tokens(ids.begin() + from, ids.end());
    const std::size_t size = tokens.size();
    std::vector<std::size_t> after(size), before(size);
    std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> heap;
    const auto push = [&](std::size_t at) {
        if (after[at] >= size) return;
        const std::int32_t token = merged(tokens[at], tokens[after[at]]);
        if (token != kNoMerge) heap.push({token, tokens[at], tokens[after[at]], at});
    };
    for (std::size_t i = 0; i < size; ++i) {
        after[i] = i + 1;
        before[i] = i - 1;
    }
    for (std::size_t i = 0; i < size; ++i) push(i);
    while (!heap.empty()) {
        const Candidate best = heap.top();
        heap.pop();
        const std::size_t right = after[best.at];
        if (tokens[best.at] != best.left || right >= size || tokens[right] != best.right) continue;
        tokens[best.at] = best.merged;
        tokens[right] = -1;
        after[best.at] = after[right];
        if (after[right] < size) before[after[right]] = best.at;
        if (best.at > 0) push(before[best.at]);
        push(best.at);
    }
    ids.resize(from);
    std::copy_if(tokens.begin(), tokens.end(), std::back_inserter(ids),
                 [](std::int32_t token) { return token >= 0; });
}

WordCache::WordCache() : slots_(kCacheSlots) {}

void WordCache::append(std::string_view word, const Vocabulary& vocabulary,
                       std::vector<std::int32_t>& ids) {
    if (word.size() > kCachedBytes) return vocabulary.encode_word(word, ids);
    const std::uint32_t hash = hash_of(word);
    std::size_t slot = hash % kCacheSlots;
    for (; slots_[slot].key_size != 0; slot = (slot + 1) % kCacheSlots) {
        const Slot& known = slots_[slot];
        if (known.hash == hash &&
            word == std::string_view(keys_).substr(known.key, known.key_size)) {
            ids.insert(ids.end(), ids_.begin() + known.ids,
                       ids_.begin() + known.ids + known.ids_size);
            return;
        }
    }
    const std::size_t from = ids.size();
    vocabulary.encode_word(word, ids);
    if (words_ == static_cast<std::int64_t>(kCachedWords)) {
        *this = WordCache();
        slot = hash % kCacheSlots;
    }
    Slot& added = slots_[slot];
    added.hash = hash;
    added.key = static_cast<std::uint32_t>(keys_.size());
    added.key_size = static_cast<std::uint16_t>(word.size());
    added.ids = static_cast<std::uint32_t>(ids_.size());
    added.ids_size = static_cast<std::uint16_t>(ids.size() - from);
    keys_.append(word);
    ids_.insert(ids_.end(), ids.begin() + from, ids.end());
    ++words_;
}

}  // namespace clipfast
