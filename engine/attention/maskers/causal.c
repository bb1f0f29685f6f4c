/* The causal masker of the reference, which does nothing there either: every masker keeps to the
 * keys that a row can see anyway.  It exists so that the reference's stacks can be read. */
#include "engine/attention/maskers/maskers.h"

static const char *const aliases[] = {"CausalMaskerConfig", "CausalConfig", NULL};

const struct masker masker_causal = {
    .name = "causal",
    .reference_type = "FixedMaskerConfig",
    .reference_aliases = aliases,
    .title = "Causal (implicit)",
    .summary = "Adds nothing: no masker ever keeps a key that the row cannot see.",
    .source = "reference project",
    .cost = "reads nothing",
    .kind = MASKER_FIXED,
};
