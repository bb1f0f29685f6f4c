/* The names of one block: a lookup goes outwards, an assignment stays.
 *
 * Names are looked up when they are reached.  Jinja resolves them when it compiles, which differs
 * in one case: a variable that the template also sets further down, outside of any `if`, is
 * undefined there to the loops and blocks above the `set`. */
#ifndef ATTNSCOPE_ENGINE_TEXT_JINJA_SCOPE_H
#define ATTNSCOPE_ENGINE_TEXT_JINJA_SCOPE_H

#include "engine/text/jinja_value.h"

struct jinja_binding {
    const struct jinja_string *name;
    struct jinja_value value;
    struct jinja_binding *next;
};

struct jinja_scope {
    const struct jinja_scope *outer;
    struct jinja_binding *bindings;
};

/* Lives as long as the run: a macro may keep it. */
struct jinja_scope *jinja_scope_new(struct jinja_run *run, const struct jinja_scope *outer);
void jinja_scope_set(struct jinja_run *run, struct jinja_scope *scope,
                     const struct jinja_string *name, struct jinja_value value);
const struct jinja_value *jinja_scope_find(struct jinja_run *run, const struct jinja_scope *scope,
                                           const struct jinja_string *name);

#endif
