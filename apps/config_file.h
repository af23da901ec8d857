#pragma once
// Options from a TOML file.

#include <CLI/CLI.hpp>
#include <filesystem>

namespace rondo::apps {

/// Gives `command` the options that the file has under their long names ("ctx-size = 4096") and that the
/// command line did not give. Switches are true or false; options with several values are arrays. IoError
/// where the file cannot be read or is no TOML, ArgumentError naming a key that is no option (with the
/// nearest one that is) or a value that does not fit it.
void apply_config_file(CLI::App& command, const std::filesystem::path& file);

/// The long names of a command's options, without dashes.
std::vector<std::string> option_names(const CLI::App& command);

}  // namespace rondo::apps
