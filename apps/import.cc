// rondo import: models of other programs as Hugging Face folders.

#include <cstdio>
#include <memory>

#include "apps/commands.h"
#include "apps/model_source.h"
#include "rondo/train/import_llama2c.h"

namespace rondo::apps {

namespace {

struct Arguments {
  std::string model, tokenizer, out;
};

int import(const Arguments& arguments) {
  import_llama2c(arguments.model, arguments.tokenizer, arguments.out);
  const ModelSource source = open_model(arguments.out);
  std::fprintf(stderr, "wrote %s: %s\n", arguments.out.c_str(),
               describe(source.model.config(), source.model.table().parameters()).c_str());
  return 0;
}

}  // namespace

Run add_import_command(CLI::App& app) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* command =
      app.add_subcommand("import", "Turn a model of another program into a Hugging Face folder");
  command->require_subcommand(1);
  CLI::App* llama2c = command->add_subcommand("llama2c", "A version-0 model of llama2.c and its tokenizer");
  llama2c->add_option("MODEL", arguments->model, "The model, a .bin file")->required();
  llama2c->add_option("TOKENIZER", arguments->tokenizer, "Its tokenizer, a .bin file")->required();
  llama2c->add_option("OUT", arguments->out, "The folder to make; must not exist, or be empty")->required();
  return [arguments] { return import(*arguments); };
}

}  // namespace rondo::apps
