// The reference and the kernels against operator cases of the ONNX conformance suite.

#include "tests/reference/onnx_ops.h"

#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <set>

#include "rondo/core/context.h"
#include "rondo/kernels/cpu/tier.h"
#include "tests/support/data.h"

namespace rondo::test {
namespace {

const std::set<std::string> kOurOperators{"Attention", "RotaryEmbedding", "RMSNormalization", "SwiGLU"};

// The expected values are NumPy's in the arrays' own precision (unit roundoff u): sums over at most 60
// products, then exp, tanh and a division, each rounded. Errors of the terms mostly cancel: the
// double-precision reference is within 2.5 u of them. The kernels round as often on their side; a wrong mask,
// scale or pairing shows at 1e-2.
constexpr double kReferenceUnits = 4, kKernelUnits = 8;

double tolerance(const NpyArray& expected, double value, double units) {
  const double unit = expected.dtype == "float16" ? 0x1p-11 : 0x1p-24;
  return units * unit * std::max(1.0, std::abs(value));
}

// Empty when every output of the case is there and equal; otherwise the first difference.
std::string difference(const OnnxCase& c, const OnnxOutputs& outputs, double units) {
  for (const auto& [name, expected] : c.outputs) {
    const auto found = outputs.find(name);
    if (found == outputs.end()) return fmt::format("{}: no output {}", c.name, name);
    const std::vector<double>& got = found->second;
    if (got.size() != expected.values.size())
      return fmt::format("{}: expected {} elements of {}, got {}", c.name, expected.values.size(), name,
                         got.size());
    for (std::size_t i = 0; i < got.size(); ++i) {
      const double want = expected.values[i];
      if (got[i] != want && !(std::abs(got[i] - want) <= tolerance(expected, want, units)))
        return fmt::format("{}: expected {}[{}] = {}, got {}", c.name, name, i, want, got[i]);
    }
  }
  return "";
}

// Read from the case alone, not from the adapter: no mask array, no output of scores, float32 throughout.
bool kernels_should_take(const OnnxCase& c) {
  if (c.has("attn_mask") || c.wants("qk_matmul_output")) return false;
  for (const auto& [name, array] : c.inputs)
    if (array.dtype == "float16") return false;
  return true;
}

class OnnxOps : public ::testing::Test {
 protected:
  void SetUp() override {
    RONDO_NEEDS_DATA("onnx_ops");
    cases_ = read_onnx_cases(data_dir() / "onnx_ops");
    ASSERT_FALSE(cases_.empty());
  }
  std::vector<OnnxCase> cases_;
  Context context_{ContextOptions{}};
};

// Every tier that this processor has and that was built.
std::vector<Isa> usable_tiers() {
  std::vector<Isa> tiers;
  for (const Isa isa : kEveryIsa) {
    if (isa > detected_isa()) continue;
    try {
      kernels::tier(isa);
      tiers.push_back(isa);
    } catch (const ArgumentError&) {  // left out of the build
    }
  }
  return tiers;
}

// Every case of our operators: by the kernels where a band expresses it, by the reference always.
TEST_F(OnnxOps, KernelsOrReferencePassEveryCaseOfOurOperators) {
  std::size_t by_kernels = 0, by_reference = 0, implied_by_kernels = 0, all = 0;
  std::vector<std::string> skipped;
  for (const OnnxCase& c : cases_) {
    if (!kOurOperators.contains(c.op)) {
      skipped.push_back(c.name);
      continue;
    }
    ++all;
    implied_by_kernels += kernels_should_take(c) ? 1 : 0;
    const std::string of_reference = difference(c, run_reference(c), kReferenceUnits);
    EXPECT_EQ(of_reference, "") << "reference";
    try {
      const std::string of_kernels = difference(c, run_kernels(context_.stream, c), kKernelUnits);
      EXPECT_EQ(of_kernels, "") << "kernels";
      EXPECT_TRUE(kernels_should_take(c)) << c.name << " was taken by the kernels";
      by_kernels += of_kernels.empty() ? 1 : 0;
    } catch (const ArgumentError& refusal) {
      EXPECT_FALSE(kernels_should_take(c)) << c.name << ": " << refusal.what();
      EXPECT_TRUE(std::string(refusal.what()).find("] expected ") != std::string::npos) << refusal.what();
      by_reference += of_reference.empty() ? 1 : 0;
    }
  }
  fmt::print("fast kernels passed {} cases, reference passed {} more, {} skipped: {}\n", by_kernels,
             by_reference, skipped.size(), fmt::join(skipped, " "));
  EXPECT_EQ(by_kernels, implied_by_kernels);
  EXPECT_EQ(by_kernels + by_reference, all);
}

// Softmax, losses and Swish, which Rondo has as parts of other operations.
TEST_F(OnnxOps, SoftmaxAndLossesPassWhereRondoHasThem) {
  std::size_t by_kernels = 0, by_reference = 0, refused = 0, others = 0;
  for (const OnnxCase& c : cases_) {
    if (kOurOperators.contains(c.op)) continue;
    ++others;
    try {
      EXPECT_EQ(difference(c, run_reference(c), kReferenceUnits), "") << "reference";
      ++by_reference;
      EXPECT_EQ(difference(c, run_kernels(context_.stream, c), kKernelUnits), "") << "kernels";
      ++by_kernels;
    } catch (const ArgumentError& refusal) {
      EXPECT_TRUE(std::string(refusal.what()).find("] expected ") != std::string::npos) << refusal.what();
      ++refused;
    }
  }
  fmt::print("{} other cases: reference passed {}, of them kernels {}\n", others, by_reference, by_kernels);
  EXPECT_EQ(refused + by_kernels, others);
}

TEST_F(OnnxOps, KernelsOfEveryTierPassTheirCases) {
  for (const Isa isa : usable_tiers()) {
    ContextOptions options;
    options.isa = isa, options.threads = 2;
    Context context(options);
    for (const OnnxCase& c : cases_) {
      if (!kOurOperators.contains(c.op) || !kernels_should_take(c)) continue;
      EXPECT_EQ(difference(c, run_kernels(context.stream, c), kKernelUnits), "") << name_of(isa);
    }
  }
}

TEST_F(OnnxOps, RefusalsNameWhatIsNotTaken) {
  std::set<std::string> reasons;
  for (const OnnxCase& c : cases_) {
    if (c.op != "Attention" || kernels_should_take(c)) continue;
    try {
      run_kernels(context_.stream, c);
    } catch (const ArgumentError& refusal) {
      reasons.insert(refusal.what());
    }
  }
  const auto any = [&](const char* word) {
    return std::any_of(reasons.begin(), reasons.end(), [&](const auto& r) { return r.find(word) != r.npos; });
  };
  EXPECT_TRUE(any("[attention]"));
  EXPECT_TRUE(any("attn_mask"));
  EXPECT_TRUE(any("qk_matmul_output"));
  EXPECT_TRUE(any("float16"));
}

}  // namespace
}  // namespace rondo::test
