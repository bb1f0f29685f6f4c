/* `--assert`: comparisons of a report's figures, joined by &&, such as
 * "recall>=0.95 && jaccard>=0.9".  Every sparse lane of every question must satisfy all. */
#ifndef ATTNSCOPE_TUI_CLI_ASSERTION_H
#define ATTNSCOPE_TUI_CLI_ASSERTION_H

#include <stdbool.h>

#include "engine/base/error.h"
#include "engine/run/report.h"

/* True if text can be evaluated; err says what is wrong with it and lists the names. */
bool assertion_check(const char *text, struct error *err);
/* True if the report satisfies text; else err (EXIT_CODE_ASSERT) names the first comparison that
 * fails, with question, lane and figure. */
bool assertion_holds(const char *text, struct report *report, struct error *err);

#endif
