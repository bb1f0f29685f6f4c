/* "Did you mean ...?": the known name nearest to a mistyped one. */
#ifndef ATTNSCOPE_ENGINE_ATTENTION_NEAREST_H
#define ATTNSCOPE_ENGINE_ATTENTION_NEAREST_H

/* Start with {.given = name}, offer every known name, then read best. */
struct nearest {
    const char *given;
    const char *best; /* NULL while no offered name is near enough to be meant; borrowed */
    int distance;     /* edits between given and best */
};

void nearest_offer(struct nearest *n, const char *name);

#endif
