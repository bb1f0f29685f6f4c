/* For the check against Jinja2 only: reads JSON lines {"template", "variables", "now"} and writes
 * for each a line {"out"} or {"error"}. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/json.h"
#include "engine/text/chat_template.h"

static void answer(const char *line, size_t n)
{
    struct error err = {0};
    struct buf out = {0}, text = {0};
    struct json *reply = json_new_object(), *request = json_parse(line, n, "request", &err);
    const char *source = json_string(json_get(request, "template"));
    struct chat_template *t =
        source ? chat_template_compile(source, strlen(source), "t", &err) : NULL;
    if (t && chat_template_render(t, json_get(request, "variables"),
                                  (long long)json_number(json_get(request, "now"), 0), &out, &err))
        json_set_string_n(reply, "out", out.data ? out.data : "", out.len);
    else
        json_set_string(reply, "error", err.text);
    json_write(&text, reply, false);
    puts(text.data);
    chat_template_free(t);
    json_free(request);
    json_free(reply);
    buf_free(&out);
    buf_free(&text);
}

int main(void)
{
    char *line = NULL;
    size_t capacity = 0;
    ssize_t n;
    while ((n = getline(&line, &capacity, stdin)) > 0)
        answer(line, (size_t)n - (line[n - 1] == '\n'));
    free(line);
    return 0;
}
