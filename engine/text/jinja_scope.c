#include "engine/text/jinja_scope.h"

#include <string.h>

#include "engine/text/jinja_run.h"

struct jinja_scope *jinja_scope_new(struct jinja_run *run, const struct jinja_scope *outer)
{
    struct jinja_scope *scope = jinja_alloc(&run->arena, sizeof *scope);
    scope->outer = outer;
    return scope;
}

static struct jinja_binding *find_here(struct jinja_run *run, const struct jinja_scope *scope,
                                       const struct jinja_string *name)
{
    struct jinja_binding *binding = scope->bindings;
    size_t n_looked = 0;
    while (binding && (binding->name->len != name->len ||
                       memcmp(binding->name->data, name->data, name->len))) {
        binding = binding->next;
        n_looked++;
    }
    jinja_charge(run, n_looked / 16);
    return binding;
}

void jinja_scope_set(struct jinja_run *run, struct jinja_scope *scope,
                     const struct jinja_string *name, struct jinja_value value)
{
    struct jinja_binding *binding = find_here(run, scope, name);
    if (!binding) {
        binding = jinja_alloc(&run->arena, sizeof *binding);
        *binding = (struct jinja_binding){.name = name, .next = scope->bindings};
        scope->bindings = binding;
    }
    binding->value = value;
}

const struct jinja_value *jinja_scope_find(struct jinja_run *run, const struct jinja_scope *scope,
                                           const struct jinja_string *name)
{
    for (; scope; scope = scope->outer) {
        struct jinja_binding *binding = find_here(run, scope, name);
        if (binding)
            return &binding->value;
    }
    return NULL;
}
