#include "tui/cli/document.h"

#include <stdio.h>
#include <string.h>

#include "engine/attention/metrics.h"
#include "tui/actions.h"
#include "tui/cli/commands.h"
#include "tui/keys.h"

/* --- Keys ----------------------------------------------------------------------------------------
 */

static void write_key_names(const struct action *a, const char *between, struct buf *out)
{
    for (int i = 0; i < ACTION_MAX_KEYS && a->keys[i]; i++) {
        buf_append_str(out, i ? between : "");
        key_write_name(a->keys[i], out);
    }
}

/* In a cell of a Markdown table. */
static void write_cell(const char *text, struct buf *out)
{
    for (; *text; text++) {
        if (strchr("|<>*_", *text))
            buf_append_char(out, '\\');
        buf_append_char(out, *text);
    }
}

static void write_action_row(const struct action *a, struct buf *out)
{
    buf_append_str(out, "| ");
    for (int i = 0; i < ACTION_MAX_KEYS && a->keys[i]; i++) {
        struct buf key = {0};
        key_write_name(a->keys[i], &key);
        /* A bar ends a cell even inside a code span. */
        buf_printf(out, "%s`%s`", i ? " " : "", key.data);
        buf_free(&key);
    }
    buf_printf(out, " | `%s%s%s` | ", a->name, a->argument ? " " : "",
               a->argument ? a->argument : "");
    write_cell(a->title, out);
    buf_append_str(out, ". ");
    write_cell(a->help, out);
    buf_append_str(out, " |\n");
}

void document_keys(struct buf *out)
{
    buf_append_str(out,
                   "# Keys and actions\n\n"
                   "Made by `attnscope manual --keys` from the table that the program runs on. An "
                   "action without a key is reached by its name: `:` lists all, `/NAME` in the "
                   "prompt runs one.\n");
    for (const struct action_place *p = action_place_list; p->title; p++) {
        buf_printf(out, "\n## %s\n\n| keys | action | |\n| --- | --- | --- |\n", p->title);
        for (const struct action *a = actions; a->name; a++)
            if (p->panes == IN_ALL ? a->panes == IN_ALL
                                   : (a->panes & p->panes) && a->panes != IN_ALL)
                write_action_row(a, out);
    }
}

/* --- The manual page
 * ------------------------------------------------------------------------------ */

static const struct fact {
    const char *name, *text;
} environment[] =
    {
        {"ATTNSCOPE_CUDA_MODULE", "The file of the cuda backend, in place of the one beside the "
                                  "program."},
        {"ATTNSCOPE_PRESETS", "The folder of stacks, samples and the embedded model, in place of "
                              "the one that was installed."},
        {"CUDA_VISIBLE_DEVICES", "The GPUs that the cuda backend may use."},
        {"HF_HUB_CACHE, HF_HOME", "Where models are looked for: $HF_HUB_CACHE, $HF_HOME/hub, else "
                                  "~/.cache/huggingface/hub."},
        {"XDG_STATE_HOME", "Sessions and histories go to its folder attnscope (~/.local/state)."},
        {"XDG_CONFIG_HOME", "Settings are read from its folder attnscope (~/.config)."},
        {"NO_COLOR", "If set and not empty: no colours."},
        {"COLORFGBG", "Whether the terminal's background is light."},
        {"VISUAL, EDITOR", "The editor of v and Ctrl-X Ctrl-E."},
},
  files[] = {
      {"~/.config/attnscope/config.json", "Settings: theme, ascii, live. Written only by the "
                                          "action settings-write."},
      {"~/.local/state/attnscope/sessions/*.jsonl",
       "A log of each session; `attnscope resume` "
       "goes on with one. See docs/session-format.md."},
      {"~/.local/state/attnscope/stderr.log", "What libraries wrote while the screen was shown."},
};

/* Running text: what roff would take for a command or an escape is kept from it. */
static void write_text(const char *text, struct buf *out)
{
    bool starts_line = true;
    for (; *text; text++) {
        if (starts_line && (*text == '.' || *text == '\''))
            buf_append_str(out, "\\&");
        if (*text == '\\')
            buf_append_str(out, "\\e");
        else if (*text == '-')
            buf_append_str(out, "\\-");
        else
            buf_append_char(out, *text);
        starts_line = *text == '\n';
    }
}

static void write_section(const char *title, struct buf *out)
{
    buf_printf(out, ".SH %s\n", title);
}

/* A term and what it means. */
static void write_item(const char *term, const char *text, struct buf *out)
{
    buf_append_str(out, ".TP\n.B \"");
    write_text(term, out);
    buf_append_str(out, "\"\n");
    write_text(text, out);
    buf_append_char(out, '\n');
}

