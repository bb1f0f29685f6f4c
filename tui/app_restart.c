/* When the GPU has failed for good: nothing can run in this process any more, the screen stays for
 * reading, and a new process goes on with the session. */
#include <stdlib.h>
#include <string.h>

#include "engine/base/memory.h"
#include "tui/app.h"

bool app_needs_restart(const struct app *app)
{
    return app->lost || app->state == RUN_ENGINE_ERROR;
}

void app_restart(struct app *app)
{
    app_log_action(app, "restart", NULL);
    app->restart = app->quit = true;
}

void app_device_lost(struct app *app, const char *error)
{
    static const char prefix[] = "the device failed: "; /* of the engine; said here already */
    if (app->lost)
        return; /* the other lanes end with the same */
    if (!strncmp(error, prefix, strlen(prefix)))
        error += strlen(prefix);
    struct buf text = {0};
    buf_printf(&text,
               "The GPU failed: %s. The screen is still good for reading and saving; R restarts "
               "the program on this session.",
               error);
    app->lost = buf_take(&text);
    app_unqueue(app);
    free(app->message); /* an older one must not hide this */
    app->message = NULL;
    if ((int)strlen(app->lost) > app->width - 4)
        popup_message(app, ROLE_ERROR, "Error", app->lost);
    app->dirty = true;
}

void app_after_device_lost(struct app *app, bool was_running)
{
    if (!app->lost || app->running >= 0)
        return;
    app->state = RUN_ENGINE_ERROR;
    /* Not after a load: it would fail the same way for ever. */
    bool saved = app->log && !session_log_problem(app->log);
    if (app->options.auto_restart && was_running && saved)
        app_restart(app);
}
