/* Session logs: what is written is read back; torn lines, second writers and full disks. */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/file.h"
#include "engine/base/memory.h"
#include "sessions/base64.h"
#include "sessions/session_log.h"
#include "sessions/session_record.h"

#include <cmocka.h> /* last: it defines a macro `fail` */

static char folder[] = "/tmp/attnscope-session-XXXXXX";
static char path[128];

static int set_up(void **state)
{
    (void)state;
    strcpy(folder + strlen(folder) - 6, "XXXXXX");
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/one.jsonl", folder);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    unlink(path);
    rmdir(folder);
    return 0;
}

static struct session_log *create(void)
{
    struct error err = {0};
    struct session_log *log = session_log_create(path, &err);
    if (!log)
        fail_msg("create: %s", err.text);
    return log;
}

static struct session *read_back(void)
{
    struct error err = {0};
    struct session *s = session_read(path, &err);
    if (!s)
        fail_msg("read: %s", err.text);
    return s;
}

static void token(struct session_log *log, int lane, int index, const char *text, size_t n)
{
    struct event e = {.kind = EVENT_TOKEN};
    e.token = (struct token_event){.lane = lane,
                                   .index = index,
                                   .id = 100 + index,
                                   .text = (char *)(uintptr_t)text,
                                   .n_text = n,
                                   .logprob = -0.25f,
                                   .step_us = 1234,
                                   .attention_us = 56,
                                   .at_us = 789};
    session_log_event(log, &e);
}

static void write_run(struct session_log *log)
{
    struct request *r = xcalloc(1, sizeof *r);
    struct stack stack;
    request_init(r);
    assert_true(stack_parse(&stack, "sink:4,local:64", NULL));
    assert_true(request_add_lane(r, "A", &stack, NULL));
    assert_true(request_add_question(r, "Who?", NULL));
    r->context = xstrdup("The context.");
    r->n_context = strlen(r->context);
    r->seed = UINT64_C(18446744073709551557);
    session_log_context(log, r->context, r->n_context, "sample");
    session_log_questions(log, r->questions, r->n_questions, 0);
    for (int i = 0; i < r->n_lanes; i++)
        session_log_stack(log, i, r->lanes[i].name, &r->lanes[i].stack);
    session_log_run(log, r);
    request_free(r);
    free(r);
}

static void test_what_is_written_is_read_back(void **state)
{
    (void)state;
    struct session_log *log = create();
    write_run(log);
    token(log, 0, 0, "Par", 3);
    token(log, 0, 1, "is", 2);
    token(log, 1, 0, "\xff\x00z", 3);
    struct event end = {.kind = EVENT_FINISHED};
    session_log_event(log, &end);
    session_log_close(log);

    struct session *s = read_back();
    assert_string_equal(s->context, "The context.");
    assert_string_equal(s->context_origin, "sample");
    assert_int_equal(s->n_questions, 1);
    assert_string_equal(s->questions[0], "Who?");
    assert_int_equal(s->n_lanes, 2);
    assert_int_equal(s->lanes[1].stack.n, 2);
    assert_string_equal(s->lanes[1].name, "A");
    assert_false(s->interrupted);
    assert_null(s->notice);
    assert_non_null(s->last_report);
    assert_true(s->last_report->request->seed == UINT64_C(18446744073709551557));
    struct report_lane *dense = report_lane(s->last_report, 0, 0);
    assert_int_equal(dense->n_tokens, 2);
    assert_string_equal(dense->answer.data, "Paris");
    assert_int_equal(dense->tokens[1].step_us, 1234);
    struct report_lane *sparse = report_lane(s->last_report, 0, 1);
    assert_int_equal(sparse->answer.len, 3);
    assert_memory_equal(sparse->answer.data, "\xff\x00z", 3);
    session_free(s);
}

static void test_groups_of_layers_survive_the_log_and_a_request(void **state)
{
    (void)state;
    static const char text[] = "sink:4,reuse:3; layers 0-1: dense; layers 2-3: local:64,quest:5%";
    struct request *r = xcalloc(1, sizeof *r);
    struct stack stack;
    request_init(r);
    assert_true(stack_parse(&stack, text, NULL));
    assert_true(request_add_lane(r, "A", &stack, NULL));
    assert_true(request_add_question(r, "Who?", NULL));
    struct session_log *log = create();
    for (int i = 0; i < r->n_lanes; i++)
        session_log_stack(log, i, r->lanes[i].name, &r->lanes[i].stack);
    session_log_run(log, r);
    session_log_close(log);
    request_free(r);
    free(r);
    struct session *s = read_back();
    assert_int_equal(s->n_lanes, 2);
    assert_true(stack_equal(&s->lanes[1].stack, &stack));
    assert_non_null(s->last_report);
    assert_true(stack_equal(&s->last_report->request->lanes[1].stack, &stack));
    session_free(s);
}