static void write_examples(const char *examples, struct buf *out)
{
    buf_append_str(out, ".PP\n.nf\n");
    write_text(examples, out);
    buf_append_str(out, ".fi\n");
}

static void write_command(const struct cli_command *c, struct buf *out)
{
    buf_append_str(out, ".SS \"attnscope");
    buf_printf(out, "%s%s \"\n", c->name[0] ? " " : "", c->name);
    buf_append_str(out, ".B attnscope ");
    write_text(c->name, out);
    buf_append_str(out, c->name[0] ? " " : "");
    write_text(c->usage, out);
    buf_append_str(out, "\n.PP\n");
    write_text(c->summary, out);
    buf_append_str(out, "\n");
    if (c->examples)
        write_examples(c->examples, out);
    for (const struct cli_option *o = c->options; o && o->name; o++) {
        struct buf term = {0};
        buf_printf(&term, "--%s%s%s", o->name, o->arg ? " " : "", o->arg ? o->arg : "");
        write_item(term.data, o->help, out);
        buf_free(&term);
    }
}

static void write_keys(struct buf *out)
{
    write_section("KEYS", out);
    buf_append_str(out, "In the workbench. The list of actions (:) runs each by its name; the "
                        "prompt does with /NAME.\n");
    for (const struct action_place *p = action_place_list; p->title; p++) {
        buf_printf(out, ".SS \"%s\"\n", p->title);
        for (const struct action *a = actions; a->name; a++) {
            if (p->panes == IN_ALL ? a->panes != IN_ALL
                                   : !(a->panes & p->panes) || a->panes == IN_ALL)
                continue;
            struct buf term = {0}, text = {0};
            write_key_names(a, ", ", &term);
            buf_printf(&term, "%s:%s%s%s", term.len ? "  " : "", a->name, a->argument ? " " : "",
                       a->argument ? a->argument : "");
            buf_printf(&text, "%s. %s", a->title, a->help);
            /* A quote inside a quoted argument is written twice. */
            struct buf quoted = {0};
            for (const char *c = term.data; *c; c++)
                buf_printf(&quoted, *c == '"' ? "\"\"" : "%c", *c);
            write_item(quoted.data, text.data, out);
            buf_free(&quoted);
            buf_free(&term);
            buf_free(&text);
        }
    }
}

static void write_facts(const char *title, const struct fact *facts, size_t n, struct buf *out)
{
    write_section(title, out);
    for (size_t i = 0; i < n; i++)
        write_item(facts[i].name, facts[i].text, out);
}

static void write_figures(struct buf *out)
{
    write_section("FIGURES", out);
    for (const struct metric *m = metrics; m->name; m++) {
        struct buf term = {0};
        buf_printf(&term, "%s%s%s", m->name, m->unit[0] ? ", " : "", m->unit);
        write_item(term.data, m->definition, out);
        buf_free(&term);
    }
}

void document_manual(struct buf *out)
{
    buf_append_str(out, ".\\\" Made by: attnscope manual\n"
                        ".TH ATTNSCOPE 1 \"\" \"attnscope " ATTNSCOPE_VERSION "\"\n");
    write_section("NAME", out);
    buf_append_str(out, "attnscope \\- compare dense and sparse attention in language models\n");
    write_section("SYNOPSIS", out);
    buf_append_str(out, ".B attnscope\n[MODEL] [OPTION]...\n");
    for (int i = 0; commands[i]; i++)
        buf_printf(out, ".br\n.B attnscope %s\n[ARGUMENT]...\n", commands[i]->name);
    write_section("DESCRIPTION", out);
    buf_append_str(
        out, "A stack of maskers (a sink, a local window, the best keys by hashes, pages, codes or "
             "true scores, samples) says which keys of a context attention reads. attnscope runs "
             "a model with several stacks beside dense attention, and shows the answers as they "
             "come with density, measured speed\\-up and similarity, where they part, and which "
             "heads lost what. MODEL is a folder in HuggingFace layout, org/name in the "
             "HuggingFace cache, or nothing: the model that comes along.\n");
    write_section("COMMANDS", out);
    write_command(&command_workbench, out);
    for (int i = 0; commands[i]; i++)
        write_command(commands[i], out);
    write_keys(out);
    write_figures(out);
    write_section("EXIT STATUS", out);
    for (const struct cli_exit_code *c = cli_exit_codes; c->text; c++)
        write_item(c->number, c->text, out);
    write_facts("ENVIRONMENT", environment, sizeof environment / sizeof *environment, out);
    write_facts("FILES", files, sizeof files / sizeof *files, out);
    write_section("SEE ALSO", out);
    buf_append_str(out, "docs/maskers.md, docs/keys.md, docs/benchmarks.md of the sources.\n"
                        ".BR tmux (1)\n");
}
