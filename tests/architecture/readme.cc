// The README shows programs that are built and files that exist.

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <regex>
#include <sstream>
#include <string>
#include <vector>

namespace {

namespace fs = std::filesystem;

std::string read(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file.good()) << path;
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

const fs::path kTop = RONDO_SOURCE_DIR;

TEST(Readme, QuotesTheExampleThatTheInstallTestBuilds) {
  const std::string example = read(kTop / "tests" / "install" / "consumer" / "main.cc");
  EXPECT_NE(read(kTop / "README.md").find("```cpp\n" + example + "```"), std::string::npos)
      << "README.md and tests/install/consumer/main.cc differ";
}

TEST(Docs, LinkToFilesThatExist) {
  std::vector<fs::path> pages{kTop / "README.md"};
  for (const auto& entry : fs::directory_iterator(kTop / "docs"))
    if (entry.path().extension() == ".md") pages.push_back(entry.path());
  ASSERT_GE(pages.size(), 6u);
  const std::regex link(R"(\]\(([^)#: ]+)(#[^)]*)?\))");  // relative links: no scheme, no space (a lambda)
  int links = 0;
  for (const fs::path& page : pages) {
    const std::string text = read(page);
    for (std::sregex_iterator found(text.begin(), text.end(), link), end; found != end; ++found, ++links)
      EXPECT_TRUE(fs::exists(page.parent_path() / (*found)[1].str())) << page << " links to " << (*found)[1];
  }
  EXPECT_GE(links, 8);
}

}  // namespace