static void test_metrics_survive_a_record(void **state)
{
    (void)state;
    struct event e = {.kind = EVENT_METRICS};
    struct layer_probe layers[2] = {{.layer = 0, .recall_mean = 0.5, .n_rows = 3},
                                    {.layer = 1, .output_error = 0.125, .worst_head = 4}};
    e.metrics = (struct lane_metrics){.question = 1,
                                      .lane = 2,
                                      .n_tokens = 7,
                                      .density = 0.1,
                                      .speedup_step = 1.75,
                                      .jaccard = 1.0 / 3,
                                      .n_layers = 2,
                                      .agreement = -1,
                                      .kv_bytes_per_step = 1234567890123};
    e.metrics.layers = layers;
    e.metrics.divergence = (struct divergence){.index = 3,
                                               .base_id = 5,
                                               .lane_id = -1,
                                               .base_text = (char *)(uintptr_t) " four",
                                               .margin = 0.06f,
                                               .near_tie = true};
    struct json *record = record_from_event(&e);
    struct event back;
    assert_true(record_to_event(record, &back));
    assert_int_equal(back.kind, EVENT_METRICS);
    assert_true(back.metrics.jaccard == e.metrics.jaccard);
    assert_true(back.metrics.kv_bytes_per_step == 1234567890123);
    assert_int_equal(back.metrics.divergence.index, 3);
    assert_string_equal(back.metrics.divergence.base_text, " four");
    assert_null(back.metrics.divergence.lane_text);
    assert_true(back.metrics.divergence.near_tie);
    assert_int_equal(back.metrics.n_layers, 2);
    assert_true(back.metrics.layers[1].output_error == 0.125);
    event_free(&back);
    json_free(record);
}

static void test_a_lost_device_survives_a_record(void **state)
{
    (void)state;
    struct event events[] = {{.kind = EVENT_DONE}, {.kind = EVENT_FAILED}};
    for (int lost = 0; lost < 2; lost++) {
        struct event back;
        events[0].done = (struct done_event){.finish = FINISH_ERROR, .device_lost = lost};
        struct json *record = record_from_event(&events[0]);
        assert_true(record_to_event(record, &back));
        assert_int_equal(back.done.device_lost, lost);
        json_free(record);
        event_free(&back);
        events[1].device_lost = lost;
        record = record_from_event(&events[1]);
        assert_true(record_to_event(record, &back));
        assert_int_equal(back.device_lost, lost);
        json_free(record);
    }
}

static void test_a_torn_last_line_is_left_out_with_a_notice(void **state)
{
    (void)state;
    struct session_log *log = create();
    write_run(log);
    token(log, 0, 0, "Paris", 5);
    session_log_close(log);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(truncate(path, st.st_size - 9), 0);
    struct session *s = read_back();
    assert_non_null(s->notice);
    assert_true(s->interrupted);
    assert_int_equal(report_lane(s->last_report, 0, 0)->n_tokens, 0);
    session_free(s);
}

static void test_every_prefix_of_a_log_is_read_or_refused(void **state)
{
    (void)state;
    struct session_log *log = create();
    write_run(log);
    token(log, 0, 0, "x", 1);
    session_log_close(log);
    struct buf whole = {0};
    assert_true(file_read(&whole, path, 1 << 20, NULL));
    const char *first_end = memchr(whole.data, '\n', whole.len);
    for (size_t n = 0; n <= whole.len; n++) {
        assert_int_equal(truncate(path, 0), 0);
        int fd = open(path, O_WRONLY);
        assert_int_equal(write(fd, whole.data, n), n);
        close(fd);
        struct session *s = session_read(path, NULL);
        bool whole_first = n >= (size_t)(first_end - whole.data);
        if ((s != NULL) != whole_first)
            fail_msg("prefix of %zu bytes: got %s", n, s ? "a session" : "a refusal");
        session_free(s);
    }
    buf_free(&whole);
}

