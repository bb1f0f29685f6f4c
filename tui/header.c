/* The first line (model, device, context, state) and the rule above the body. */
#include <stdio.h>
#include <string.h>

#include "tui/format.h"
#include "tui/panes.h"

static void write_progress(const struct progress *p, const char *word, struct buf *out)
{
    buf_append_str(out, word);
    if (p->total > 0)
        buf_printf(out, " %2d%%", (int)(100 * (double)p->done / (double)p->total));
    if (p->eta_s >= 0)
        buf_printf(out, " %s", format_seconds(p->eta_s).text);
}

void status_write(const struct app *app, struct buf *out)
{
    const struct progress *p = &app->shown.progress;
    switch (app->state) {
    case RUN_STARTING:
        buf_append_str(out, "starting");
        break;
    case RUN_NO_MODEL:
        buf_append_str(out, "no model");
        break;
    case RUN_LOADING:
        write_progress(p, "loading", out);
        break;
    case RUN_READY:
        buf_append_str(out, "ready");
        break;
    case RUN_RUNNING:
        write_progress(p, phase_name(p->phase), out);
        break;
    case RUN_STOPPING:
        buf_append_str(out, "stopping");
        break;
    case RUN_PARTIAL:
        buf_append_str(out, "partial");
        break;
    case RUN_DONE:
        buf_printf(out, "done %.1fs", app->run_wall_ms / 1000);
        break;
    case RUN_ENGINE_ERROR:
        buf_append_str(out, "ENGINE ERROR");
        break;
    }
}

static enum role status_role(const struct app *app)
{
    switch (app->state) {
    case RUN_DONE:
    case RUN_READY:
        return ROLE_OK;
    case RUN_NO_MODEL:
    case RUN_PARTIAL:
    case RUN_STOPPING:
        return ROLE_WARN;
    case RUN_ENGINE_ERROR:
        return ROLE_ERROR;
    default:
        return ROLE_TITLE;
    }
}

static void write_context(const struct app *app, struct buf *out)
{
    if (app->context_info.n_tokens > 0) {
        buf_printf(out, "ctx %s", format_count((uint64_t)app->context_info.n_tokens).text);
        if (app->has_model)
            buf_printf(out, "/%s", format_count((uint64_t)app->model.max_seq_len).text);
    } else if (app->context.n > 0) {
        buf_printf(out, "ctx %s", format_bytes((double)app->context.n).text);
    } else {
        buf_append_str(out, "no context");
    }
}

void header_draw(const struct app *app, struct grid *g, struct rect area)
{
    static const char *const spinner[] = {"|", "/", "-", "\\"};
    bool busy = app->state == RUN_LOADING || app->state == RUN_RUNNING ||
                app->state == RUN_STOPPING || app->state == RUN_STARTING;
    struct buf status = {0}, context = {0};
    buf_printf(&status, "%s ", busy ? spinner[app->shown.spinner & 3] : "●");
    status_write(app, &status);
    write_context(app, &context);

    int right = area.w - 1 - grid_text_width(g, status.data);
    struct rect left = {area.x, area.y, right - 1, area.h};
    int x = grid_put(g, left, 1, 0, ROLE_TITLE, ATTR_BOLD, "attnscope");
    x = grid_put(g, left, x, 0, ROLE_TEXT, 0, "  ");
    const struct model_info *m = &app->model;
    if (app->has_model) {
        x = grid_put(g, left, x, 0, ROLE_TEXT, 0,
                     app->embedded ? "embedded model"
                     : m->name     ? m->name
                                   : "model");
        x = grid_printf(g, left, x, 0, ROLE_DIM, 0, " %s", m->dtype);
        if (area.w >= 120)
            x = grid_printf(g, left, x, 0, ROLE_DIM, 0, "  %dL×%dH/%dKV", m->n_layers, m->n_heads,
                            m->n_kv_heads);
        x = grid_printf(g, left, x, 0, ROLE_DIM, 0, "  %s", m->backend);
        /* Only the first words: `doctor` has the sentence. */
        if (area.w >= 120 && m->no_gpu)
            x = grid_printf(g, left, x, 0, ROLE_DIM, 0, " (no GPU: %.32s%s)", m->no_gpu,
                            strlen(m->no_gpu) > 32 ? "…" : "");
        if (area.w >= 160 && m->device)
            x = grid_printf(g, left, x, 0, ROLE_DIM, 0, " %s", m->device);
    } else if (app->model_path) {
        const char *slash = strrchr(app->model_path, '/');
        x = grid_put(g, left, x, 0, ROLE_DIM, 0,
                     app->embedded ? "embedded model"
                     : slash       ? slash + 1
                                   : app->model_path);
    } else {
        x = grid_put(g, left, x, 0, ROLE_DIM, 0, "compare dense and sparse attention");
    }
    grid_printf(g, left, x, 0, ROLE_TEXT, 0, "  %s", context.data);
    grid_put(g, area, right, 0, status_role(app), busy ? ATTR_BOLD : 0, status.data);
    buf_free(&status);
    buf_free(&context);
}

void tabs_draw(const struct app *app, struct grid *g, struct rect area)
{
    grid_hline(g, area, 0, ROLE_DIM);
    int x = 1;
    for (int i = 0; screens[i]; i++) {
        bool current = i == app->screen;
        x = grid_printf(g, area, x, 0, current ? ROLE_TITLE : ROLE_DIM, 0,
                        current ? "[%d %s]" : " %d %s ", i + 1, screens[i]->title);
    }
    const char *problem = app->log ? session_log_problem(app->log) : NULL;
    if (problem) {
        struct rect rest = {area.x + x + 1, area.y, area.w - x - 2, 1};
        grid_printf(g, rest, 0, 0, ROLE_ERROR, 0, " %s ", problem);
        return;
    }
    struct buf notes = {0};
    bool stale = false;
    if (app_result(app, app->current_question, app_figures_lane(app), &stale, NULL) && stale)
        buf_append_str(&notes, " ~ of another stack or context: r runs ·");
    if (app->n_questions > 0)
        buf_printf(&notes, " Q%d/%d", app->current_question + 1, app->n_questions);
    buf_printf(&notes, " %s", app->forced ? "forced" : "free run");
    if (app->live)
        buf_append_str(&notes, " live");
    if (app->setup == SETUP_A)
        buf_append_str(&notes, " setup A");
    if (app->zoomed)
        buf_append_str(&notes, " zoomed");
    if (app->shown.elapsed_s > 0)
        buf_printf(&notes, " %s", format_clock(app->shown.elapsed_s).text);
    buf_append_char(&notes, ' ');
    grid_put_right(g, area, area.w - 1, 0, ROLE_DIM, 0, notes.data);
    buf_free(&notes);
}

void pane_title_draw(const struct app *app, struct grid *g, struct rect area, enum pane pane,
                     const char *title, const char *hint)
{
    bool focused = app->focus == pane && !app->insert;
    enum role role = focused ? ROLE_TITLE : ROLE_DIM;
    grid_hline(g, area, 0, role);
    if (focused && (app->mono || app->ascii))
        grid_put(g, area, 0, 0, role, 0, "▸");
    grid_printf(g, area, 1, 0, role, focused ? ATTR_BOLD : 0, " %s ", title);
    if (hint && *hint)
        grid_put_right(g, area, area.w - 1, 0, ROLE_DIM, 0, hint);
}
