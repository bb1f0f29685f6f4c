/* One editable line, with the person's own readline configuration, history and completion.
 *
 * GNU readline (or libedit with ATTNSCOPE_LIBEDIT) works on bytes that we feed it and never
 * touches the terminal; screens draw from line_edit_text and line_edit_cursor.  There is one line
 * at a time.  Interface thread only. */
#ifndef ATTNSCOPE_TUI_LINE_EDIT_H
#define ATTNSCOPE_TUI_LINE_EDIT_H

#include <stdbool.h>
#include <stddef.h>

/* What is being typed: each has its own history file. */
enum line_field {
    LINE_QUESTION, /* a question, "@file", or "/command argument" */
    LINE_VALUE,    /* a parameter's value */
    LINE_STACK,    /* a stack's short form or a preset's name */
    LINE_PATH,     /* a file or folder */
    LINE_SEARCH,   /* words of a text */
    LINE_FIELDS
};

enum line_state { LINE_EDITING, LINE_ACCEPTED, LINE_ABANDONED /* Ctrl-D on an empty line */ };

/* Begins editing initial (may be NULL).  state_folder: where history files live, NULL: none.
 * words(field, index) gives what completion offers besides files, for index 0, 1, ... until NULL;
 * it may be NULL. */
void line_edit_start(enum line_field field, const char *initial, const char *state_folder,
                     const char *(*words)(enum line_field field, int index));
/* Ends editing; an accepted line was saved in the history already. */
void line_edit_stop(void);

/* Feeds what one key sends.  After LINE_ACCEPTED the text is line_edit_text() until the next
 * start or stop. */
enum line_state line_edit_feed(const char *bytes, size_t n);
/* Inserts text (already without controls but newlines) at the cursor. */
void line_edit_insert(const char *text);
const char *line_edit_text(void);
size_t line_edit_cursor(void); /* in bytes */
/* What the last Tab found when it was ambiguous, one line of words; NULL: nothing. */
const char *line_edit_matches(void);

#endif
