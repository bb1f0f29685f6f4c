/* What comes ready-made: stacks, sample contexts with questions, and the embedded model.
 *
 * They lie in one folder: $ATTNSCOPE_PRESETS, else where the program was installed, else the
 * source tree it was built from; the first that exists.
 *   stacks/NAME.json    {"name", "title", "source", "order", "stack": [...]}
 *   samples/NAME.json   {"name", "title", "order", "context" or "context_file", "questions": [...]}
 *   model/              a model folder
 * Any thread. */
#ifndef ATTNSCOPE_PRESETS_PRESET_H
#define ATTNSCOPE_PRESETS_PRESET_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/attention/stack.h"
#include "engine/base/error.h"

/* The folder; the caller frees.  NULL if there is none, err says where it was looked for. */
char *preset_folder(struct error *err);

/* The embedded model's folder; the caller frees.  NULL if there is none. */
char *preset_model_folder(void);

/* What --stack takes: a preset's name, a .json file's path, inline JSON, or the short form.  A
 * preset's name comes first, so that `random` is the preset and `random:0.1` the masker. */
bool preset_stack(struct stack *out, const char *spec, struct error *err);

/* One line of a list of presets. */
struct preset_entry {
    char *name;  /* owned by the list, all three */
    char *title; /* "" if it has none */
    char *source;
};
struct preset_list {
    struct preset_entry *entries; /* [n] in the order to show, owned */
    size_t n;
};

/* Files that cannot be read are left out.  Freed with preset_list_free, also when empty. */
struct preset_list preset_list_stacks(void);
struct preset_list preset_list_samples(void);
void preset_list_free(struct preset_list *list);

/* A context with questions about it. */
struct sample {
    char *name, *title; /* owned, as is all below */
    char *context;      /* [n_context], NUL-terminated */
    size_t n_context;   /* bytes */
    char **questions;   /* [n_questions] */
    size_t n_questions;
};

/* By a preset's name, or the path of a .json file.  On success freed with sample_free. */
bool preset_sample(struct sample *out, const char *name, struct error *err);
void sample_free(struct sample *s);

#endif
