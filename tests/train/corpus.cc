#include "rondo/train/corpus.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <set>

#include "rondo/core/error.h"
#include "rondo/text/byte_tokenizer.h"
#include "tests/support/temporary_folder.h"

namespace rondo {
namespace {

using test::TemporaryFolder;
using test::write_text;
using Ids = std::vector<std::int32_t>;

constexpr std::int32_t kBos = ByteTokenizer::kBos;

Ids read(const Corpus& corpus, std::int64_t first, std::int64_t count) {
  Ids ids(static_cast<std::size_t>(count), -1);
  corpus.read(first, ids);
  return ids;
}

TEST(Corpus, ReadsAcrossDocumentsFoldersAndEmptyFiles) {
  TemporaryFolder folder;
  std::filesystem::create_directories(folder / "b/inner");
  write_text(folder / "b/inner/z", "de");
  write_text(folder / "b/a", "c");
  write_text(folder / "b/empty", "");
  write_text(folder / "single", std::string("a\0\xff", 3));
  const Corpus corpus = Corpus::open({folder / "single", folder / "b"});
  EXPECT_EQ(corpus.documents(), 3);
  EXPECT_EQ(corpus.bytes(), 6);
  ASSERT_EQ(corpus.tokens(), 9);
  const Ids all{kBos, 'a', 0, 255, kBos, 'c', kBos, 'd', 'e'};
  for (std::int64_t first = 0; first <= 9; ++first)
    for (std::int64_t count = 0; first + count <= 9; ++count)
      EXPECT_EQ(read(corpus, first, count), Ids(all.begin() + first, all.begin() + first + count))
          << first << " " << count;
}

TEST(Corpus, DocumentStartsAreCountedFromTheFirstToken) {
  TemporaryFolder folder;
  write_text(folder / "1", "aaa");  // tokens 0 ... 3
  write_text(folder / "2", "b");    // 4, 5
  write_text(folder / "3", "cc");   // 6 ... 8
  const Corpus corpus = Corpus::open({folder.path()});
  using Starts = std::vector<std::int64_t>;
  EXPECT_EQ(corpus.document_starts(0, 9), (Starts{0, 4, 6}));
  EXPECT_EQ(corpus.document_starts(4, 2), (Starts{0}));
  EXPECT_EQ(corpus.document_starts(5, 4), (Starts{0, 1}));
  EXPECT_EQ(corpus.document_starts(3, 1), (Starts{0}));
  EXPECT_EQ(corpus.document_starts(3, 2), (Starts{0, 1}));
}

TEST(Corpus, SplitsByFileNamesAlone) {
  TemporaryFolder folder;
  for (int n = 0; n < 400; ++n) write_text(folder / ("file" + std::to_string(n)), std::to_string(n));
  const Corpus corpus = Corpus::open({folder.path()});
  const Corpus::Split split = corpus.split(0.25);
  EXPECT_EQ(split.train.documents() + split.held_out.documents(), 400);
  EXPECT_NEAR(static_cast<double>(split.held_out.documents()), 100, 4 * std::sqrt(400 * 0.25 * 0.75));
  std::multiset<std::string> seen;
  const auto note = [&](std::span<const std::byte> bytes) {
    seen.insert(std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
  };
  split.train.for_each_document(note);
  split.held_out.for_each_document(note);
  EXPECT_EQ(seen.size(), 400u);
  EXPECT_EQ(std::set(seen.begin(), seen.end()).size(), 400u);
  // Another content under the same names: the same choice.
  for (int n = 0; n < 400; ++n) write_text(folder / ("file" + std::to_string(n)), "x");
  EXPECT_EQ(Corpus::open({folder.path()}).split(0.25).held_out.documents(), split.held_out.documents());
}

TEST(Corpus, HoldsOutTheTailOfTheLongestOfFewFiles) {
  TemporaryFolder folder;
  write_text(folder / "long", "0123456789");
  const Corpus::Split split = Corpus::open({folder.path()}).split(0.2);
  EXPECT_EQ(read(split.train, 0, 9), (Ids{kBos, '0', '1', '2', '3', '4', '5', '6', '7'}));
  EXPECT_EQ(read(split.held_out, 0, 3), (Ids{kBos, '8', '9'}));
  for (const double fraction : {1e-9, 1 - 1e-9}) {  // neither part is ever empty
    const Corpus::Split extreme = Corpus::open({folder.path()}).split(fraction);
    EXPECT_GE(extreme.train.bytes(), 1);
    EXPECT_GE(extreme.held_out.bytes(), 1);
    EXPECT_EQ(extreme.train.bytes() + extreme.held_out.bytes(), 10);
  }
}

TEST(Corpus, FingerprintTellsNamesSizesAndParts) {
  TemporaryFolder folder;
  write_text(folder / "a", "123");
  write_text(folder / "b", "4567");
  const Corpus both = Corpus::open({folder.path()});
  std::set<std::uint64_t> prints{both.fingerprint(), Corpus::open({folder / "a"}).fingerprint(),
                                 Corpus::open({folder / "b", folder / "a"}).fingerprint(),
                                 both.split(0.3).train.fingerprint(), both.split(0.3).held_out.fingerprint()};
  EXPECT_EQ(prints.size(), 5u);
  EXPECT_EQ(Corpus::open({folder.path()}).fingerprint(), both.fingerprint());
  write_text(folder / "b", "45678");
  EXPECT_EQ(prints.count(Corpus::open({folder.path()}).fingerprint()), 0u);
}

TEST(Corpus, NamesWhatIsMissing) {
  TemporaryFolder folder;
  RONDO_EXPECT_ERROR(IoError, Corpus::open({folder / "nowhere.txt"}), "nowhere.txt");
  RONDO_EXPECT_ERROR(ArgumentError, Corpus::open({folder.path()}), folder.path().string());
  write_text(folder / "empty", "");
  RONDO_EXPECT_ERROR(ArgumentError, Corpus::open({folder / "empty"}), "[corpus] expected text", "empty");
  RONDO_EXPECT_ERROR(ArgumentError, Corpus::open({}), "[corpus]");
  write_text(folder / "one", "x");
  const Corpus one = Corpus::open({folder / "one"});
  RONDO_EXPECT_ERROR(ArgumentError, one.split(0.5), "at least 2 bytes", "got 1");
  for (const double fraction : {0.0, 1.0, -0.1, 1.5, std::nan("")})
    RONDO_EXPECT_ERROR(ArgumentError, one.split(fraction), "held-out share between 0 and 1");
}

std::vector<std::int64_t> epoch(const SequenceOrder& order, std::int64_t number) {
  std::vector<std::int64_t> found;
  for (std::int64_t n = 0; n < order.sequences(); ++n)
    found.push_back(order.at(number * order.sequences() + n));
  return found;
}

TEST(SequenceOrder, EveryEpochIsAPermutationOfItsOwn) {
  for (const std::int64_t sequences : {1, 2, 3, 4, 5, 16, 17, 255, 1000}) {
    const SequenceOrder order(sequences, 3);
    for (std::int64_t number : {0, 1, 7}) {
      std::vector<std::int64_t> sorted = epoch(order, number), all(sorted.size());
      std::sort(sorted.begin(), sorted.end());
      std::iota(all.begin(), all.end(), 0);
      EXPECT_EQ(sorted, all) << sequences;
    }
  }
  const SequenceOrder order(1000, 3);
  EXPECT_NE(epoch(order, 0), epoch(order, 1));
  EXPECT_NE(epoch(order, 0), epoch(SequenceOrder(1000, 4), 0));
  EXPECT_EQ(epoch(order, 5), epoch(SequenceOrder(1000, 3), 5));
}

TEST(SequenceOrder, LooksShuffled) {
  // Neighbours in a random permutation of n lie n / 3 apart on average, with a deviation of about n / (4.2
  // sqrt(n)).
  const std::int64_t n = 4000;
  const std::vector<std::int64_t> order = epoch(SequenceOrder(n, 1), 0);
  double apart = 0;
  for (std::size_t i = 1; i < order.size(); ++i)
    apart += std::abs(static_cast<double>(order[i] - order[i - 1]));
  EXPECT_NEAR(apart / static_cast<double>(n - 1), static_cast<double>(n) / 3,
              5 * static_cast<double>(n) / 4.2 / 63);
}

TEST(SequenceOrder, NeedsNoTable) {
  // A table of this many sequences, or a walk over them, would not end.
  const SequenceOrder order(std::int64_t{1} << 61, 9);
  std::set<std::int64_t> seen;
  for (std::int64_t n = 0; n < 100; ++n) {
    const std::int64_t sequence = order.at(n * 1'000'003);
    EXPECT_GE(sequence, 0);
    EXPECT_LT(sequence, order.sequences());
    seen.insert(sequence);
  }
  EXPECT_EQ(seen.size(), 100u);
  RONDO_EXPECT_ERROR(ArgumentError, SequenceOrder(0, 1), "at least one sequence");
}

TEST(Bigrams, EqualADirectCount) {
  TemporaryFolder folder;
  write_text(folder / "train1", "abab");
  write_text(folder / "train2", "bb");
  write_text(folder / "held1", "ab");
  write_text(folder / "held2", "c");
  const Corpus train = Corpus::open({folder / "train1", folder / "train2"});
  const Corpus held_out = Corpus::open({folder / "held1", folder / "held2"});
  std::map<std::pair<int, int>, int> pairs;
  std::map<int, int> totals;
  for (const std::string text : {"abab", "bb"}) {
    int before = kBos;
    for (const char c : text) ++pairs[{before, c}], ++totals[before], before = c;
  }
  double bits = 0;
  for (const std::string text : {"ab", "c"}) {
    int before = kBos;
    for (const char c : text) {
      bits -= std::log2((pairs[{before, c}] + 1.0) / (totals[before] + 256.0));
      before = c;
    }
  }
  EXPECT_NEAR(bigram_bits_per_byte(train, held_out), bits / 3, 1e-12);
}

}  // namespace
}  // namespace rondo
