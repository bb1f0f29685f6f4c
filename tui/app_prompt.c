/* The prompt line: what is typed, and what happens when it is accepted. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/memory.h"
#include "engine/text/screen_text.h"
#include "presets/preset.h"
#include "tui/actions.h"
#include "tui/app.h"
#include "tui/keys.h"

/* Copies readline's line into the state, which is all that a frame reads. */
static void sync_line(struct app *app)
{
    free(app->line);
    free(app->matches);
    app->line = xstrdup(line_edit_text());
    app->line_cursor = line_edit_cursor();
    app->matches = line_edit_matches() ? xstrdup(line_edit_matches()) : NULL;
    app->dirty = true;
}

static struct preset_list completed_stacks;

/* For completion: "/" commands, then names of stacks and maskers. */
static const char *completion_word(enum line_field field, int index)
{
    static char command[64];
    int n_actions = 0, n_maskers = 0;
    if (field == LINE_QUESTION) {
        while (actions[n_actions].name)
            n_actions++;
        if (index < n_actions) {
            snprintf(command, sizeof command, "/%s", actions[index].name);
            return command;
        }
    }
    index -= n_actions;
    if (index == 0 && !completed_stacks.n)
        completed_stacks = preset_list_stacks();
    if (index < (int)completed_stacks.n)
        return completed_stacks.entries[index].name;
    index -= (int)completed_stacks.n;
    while (maskers[n_maskers])
        n_maskers++;
    return index < n_maskers ? maskers[index]->name : NULL;
}

void app_prompt(struct app *app, enum prompt_purpose purpose, const char *initial)
{
    static const enum line_field fields[] = {
        [PROMPT_ASK] = LINE_QUESTION, [PROMPT_EDIT_QUESTION] = LINE_QUESTION,
        [PROMPT_VALUE] = LINE_VALUE,  [PROMPT_STACK] = LINE_STACK,
        [PROMPT_CONTEXT] = LINE_PATH, [PROMPT_MODEL] = LINE_PATH,
        [PROMPT_PICTURE] = LINE_PATH, [PROMPT_SEARCH] = LINE_SEARCH,
        [PROMPT_GO_TO] = LINE_VALUE,
    };
    app->insert = true;
    app->purpose = purpose;
    line_edit_start(fields[purpose], initial, app->state_folder, completion_word);
    sync_line(app);
}

/* The line is no longer edited; the completions it showed go with it. */
static void close_line(struct app *app)
{
    line_edit_stop();
    free(app->matches);
    app->matches = NULL;
    app->insert = false;
    app->dirty = true;
}

void app_prompt_leave(struct app *app)
{
    if (app->purpose == PROMPT_ASK) {
        free(app->draft);
        app->draft = app->line && *app->line ? xstrdup(app->line) : NULL;
    }
    close_line(app);
}

void app_prompt_set(struct app *app, const char *text)
{
    if (!app->insert)
        app->purpose = PROMPT_ASK;
    app_prompt(app, app->purpose, text);
}

/* "@file question": loads the file as context; what is left is the question.  A backslash keeps a
 * space in the name.  NULL: the file could not be read. */
static const char *take_attachment(struct app *app, const char *text)
{
    if (*text != '@' || !text[1])
        return text;
    char *path = xcalloc(strlen(text) + 1, 1);
    size_t n = 0;
    const char *from = text + 1;
    for (; *from && !isspace((unsigned char)*from); from++) {
        if (*from == '\\' && from[1])
            from++;
        path[n++] = *from;
    }
    bool ok = app_load_context_file(app, path);
    free(path);
    while (isspace((unsigned char)*from))
        from++;
    return ok ? from : NULL;
}

static void accept_question(struct app *app, const char *text)
{
    if (*text == '/' && action_run_command(app, text + 1))
        return;
    const char *question = take_attachment(app, text);
    if (!question) {
        app->draft = xstrdup(text);
        return;
    }
    if (!*question)
        return;
    app_add_question(app, question);
    app_log_questions(app);
    app->focus = PANE_ANSWERS;
    app_run_question(app, app->current_question);
}

static void accept_value(struct app *app, const char *text)
{
    struct stack s = *app_stack(app);
    struct error err;
    if (app->masker_row >= stack_n_items(&s))
        return;
    struct stack_item *item = &s.items[app->masker_row];
    int row = app->focus == PANE_PARAMS ? app->param_row : 0;
    if (row >= item->masker->n_params)
        return;
    if (!masker_value_parse(item->masker, &item->values, row, text, &err)) {
        app_error(app, &err);
        return;
    }
    s.name[0] = '\0';
    app_edit_stack(app, &s);
}

static void accept(struct app *app)
{
    char *text = xstrdup(line_edit_text());
    size_t n = strlen(text);
    while (n > 0 && isspace((unsigned char)text[n - 1]))
        text[--n] = '\0';
    const char *start = text;
    while (isspace((unsigned char)*start))
        start++;
    close_line(app);
    if (app->purpose == PROMPT_ASK) {
        free(app->draft);
        app->draft = NULL;
    }
    if (*start)
        switch (app->purpose) {
        case PROMPT_ASK:
            accept_question(app, start);
            break;
        case PROMPT_EDIT_QUESTION:
            if (app->current_question < app->n_questions) {
                app_set_question(app, app->current_question, start);
                app_log_questions(app);
            }
            break;
        case PROMPT_VALUE:
            accept_value(app, start);
            break;
        case PROMPT_STACK:
            act_stack_set(app, start);
            break;
        case PROMPT_CONTEXT:
            app_load_context_file(app, start);
            break;
        case PROMPT_MODEL:
            app_load_model(app, start);
            break;
        case PROMPT_PICTURE:
            act_picture(app, start);
            break;
        case PROMPT_SEARCH:
            act_search(app, start);
            break;
        case PROMPT_GO_TO:
            act_go_to(app, start);
            break;
        }
    free(text);
}

void app_prompt_key(struct app *app, int code)
{
    if (code == CODE_ESC) {
        app_prompt_leave(app);
        return;
    }
    struct buf bytes = {0};
    key_write_bytes(code, &bytes);
    enum line_state state = LINE_EDITING;
    if (bytes.len > 0)
        state = line_edit_feed(bytes.data, bytes.len);
    buf_free(&bytes);
    sync_line(app);
    if (state == LINE_ACCEPTED)
        accept(app);
    else if (state == LINE_ABANDONED)
        app_prompt_leave(app);
}

void app_prompt_paste(struct app *app, const char *text, size_t n)
{
    struct buf clean = {0};
    screen_text_filter(&clean, text, n, SCREEN_TEXT_NEWLINES);
    if (clean.len > 0)
        line_edit_insert(clean.data);
    buf_free(&clean);
    sync_line(app);
}
