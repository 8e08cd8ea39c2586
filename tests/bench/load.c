/* Send the same request over and over on keep-alive connections, and time what comes back.
 *
 * usage: load PORT CONNECTIONS SECONDS REQUEST_FILE [MARK_FILE]
 *
 * Each connection sends its next request when the answer before is complete. Prints one line of JSON: answers,
 * errors (status other than 200, or a closed connection), latencies of whole answers and of first body bytes in
 * microseconds, server-sent events, streams that ended with [DONE]. MARK_FILE is created when all connections have
 * received something: whoever measures memory looks then.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SAMPLES_MAX 4000000
#define HEAD_MAX 8192

struct connection {
    int fd, head_length, in_body, chunked, status, sent, heard;
    long left, size, began_us;
    int state; /* of a chunked body: 0 size, 1 data, 2 CRLF after data, 3 last CRLF */
    char head[HEAD_MAX], tail[16];
};

static char *request;
static long request_length, answers, errors, bytes_events, done, started_us, until_us;
static unsigned *latency, *first;
static long latencies, firsts, heard;
static int poller, port;
static const char *mark;
static int connections_count;

static long now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000L + t.tv_nsec / 1000;
}

static void reset(struct connection *c) {
    c->head_length = c->in_body = c->chunked = c->state = c->sent = 0;
    c->left = c->size = 0;
    memset(c->tail, 0, sizeof c->tail);
}

static void ask(struct connection *c) {
    reset(c);
    c->began_us = now_us();
    if (send(c->fd, request, request_length, MSG_NOSIGNAL) != request_length) errors++;
}

static void dial(struct connection *c) {
    int on = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    address.sin_port = htons(port);
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(c->fd, (void *)&address, sizeof address)) { perror("connect"); exit(1); }
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event);
    ask(c);
}

static void body_bytes(struct connection *c, const char *data, long n) {
    if (!c->sent && n) {
        c->sent = 1;
        if (firsts < SAMPLES_MAX) first[firsts++] = now_us() - c->began_us;
        if (!c->heard++ && ++heard == connections_count && mark) close(creat(mark, 0600));
    }
    char last = c->tail[15];
    for (long i = 0; i < n; i++) {
        if (data[i] == '\n' && last == '\n') bytes_events++;
        last = data[i];
    }
    if (n >= 16) memcpy(c->tail, data + n - 16, 16);
    else if (n) { memmove(c->tail, c->tail + n, 16 - n); memcpy(c->tail + 16 - n, data, n); }
}

static void answered(struct connection *c) {
    long now = now_us();
    answers++;
    if (c->status != 200) errors++;
    if (latencies < SAMPLES_MAX) latency[latencies++] = now - c->began_us;
    if (!memcmp(c->tail + 2, "data: [DONE]\n\n", 14)) done++;
    if (now < until_us) ask(c);
}

static void parse_head(struct connection *c) {
    char *size = strcasestr(c->head, "\r\ncontent-length:");
    c->status = atoi(c->head + 9);
    c->chunked = strcasestr(c->head, "\r\ntransfer-encoding: chunked") != NULL;
    c->left = size ? atol(size + 17) : 0;
    c->in_body = 1;
}

/* Take n bytes; answers are never pipelined. */
static void take(struct connection *c, const char *data, long n) {
    while (n > 0) {
        if (!c->in_body) {
            long room = HEAD_MAX - 1 - c->head_length, k = n < room ? n : room;
            memcpy(c->head + c->head_length, data, k);
            int before = c->head_length;
            c->head_length += k;
            c->head[c->head_length] = 0;
            char *end = strstr(c->head, "\r\n\r\n");
            if (!end) return;
            long used = end + 4 - c->head - before;
            *(end + 2) = 0;
            parse_head(c);
            data += used, n -= used;
            if (!c->chunked && !c->left) { answered(c); return; }
        } else if (!c->chunked) {
            long k = n < c->left ? n : c->left;
            body_bytes(c, data, k);
            c->left -= k, data += k, n -= k;
            if (!c->left) { answered(c); return; }
        } else if (c->state == 0) {
            char b = *data++;
            n--;
            if (b == '\n') {
                c->left = c->size, c->state = c->size ? 1 : 3, c->size = 0;
            } else if (b != '\r') {
                c->size = c->size * 16 + (b <= '9' ? b - '0' : (b | 32) - 'a' + 10);
            }
        } else if (c->state == 1) {
            long k = n < c->left ? n : c->left;
            body_bytes(c, data, k);
            c->left -= k, data += k, n -= k;
            if (!c->left) c->state = 2;
        } else {
            char b = *data++;
            n--;
            if (b != '\n') continue;
            if (c->state == 3) { answered(c); return; }
            c->state = 0;
        }
    }
}

static int by_value(const void *a, const void *b) {
    return (*(unsigned *)a > *(unsigned *)b) - (*(unsigned *)a < *(unsigned *)b);
}

static unsigned quantile(unsigned *values, long n, double q) { return n ? values[(long)(q * (n - 1))] : 0; }

int main(int argc, char **argv) {
    if (argc < 5) return fprintf(stderr, "usage: load PORT CONNECTIONS SECONDS REQUEST_FILE [MARK_FILE]\n"), 2;
    port = atoi(argv[1]), connections_count = atoi(argv[2]), mark = argc > 5 ? argv[5] : NULL;
    FILE *file = fopen(argv[4], "rb");
    request = malloc(1 << 20), request_length = fread(request, 1, 1 << 20, file);
    latency = malloc(SAMPLES_MAX * sizeof *latency), first = malloc(SAMPLES_MAX * sizeof *first);
    poller = epoll_create1(0);
    started_us = now_us(), until_us = started_us + (long)(atof(argv[3]) * 1e6);
    struct connection *all = calloc(connections_count, sizeof *all);
    for (int i = 0; i < connections_count; i++) dial(&all[i]);
    struct epoll_event events[256];
    char buffer[65536];
    long now = now_us();
    while (now < until_us) {
        int n = epoll_wait(poller, events, 256, 100);
        for (int i = 0; i < n; i++) {
            struct connection *c = events[i].data.ptr;
            ssize_t k = recv(c->fd, buffer, sizeof buffer, 0);
            if (k <= 0) {
                errors++;
                close(c->fd);
                if (now_us() < until_us) dial(c);
                continue;
            }
            take(c, buffer, k);
        }
        now = now_us();
    }
    double seconds = (now - started_us) / 1e6;
    qsort(latency, latencies, sizeof *latency, by_value), qsort(first, firsts, sizeof *first, by_value);
    printf("{\"answers\":%ld,\"seconds\":%.3f,\"errors\":%ld,\"p50_us\":%u,\"p99_us\":%u,\"first_p50_us\":%u,"
           "\"first_p99_us\":%u,\"events\":%ld,\"done\":%ld}\n",
           answers, seconds, errors, quantile(latency, latencies, .5), quantile(latency, latencies, .99),
           quantile(first, firsts, .5), quantile(first, firsts, .99), bytes_events, done);
    return 0;
}
