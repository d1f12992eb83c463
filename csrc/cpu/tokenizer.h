// CLIP's byte-level BPE: texts to rows of token ids, start-of-text ... end-of-text.
//
// Splitting (printable ASCII, lower-cased here): <|startoftext|> | <|endoftext|> | 's 't 're 've 'm
// 'll 'd | letters+ | one digit | other+, where "other" is no space. Everything else about text
// (Unicode, entities, repairs) is done before. A word is merged lowest rank first, left to right.
//
// Bound by one cache lookup a word; merging costs O(n^2) up to 64 bytes and O(n log n) beyond.
// Source: Radford et al. 2021, section 2.4; Sennrich et al. 2016, arXiv:1508.07909.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace clipfast {

constexpr std::int32_t kStartOfText = 49406, kEndOfText = 49407;
constexpr char kWordSeparator = '\xff';  // in no UTF-8 text

// Merges over token ids, in rank order; merge r makes token 512 + r.
class Vocabulary {
  public:
    // byte_ids: 256 ids, the byte b at the end of a word being byte_ids[b] + 256.
    // merges: count pairs (left, right).
    Vocabulary(const std::int32_t* byte_ids, const std::int32_t* merges, std::int64_t count);

    // Appends the ids of a word (not empty).
    void encode_word(std::string_view word, std::vector<std::int32_t>& ids) const;

  private:
    struct Merge {
        std::uint32_t pair = 0xffffffffu;  // left << 16 | right
        std::int32_t merged = 0;
    };
    std::int32_t merged(std::int32_t left, std::int32_t right) const;  // or kNoMerge
    void merge_short(std::vector<std::int32_t>& ids, std::size_t from) const;
    void merge_long(std::vector<std::int32_t>& ids, std::size_t from) const;

    std::int32_t byte_ids_[256];
    std::vector<Merge> table_;
};

// Word -> ids, bounded: forgets everything when it is full.
class WordCache {
  public:
    WordCache();
    // Appends the ids of `word`, from memory or from `vocabulary`.
    void append(std::string_view word, const Vocabulary& vocabulary,
                std::vector<std::int32_t>& ids);

  private:
    struct Slot {
        std::uint32_t hash = 0, key = 0, ids = 0;
        std::uint16_t key_size = 0, ids_size = 0;  // key_size 0: empty
    };
    std::vector<Slot> slots_;
    std::string keys_;
    std::vector<std::int32_t> ids_;
    std::int64_t words_ = 0;
};

// One text: printable ASCII, or words that were split already, kWordSeparator between them.
struct TextView {
    std::string_view bytes;
    bool split;
};

// Rows one after another; row i is ids[offsets[i]] .. ids[offsets[i + 1] - 1].
struct TokenRows {
    std::vector<std::int32_t> ids;
    std::vector<std::int64_t> offsets;

    std::int64_t rows() const { return static_cast<std::int64_t>(offsets.size()) - 1; }
    std::int64_t length(std::int64_t row) const { return offsets[row + 1] - offsets[row]; }
    // Length of a row cut to `context` tokens and after its first end-of-text.
    std::int64_t packed_length(std::int64_t row, std::int64_t context) const;
    // out: (rows, context), zeros after each row; a longer row ends in end-of-text.
    void write_padded(std::int64_t context, std::int32_t* out) const;
    // ids: packed_length of every row together; offsets: (rows + 1,).
    void write_packed(std::int64_t context, std::int32_t* out_ids, std::int32_t* out_offsets) const;
};

// Whether cleaning is the identity but for whitespace and case: printable ASCII, tab and line ends,
// without '&'.
bool is_plain(std::string_view text);

TokenRows encode_texts(const std::vector<TextView>& texts, const Vocabulary& vocabulary,
                       WordCache& cache);

}  // namespace clipfast
