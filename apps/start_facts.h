#pragma once
// What processes that run one command together compare before they begin.

#include <CLI/CLI.hpp>
#include <filesystem>
#include <string>
#include <vector>

#include "rondo/comm/agreement.h"
#include "rondo/io/checksum.h"
#include "rondo/train/corpus.h"

namespace rondo::apps {

/// The tier of the kernels, and every option of the command with its value, but for those that may differ:
/// threads, limits on memory, and files that process 0 alone writes.
std::vector<Fact> option_facts(const CLI::App& command, const RingOptions& ring);

/// Names, sizes and samples of the contents of a folder's files, below it too.
Fact folder_fact(const std::string& name, const std::filesystem::path& folder);
/// Of names and contents of the files in a model's folder that make the model: not of folders in it.
FileStamp files_stamp(const std::filesystem::path& folder);
/// Names and sizes of the files, and samples of the text.
Fact text_fact(const std::string& name, const Corpus& corpus);
/// A value of any length, told by its hash.
Fact hash_fact(const std::string& name, std::string_view value);

}  // namespace rondo::apps
