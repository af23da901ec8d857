#include "rondo/model/forms.h"

#include "rondo/core/error.h"

namespace rondo {

const char* name_of(AttentionForm form) { return form == AttentionForm::vanilla ? "vanilla" : "blockwise"; }

AttentionForm parse_attention_form(std::string_view name) {
  for (const AttentionForm form : {AttentionForm::vanilla, AttentionForm::blockwise})
    if (name == name_of(form)) return form;
  argument_error("attention", "expected vanilla or blockwise, got '{}'", name);
}

const char* name_of(FeedForwardForm form) { return form == FeedForwardForm::whole ? "whole" : "blockwise"; }

FeedForwardForm parse_feed_forward_form(std::string_view name) {
  for (const FeedForwardForm form : {FeedForwardForm::whole, FeedForwardForm::blockwise})
    if (name == name_of(form)) return form;
  argument_error("feedforward", "expected whole or blockwise, got '{}'", name);
}

}  // namespace rondo
