// Splitting and rows; merging is in bpe.cpp.

#include "cpu/tokenizer.h"

#include <algorithm>
#include <array>

namespace clipfast {
namespace {

enum class Kind : std::uint8_t { other, space, letter, digit };

constexpr std::array<Kind, 256> make_kinds() {
    std::array<Kind, 256> kinds{};
    for (int c = 'a'; c <= 'z'; ++c) kinds[c] = Kind::letter;
    for (int c = '0'; c <= '9'; ++c) kinds[c] = Kind::digit;
    for (int c : {' ', '\t', '\n', '\r'}) kinds[c] = Kind::space;
    return kinds;
}

constexpr std::array<Kind, 256> kKinds = make_kinds();
constexpr std::string_view kStartWord = "<|startoftext|>", kEndWord = "<|endoftext|>";
constexpr std::string_view kContractions[] = {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"};

Kind kind_of(char c) { return kKinds[static_cast<unsigned char>(c)]; }

bool starts_with(std::string_view text, std::string_view prefix) {
    return text.substr(0, prefix.size()) == prefix;
}

// Bytes of the word that `text`, which starts with no space, begins with.
std::size_t word_size(std::string_view text) {
    if (text[0] == '<')
        for (std::string_view special : {kStartWord, kEndWord})
            if (starts_with(text, special)) return special.size();
    if (text[0] == '\'')
        for (std::string_view contraction : kContractions)
            if (starts_with(text, contraction)) return contraction.size();
    const Kind kind = kind_of(text[0]);
    if (kind == Kind::digit) return 1;
    std::size_t size = 1;
    while (size < text.size() && kind_of(text[size]) == kind) ++size;
    return size;
}

class RowWriter {
  public:
    RowWriter(const Vocabulary& vocabulary, WordCache& cache, TokenRows& rows)
        : vocabulary_(vocabulary), cache_(cache), rows_(rows) {}

    void write(const TextView& text) {
        rows_.ids.push_back(kStartOfText);
        if (text.split)
            write_split(text.bytes);
        else
            write_plain(text.bytes);
        rows_.ids.push_back(kEndOfText);
        rows_.offsets.push_back(static_cast<std::int64_t>(rows_.ids.size()));
    }

  private:
    void write_word(std::string_view word) {
        if (word[0] == '<' && word == kStartWord) return rows_.ids.push_back(kStartOfText);
        if (word[0] == '<' && word == kEndWord) return rows_.ids.push_back(kEndOfText);
        cache_.append(word, vocabulary_, rows_.ids);
    }

    void write_plain(std::string_view text) {
        lower_.resize(text.size());
        for (std::size_t i = 0; i < text.size(); ++i) {
            const unsigned char c = static_cast<unsigned char>(text[i]);
            lower_[i] = static_cast<char>(c + (static_cast<unsigned char>(c - 'A') < 26 ? 32 : 0));
        }
        std::string_view rest = lower_;
        while (!rest.empty()) {
            if (kind_of(rest[0]) == Kind::space) {
                rest.remove_prefix(1);
                continue;
            }
            const std::size_t size = word_size(rest);
            write_word(rest.substr(0, size));
            rest.remove_prefix(size);
        }
    }

    void write_split(std::string_view words) {
        while (!words.empty()) {
            const std::size_t size = std::min(words.find(kWordSeparator), words.size());
            if (size > 0) write_word(words.substr(0, size));
            words.remove_prefix(std::min(size + 1, words.size()));
        }
    }

    const Vocabulary& vocabulary_;
    WordCache& cache_;
    TokenRows& rows_;
    std::string lower_;
};

}  // namespace

bool is_plain(std::string_view text) {
    bool plain = true;
    for (const char signed_c : text) {
        const unsigned char c = static_cast<unsigned char>(signed_c);
        const bool printable = static_cast<unsigned char>(c - ' ') <= '~' - ' ';
        plain &= (printable && c != '&') || c == '\t' || c == '\n' || c == '\r';
    }
    return plain;
}

TokenRows encode_texts(const std::vector<TextView>& texts, const Vocabulary& vocabulary,
                       WordCache& cache) {
    TokenRows rows;
    rows.offsets.reserve(texts.size() + 1);
    rows.offsets.push_back(0);
    RowWriter writer(vocabulary, cache, rows);
    for (const TextView& text : texts) writer.write(text);
    return rows;
}

std::int64_t TokenRows::packed_length(std::int64_t row, std::int64_t context) const {
    const std::int64_t longest = std::min(length(row), context);
    const auto begin = ids.begin() + offsets[row];
    const auto end = std::find(begin, begin + longest, kEndOfText);
    return std::min(end - begin + 1, longest);
}

void TokenRows::write_padded(std::int64_t context, std::int32_t* out) const {
    for (std::int64_t row = 0; row < rows(); ++row, out += context) {
        const std::int64_t kept = std::min(length(row), context);
        std::copy_n(ids.begin() + offsets[row], kept, out);
        if (kept < length(row)) out[kept - 1] = kEndOfText;
        std::fill(out + kept, out + context, 0);
    }
}

void TokenRows::write_packed(std::int64_t context, std::int32_t* out_ids,
                             std::int32_t* out_offsets) const {
    *out_offsets = 0;
    for (std::int64_t row = 0; row < rows(); ++row) {
        const std::int64_t kept = packed_length(row, context);
        std::copy_n(ids.begin() + offsets[row], kept, out_ids);
        out_ids[kept - 1] = kEndOfText;
        out_ids += kept;
        out_offsets[row + 1] = out_offsets[row] + static_cast<std::int32_t>(kept);
    }
}

}  // namespace clipfast
