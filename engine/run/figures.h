/* A lane's figures from what its steps measured: the definitions of engine/attention/metrics.h
 * applied to answers. */
#ifndef ATTNSCOPE_ENGINE_RUN_FIGURES_H
#define ATTNSCOPE_ENGINE_RUN_FIGURES_H

#include "engine/run/event.h"
#include "engine/run/lane.h"

/* Fills out, whose strings and layers are the caller's to free with lane_metrics_free.  base is
 * lane 0 of the same question (may be l itself). */
void figures_of_lane(const struct lane *l, const struct lane *base, struct lane_metrics *out);

#endif
