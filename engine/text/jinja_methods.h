/* Methods of strings, dicts, sequences and loops: descriptors and the two tables. */
#ifndef ATTNSCOPE_ENGINE_TEXT_JINJA_METHODS_H
#define ATTNSCOPE_ENGINE_TEXT_JINJA_METHODS_H

#include "engine/text/jinja_run.h"

struct jinja_method_entry {
    const char *name;
    struct jinja_signature signature;
    /* One of the two; neither: Python has the method and this interpreter does not. */
    struct jinja_value (*call)(struct jinja_run *run, struct jinja_value object,
                               const struct jinja_value *values);
    struct jinja_value (*call_raw)(struct jinja_run *run, struct jinja_value object,
                                   const struct jinja_args *args);
};

/* jinja_string_methods.c; ends with a NULL name. */
extern const struct jinja_method_entry JINJA_STRING_METHODS[];

/* jinja_eval.c */
struct jinja_value jinja_loop_cycle(struct jinja_run *run, struct jinja_value loop,
                                    const struct jinja_args *args);
struct jinja_value jinja_loop_changed(struct jinja_run *run, struct jinja_value loop,
                                      const struct jinja_args *args);

#endif
