/* The queue between the interface and the engine thread: order, bounds, waking, stopping. */
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine/run/clock.h"
#include "engine/run/queue.h"

#include <cmocka.h>

enum { N_MESSAGES = 1000000, CAPACITY = 64 };

struct message {
    uint64_t number, check;
};

static struct queue *open_queue(size_t capacity)
{
    struct error err = {0};
    struct queue *q = queue_open(capacity, sizeof(struct message), &err);
    if (!q)
        fail_msg("queue_open: %s", err.text);
    return q;
}

static struct message message_of(uint64_t number)
{
    return (struct message){number, number * 0x9E3779B97F4A7C15u};
}

static bool readable(const struct queue *q)
{
    struct pollfd p = {.fd = queue_fd(q), .events = POLLIN};
    return poll(&p, 1, 0) == 1;
}

static void test_queue_gives_items_in_order(void **state)
{
    (void)state;
    struct queue *q = open_queue(4);
    struct message m;
    assert_false(queue_take(q, &m));
    for (uint64_t round = 0; round < 5; round++) {
        for (uint64_t i = 0; i < 3; i++) {
            m = message_of(10 * round + i);
            assert_true(queue_push(q, &m));
        }
        for (uint64_t i = 0; i < 3; i++) {
            assert_true(queue_take(q, &m));
            assert_int_equal(m.number, 10 * round + i);
        }
    }
    queue_close(q);
}

static void test_descriptor_is_readable_while_items_wait(void **state)
{
    (void)state;
    struct queue *q = open_queue(4);
    struct message m = message_of(1);
    assert_false(readable(q));
    queue_push(q, &m);
    queue_push(q, &m);
    assert_true(readable(q));
    queue_take(q, &m);
    assert_true(readable(q));
    queue_take(q, &m);
    assert_false(readable(q));
    queue_close(q);
}

static void test_wait_ends_at_its_timeout(void **state)
{
    (void)state;
    struct queue *q = open_queue(1);
    struct message m;
    int64_t from = clock_us();
    assert_false(queue_wait(q, &m, 50));
    assert_in_range(clock_us() - from, 45000, 2000000);
    assert_false(queue_wait(q, &m, 0));
    queue_close(q);
}

/* --- Two threads -------------------------------------------------------------------------- */

struct producer {
    struct queue *q;
    uint64_t n;             /* to push */
    atomic_ullong n_pushed; /* so far */
    atomic_bool refused;    /* a push returned false */
    atomic_bool *cancel;    /* as the engine's: ends a burst early; NULL: none */
};

static void *produce(void *arg)
{
    struct producer *p = arg;
    for (uint64_t i = 0; i < p->n; i++) {
        struct message m = message_of(i);
        if (!queue_push(p->q, &m)) {
            atomic_store(&p->refused, true);
            break;
        }
        atomic_fetch_add(&p->n_pushed, 1);
        if (p->cancel && atomic_load(p->cancel))
            break;
    }
    return NULL;
}

static void test_a_million_messages_arrive_once_and_in_order(void **state)
{
    (void)state;
    struct producer p = {.q = open_queue(CAPACITY), .n = N_MESSAGES};
    pthread_t thread;
    pthread_create(&thread, NULL, produce, &p);
    struct message m;
    for (uint64_t i = 0; i < N_MESSAGES; i++) {
        bool got = i % 3 == 0 ? queue_take(p.q, &m) : queue_wait(p.q, &m, -1);
        if (!got) {
            i--;
            continue;
        }
        if (m.number != i || m.check != message_of(i).check)
            fail_msg("message %llu came where %llu was due", (unsigned long long)m.number,
                     (unsigned long long)i);
    }
    assert_false(queue_wait(p.q, &m, 0));
    pthread_join(thread, NULL);
    queue_close(p.q);
}

/* Bursts that are cancelled at random moments: what was pushed is what arrives. */
static void test_cancels_at_random_lose_and_double_nothing(void **state)
{
    (void)state;
    unsigned seed = 7;
    for (int burst = 0; burst < 500; burst++) {
        atomic_bool cancel = false;
        struct producer p = {.q = open_queue(8), .n = 5000, .cancel = &cancel};
        pthread_t thread;
        pthread_create(&thread, NULL, produce, &p);
        uint64_t cancel_at = 1 + (uint64_t)rand_r(&seed) % 600, n = 0;
        struct message m;
        while (queue_wait(p.q, &m, 2)) {
            assert_int_equal(m.number, n);
            if (++n == cancel_at)
                atomic_store(&cancel, true);
            if (n > cancel_at + 8 + 1)
                fail_msg("burst %d: %llu messages after a cancel at %llu", burst,
                         (unsigned long long)n, (unsigned long long)cancel_at);
        }
        atomic_store(&cancel, true);
        pthread_join(thread, NULL);
        while (queue_take(p.q, &m))
            assert_int_equal(m.number, n++);
        assert_int_equal(n, atomic_load(&p.n_pushed));
        queue_close(p.q);
    }
}

static void test_full_queue_makes_the_producer_wait(void **state)
{
    (void)state;
    struct producer p = {.q = open_queue(8), .n = 20};
    pthread_t thread;
    pthread_create(&thread, NULL, produce, &p);
    int64_t deadline = clock_us() + 2000000;
    while (atomic_load(&p.n_pushed) < 8 && clock_us() < deadline)
        usleep(1000);
    usleep(30000);
    assert_int_equal(atomic_load(&p.n_pushed), 8);
    struct message m;
    for (uint64_t i = 0; i < 20; i++) {
        assert_true(queue_wait(p.q, &m, 2000));
        assert_int_equal(m.number, i);
    }
    pthread_join(thread, NULL);
    queue_close(p.q);
}

static void test_stop_frees_a_waiting_producer(void **state)
{
    (void)state;
    struct producer p = {.q = open_queue(8), .n = 100};
    pthread_t thread;
    pthread_create(&thread, NULL, produce, &p);
    usleep(20000);
    queue_stop(p.q);
    pthread_join(thread, NULL);
    assert_true(atomic_load(&p.refused));
    struct message m;
    uint64_t n = 0;
    while (queue_wait(p.q, &m, -1))
        n++;
    assert_int_equal(n, atomic_load(&p.n_pushed));
    queue_close(p.q);
}

static void *stop_later(void *q)
{
    usleep(20000);
    queue_stop(q);
    return NULL;
}

static void test_stop_frees_a_waiting_consumer(void **state)
{
    (void)state;
    struct queue *q = open_queue(1);
    pthread_t thread;
    pthread_create(&thread, NULL, stop_later, q);
    struct message m;
    assert_false(queue_wait(q, &m, -1));
    pthread_join(thread, NULL);
    queue_close(q);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_queue_gives_items_in_order),
        cmocka_unit_test(test_descriptor_is_readable_while_items_wait),
        cmocka_unit_test(test_wait_ends_at_its_timeout),
        cmocka_unit_test(test_a_million_messages_arrive_once_and_in_order),
        cmocka_unit_test(test_cancels_at_random_lose_and_double_nothing),
        cmocka_unit_test(test_full_queue_makes_the_producer_wait),
        cmocka_unit_test(test_stop_frees_a_waiting_producer),
        cmocka_unit_test(test_stop_frees_a_waiting_consumer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
