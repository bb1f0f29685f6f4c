/* The filters: one table of descriptors, their functions in two files. */
#ifndef ATTNSCOPE_ENGINE_TEXT_JINJA_FILTERS_H
#define ATTNSCOPE_ENGINE_TEXT_JINJA_FILTERS_H

#include "engine/text/jinja_run.h"

struct jinja_filter {
    const char *name;
    /* One of the two: with arguments bound to the signature, or as they were given. */
    struct jinja_value (*apply)(struct jinja_run *run, struct jinja_value input,
                                const struct jinja_value *values);
    struct jinja_value (*apply_raw)(struct jinja_run *run, struct jinja_value input,
                                    const struct jinja_args *args);
    struct jinja_signature signature;
    bool lazy; /* gives a generator: applied when that is walked */
};

/* One of values, or a fallback if it was not given. */
bool jinja_option_truth(struct jinja_value value, bool fallback);
int64_t jinja_option_int(struct jinja_run *run, struct jinja_value value, int64_t fallback,
                         const char *what);

/* jinja_filters_sequence.c */
struct jinja_value jinja_filter_list(struct jinja_run *run, struct jinja_value input,
                                     const struct jinja_value *values);
struct jinja_value jinja_filter_join(struct jinja_run *run, struct jinja_value input,
                                     const struct jinja_value *values);
struct jinja_value jinja_filter_first(struct jinja_run *run, struct jinja_value input,
                                      const struct jinja_value *values);
struct jinja_value jinja_filter_last(struct jinja_run *run, struct jinja_value input,
                                     const struct jinja_value *values);
struct jinja_value jinja_filter_reverse(struct jinja_run *run, struct jinja_value input,
                                        const struct jinja_value *values);
struct jinja_value jinja_filter_sort(struct jinja_run *run, struct jinja_value input,
                                     const struct jinja_value *values);
struct jinja_value jinja_filter_dictsort(struct jinja_run *run, struct jinja_value input,
                                         const struct jinja_value *values);
struct jinja_value jinja_filter_unique(struct jinja_run *run, struct jinja_value input,
                                       const struct jinja_value *values);
struct jinja_value jinja_filter_items(struct jinja_run *run, struct jinja_value input,
                                      const struct jinja_value *values);
struct jinja_value jinja_filter_min(struct jinja_run *run, struct jinja_value input,
                                    const struct jinja_value *values);
struct jinja_value jinja_filter_max(struct jinja_run *run, struct jinja_value input,
                                    const struct jinja_value *values);
struct jinja_value jinja_filter_sum(struct jinja_run *run, struct jinja_value input,
                                    const struct jinja_value *values);
struct jinja_value jinja_filter_map(struct jinja_run *run, struct jinja_value input,
                                    const struct jinja_args *args);
struct jinja_value jinja_filter_select(struct jinja_run *run, struct jinja_value input,
                                       const struct jinja_args *args);
struct jinja_value jinja_filter_reject(struct jinja_run *run, struct jinja_value input,
                                       const struct jinja_args *args);
struct jinja_value jinja_filter_selectattr(struct jinja_run *run, struct jinja_value input,
                                           const struct jinja_args *args);
struct jinja_value jinja_filter_rejectattr(struct jinja_run *run, struct jinja_value input,
                                           const struct jinja_args *args);

/* jinja_number.c: int(), float() and round(). */
struct jinja_value jinja_filter_int(struct jinja_run *run, struct jinja_value input,
                                    const struct jinja_value *values);
struct jinja_value jinja_filter_float(struct jinja_run *run, struct jinja_value input,
                                      const struct jinja_value *values);
struct jinja_value jinja_filter_round(struct jinja_run *run, struct jinja_value input,
                                      const struct jinja_value *values);
struct jinja_value jinja_filter_abs(struct jinja_run *run, struct jinja_value input,
                                    const struct jinja_value *values);

#endif
