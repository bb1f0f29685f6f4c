/* The context and the questions. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/file.h"
#include "engine/base/memory.h"
#include "presets/preset.h"
#include "tui/app.h"
#include "tui/format.h"

enum { MAX_CONTEXT_BYTES = 256 << 20 };

static void free_context(struct context *c)
{
    free(c->text);
    free(c->origin);
    *c = (struct context){0};
}

static void context_changed(struct app *app)
{
    app->context_version++;
    app->context_info = (struct context_info){0};
    if (app->log) {
        session_log_context(app->log, app->context.text ? app->context.text : "", app->context.n,
                            app->context.origin ? app->context.origin : "");
        app->log_waiting = true;
    }
    app->dirty = true;
}

void app_set_context(struct app *app, char *text, size_t n, const char *origin)
{
    free_context(&app->previous_context);
    app->previous_context = app->context;
    app->context = (struct context){.text = text, .n = n, .origin = xstrdup(origin)};
    context_changed(app);
}

void app_swap_context(struct app *app)
{
    if (!app->previous_context.text) {
        app_message(app, ROLE_DIM, "there was no context before this one");
        return;
    }
    struct context now = app->context;
    app->context = app->previous_context;
    app->previous_context = now;
    context_changed(app);
    app_message(app, ROLE_OK, "context: %s again", app->context.origin);
}

bool app_load_context_file(struct app *app, const char *path)
{
    struct error err;
    struct buf text = {0};
    char *expanded = !strncmp(path, "~/", 2) ? path_join(path_home(), path + 2) : xstrdup(path);
    bool ok = file_read(&text, expanded, MAX_CONTEXT_BYTES, &err);
    if (ok) {
        size_t n = text.len;
        app_set_context(app, buf_take(&text), n, expanded);
        app_message(app, ROLE_OK, "context: %s, %s", expanded, format_bytes((double)n).text);
    } else {
        buf_free(&text);
        app_error(app, &err);
    }
    free(expanded);
    return ok;
}

bool app_load_sample(struct app *app, const char *name)
{
    struct error err;
    struct sample sample;
    if (!preset_sample(&sample, name, &err)) {
        app_error(app, &err);
        return false;
    }
    app_set_context(app, xmemdup0(sample.context, sample.n_context), sample.n_context, sample.name);
    while (app->n_questions > 0 && app_delete_question(app, app->n_questions - 1))
        ;
    for (size_t i = 0; i < sample.n_questions; i++)
        app_add_question(app, sample.questions[i]);
    app->current_question = 0;
    app_log_questions(app);
    sample_free(&sample);
    return true;
}

void app_log_questions(struct app *app)
{
    if (!app->log)
        return;
    char **texts = xcalloc((size_t)app->n_questions + 1, sizeof *texts);
    for (int i = 0; i < app->n_questions; i++)
        texts[i] = app->questions[i].text;
    session_log_questions(app->log, texts, app->n_questions, app->current_question);
    app->log_waiting = true;
    free(texts);
}

int app_add_question(struct app *app, const char *text)
{
    app->questions = array_grow(app->questions, &app->question_capacity,
                                (size_t)app->n_questions + 1, sizeof *app->questions);
    app->questions[app->n_questions] = (struct question){.text = xstrdup(text)};
    app->current_question = app->n_questions++;
    app->dirty = true;
    return app->current_question;
}

static void free_question(struct question *q)
{
    free(q->text);
    report_free(q->report);
    for (int i = 0; i < REQUEST_MAX_LANES; i++)
        token_diff_free(&q->diffs[i]);
}

bool app_delete_question(struct app *app, int i)
{
    if (i < 0 || i >= app->n_questions)
        return false;
    if (i == app->running) {
        app_message(app, ROLE_WARN, "question %d is being answered: Ctrl-C stops it first", i + 1);
        return false;
    }
    free_question(&app->questions[i]);
    memmove(app->questions + i, app->questions + i + 1,
            (size_t)(app->n_questions - i - 1) * sizeof *app->questions);
    app->n_questions--;
    if (app->running > i)
        app->running--;
    if (app->current_question > i || app->current_question >= app->n_questions)
        app->current_question--;
    if (app->current_question < 0)
        app->current_question = 0;
    app->dirty = true;
    return true;
}

void app_set_question(struct app *app, int i, const char *text)
{
    struct question *q = &app->questions[i];
    if (i == app->running || !strcmp(q->text, text))
        return;
    free_question(q);
    *q = (struct question){.text = xstrdup(text)};
    app->dirty = true;
}
