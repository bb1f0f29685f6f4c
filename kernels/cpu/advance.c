/* Going on to the next token, within device memory, so that a recorded step can follow itself. */
#include <assert.h>

#include "kernels/cpu/cpu.h"

void cpu_advance(struct device *dev, struct step_state *step, struct step_state *before,
                 int32_t *token, const struct pick *chosen, struct pick *log, int n_log)
{
    assert(n_log > 0);
    if (cpu_failed(dev))
        return;
    *before = *step;
    *token = chosen->token;
    log[step->step % (uint32_t)n_log] = *chosen;
    step->n_tail++;
    step->step++;
}