static void test_going_on_after_a_torn_line_loses_nothing_else(void **state)
{
    (void)state;
    struct session_log *log = create();
    write_run(log);
    session_log_close(log);
    int fd = open(path, O_WRONLY | O_APPEND);
    assert_int_equal(write(fd, "{\"t\":9,\"ev\":\"to", 15), 15);
    close(fd);
    log = session_log_continue(path, NULL);
    assert_non_null(log);
    char *questions[] = {(char *)(uintptr_t) "New?"};
    session_log_questions(log, questions, 1, 0);
    session_log_close(log);
    struct session *s = read_back();
    assert_string_equal(s->questions[0], "New?");
    assert_string_equal(s->context, "The context.");
    session_free(s);
}

static void test_a_second_writer_is_refused(void **state)
{
    (void)state;
    struct error err = {0};
    struct session_log *log = create();
    assert_null(session_log_continue(path, &err));
    assert_non_null(strstr(err.text, "another attnscope"));
    session_log_close(log);
}

static void test_an_existing_file_is_never_overwritten(void **state)
{
    (void)state;
    session_log_close(create());
    struct error err = {0};
    assert_null(session_log_create(path, &err));
    assert_non_null(strstr(err.text, path));
}

static void test_the_file_is_private_whatever_the_umask(void **state)
{
    (void)state;
    mode_t before = umask(0);
    session_log_close(create());
    umask(before);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
}

static void test_a_full_disk_is_told_and_mended(void **state)
{
    (void)state;
    struct session_log *log = create();
    struct rlimit old, small = {.rlim_cur = 4096};
    getrlimit(RLIMIT_FSIZE, &old);
    small.rlim_max = old.rlim_max;
    setrlimit(RLIMIT_FSIZE, &small);
    for (int i = 0; i < 200; i++)
        token(log, 0, i, "word", 4);
    assert_non_null(session_log_problem(log));
    assert_non_null(strstr(session_log_problem(log), "NOT SAVED since"));
    setrlimit(RLIMIT_FSIZE, &old);
    session_log_flush(log);
    assert_null(session_log_problem(log));
    session_log_close(log);
    struct buf whole = {0};
    assert_true(file_read(&whole, path, 1 << 20, NULL));
    int lines = 0;
    for (size_t i = 0; i < whole.len; i++)
        lines += whole.data[i] == '\n';
    assert_int_equal(lines, 201);
    buf_free(&whole);
}

static void test_what_is_no_session_is_refused(void **state)
{
    (void)state;
    static const char *const texts[] = {"",
                                        "\n",
                                        "hello\n",
                                        "{}\n",
                                        "{\"ev\":\"session\"}\n",
                                        "{\"v\":99,\"ev\":\"session\"}\n",
                                        "{\"v\":1,\"ev\":\"tok\"}\n"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        FILE *f = fopen(path, "w");
        fputs(texts[i], f);
        fclose(f);
        struct error err = {0};
        struct session *s = session_read(path, &err);
        if (s)
            fail_msg("'%s' was accepted", texts[i]);
        assert_non_null(strstr(err.text, path));
    }
}

static void test_base64_round_trips_and_refuses_the_rest(void **state)
{
    (void)state;
    unsigned char bytes[256];
    for (int i = 0; i < 256; i++)
        bytes[i] = (unsigned char)(i * 7);
    for (size_t n = 0; n <= sizeof bytes; n++) {
        struct buf text = {0}, back = {0};
        base64_encode(&text, bytes, n);
        assert_true(base64_decode(&back, text.data ? text.data : ""));
        assert_int_equal(back.len, n);
        assert_memory_equal(back.data ? back.data : "", bytes, n);
        buf_free(&text);
        buf_free(&back);
    }
    static const char *const bad[] = {"A", "AA", "AAA", "A===", "=AAA", "AA=A", "A A=", "AAAA=AAA"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct buf back = {0};
        if (base64_decode(&back, bad[i]))
            fail_msg("'%s' was accepted", bad[i]);
        buf_free(&back);
    }
}

int main(void)
{
    signal(SIGXFSZ, SIG_IGN);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_what_is_written_is_read_back, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_groups_of_layers_survive_the_log_and_a_request, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_metrics_survive_a_record, set_up, tear_down),
        cmocka_unit_test(test_a_lost_device_survives_a_record),
        cmocka_unit_test_setup_teardown(test_a_torn_last_line_is_left_out_with_a_notice, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_every_prefix_of_a_log_is_read_or_refused, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_going_on_after_a_torn_line_loses_nothing_else, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_a_second_writer_is_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_an_existing_file_is_never_overwritten, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_the_file_is_private_whatever_the_umask, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_a_full_disk_is_told_and_mended, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_what_is_no_session_is_refused, set_up, tear_down),
        cmocka_unit_test(test_base64_round_trips_and_refuses_the_rest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
