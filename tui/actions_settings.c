/* Actions about how the screen looks, and pictures of it. */
#include "tui/actions.h"

#include <stdlib.h>
#include <string.h>

#include "tui/panes.h"
#include "tui/picture.h"
#include "tui/settings.h"

void act_settings(struct app *app, const char *argument)
{
    (void)argument;
    palette_open(app, PALETTE_SETTINGS);
}

void act_theme(struct app *app, const char *argument)
{
    int theme = ((int)app->theme + 1) % N_THEMES;
    if (argument)
        for (theme = 0; theme_names[theme] && strcmp(theme_names[theme], argument);)
            theme++;
    if (theme == N_THEMES) {
        app_message(app, ROLE_ERROR, "there is no theme \"%s\": dark, light, colour-blind or mono",
                    argument);
        return;
    }
    app->theme = (enum theme)theme;
    app_message(app, ROLE_OK, "theme %s", theme_names[theme]);
}

void act_ascii(struct app *app, const char *argument)
{
    (void)argument;
    if (app->ascii_only)
        app_message(app, ROLE_WARN, "the locale is not UTF-8: the terminal shows only ASCII");
    else
        app->ascii = !app->ascii;
}

void act_settings_write(struct app *app, const char *argument)
{
    struct error err;
    char *path = NULL;
    struct settings s = {.theme = (int)app->theme, .ascii = app->ascii, .live = app->live};
    (void)argument;
    if (settings_write(&s, &path, &err))
        app_message(app, ROLE_OK, "settings written to %s", path);
    else
        app_error(app, &err);
    free(path);
}

/* The frame as it is without the line that asked for it. */
void act_picture(struct app *app, const char *argument)
{
    struct error err;
    struct grid g;
    if (!argument) {
        app_prompt(app, PROMPT_PICTURE, NULL);
        return;
    }
    grid_init(&g, 1, 1, app->ascii);
    screen_render(app, &g);
    if (picture_write(&g, app->theme, argument, false, &err))
        app_message(app, ROLE_OK, "picture written to %s", argument);
    else
        app_error(app, &err);
    grid_free(&g);
}
