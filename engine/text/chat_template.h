/* Chat templates: a small, budgeted interpreter of the Jinja2 subset that model folders use, and
 * the choice of a template for a folder.
 *
 * Rendering is a pure function of its inputs: no file, environment, network, import or include.
 * Source of semantics: Jinja2 3.1, sandboxed, trim_blocks and lstrip_blocks on, as transformers
 * sets it up. */
#ifndef ATTNSCOPE_ENGINE_TEXT_CHAT_TEMPLATE_H
#define ATTNSCOPE_ENGINE_TEXT_CHAT_TEMPLATE_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/base/buf.h"
#include "engine/base/error.h"
#include "engine/base/json.h"

struct chat_template; /* compiled; immutable; any thread */

/* Compiles source [n bytes]; name is for messages ("tokenizer_config.json").  NULL on failure with
 * the line and the construct.  The caller frees it. */
struct chat_template *chat_template_compile(const char *source, size_t n, const char *name,
                                            struct error *err);
void chat_template_free(struct chat_template *t);

/* The folder's template: chat_template.jinja, else tokenizer_config.json's chat_template (string,
 * or list with "default").  *out is NULL, and the result true, if the folder has none (a base
 * model: completion mode). */
bool chat_template_open(struct chat_template **out, const char *folder, struct error *err);
/* Where it came from, for the screen: "chat_template.jinja", "tokenizer_config.json", ... */
const char *chat_template_source(const struct chat_template *t);

/* Renders with the given variables (an object: messages, add_generation_prompt, bos_token, ...),
 * appending to out.  now_unix_s feeds strftime_now (so that runs repeat).  Every budget (steps,
 * nesting, output, time) that runs out is an error of its own. */
bool chat_template_render(const struct chat_template *t, const struct json *variables,
                          long long now_unix_s, struct buf *out, struct error *err);

/* Renders one user message CONTEXT + separator + QUESTION with the generation prompt, split at
 * the borders:  prefix | context | separator | question | suffix.  Only prefix and suffix are the
 * template's own text (to be tokenised with special tokens on).  template may be NULL: prefix and
 * suffix are then empty.  special names bos/eos/unk/pad as the tokenizer has them (NULL if not).
 * enable_thinking is set false for templates that know it.  If the template changes the content
 * (trims it, splits it) the function fails and says so. */
struct chat_special_tokens {
    const char *bos, *eos, *unk, *pad;
};
bool chat_template_frame(const struct chat_template *t, const struct chat_special_tokens *special,
                         long long now_unix_s, struct buf *prefix, struct buf *suffix,
                         struct error *err);

#endif
