/* A mock of vLLM's chat API that costs next to nothing, so that what is measured is the gateway in front of it.
 *
 * usage: mock_engine PORT
 *
 * Answers POST with about 600 bytes of JSON, or, for "stream":true, with server-sent events, each an HTTP chunk of
 * its own as uvicorn writes them. The request says how many and how fast, anywhere in its body: `chunks=64 gap=5000`
 * (microseconds; 0: as fast as the socket takes them). With "return_token_ids":true and "include_usage":true the
 * answer is as much larger as vLLM's is. One thread, epoll, keep-alive; GET answers 200.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CONNECTIONS_MAX 4096
#define REQUEST_MAX (256 * 1024)
#define OUT_MAX 8192

struct connection {
    int fd, length, capacity;
    char *request;
    char id[40], model[128];
    int streaming, token_ids, usage, chunks, sent, gap_us;
    long next_us;
    char out[OUT_MAX];
    int out_length, out_sent;
};

static struct connection *connections[CONNECTIONS_MAX];
static int active[CONNECTIONS_MAX], active_count, poller;

static long now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000L + t.tv_nsec / 1000;
}

static void drop(struct connection *c) {
    for (int i = 0; i < active_count; i++)
        if (active[i] == c->fd) active[i--] = active[--active_count];
    connections[c->fd] = NULL;
    close(c->fd);
    free(c->request);
    free(c);
}

/* Write what is waiting; 1: all gone, 0: the socket is full, -1: the peer is gone. */
static int flush(struct connection *c) {
    while (c->out_sent < c->out_length) {
        ssize_t n = send(c->fd, c->out + c->out_sent, c->out_length - c->out_sent, MSG_NOSIGNAL);
        if (n < 0) return errno == EAGAIN ? 0 : -1;
        c->out_sent += n;
    }
    c->out_length = c->out_sent = 0;
    return 1;
}

static void copy_value(const char *at, char *into, int size) {
    int n = 0;
    while (at && *at && *at != '"' && *at != '\r' && n < size - 1) into[n++] = *at++;
    into[n] = 0;
}

static long number_after(const char *body, const char *name, long otherwise) {
    const char *at = strstr(body, name);
    return at ? atol(at + strlen(name)) : otherwise;
}

static void answer_whole(struct connection *c) {
    char body[2048], ids[256] = "null", prompt_ids[256] = "null";
    if (c->token_ids) {
        strcpy(ids, "[3421,198,5521,77,910,4432,12,871,2209,31,5,66,7120,94,2]");
        strcpy(prompt_ids, "[151644,8948,198,2610,525,264,10950,17847,13,151645,198,151644,872,198]");
    }
    int n = snprintf(body, sizeof body,
        "{\"id\":\"chatcmpl-%s\",\"object\":\"chat.completion\",\"created\":1763692800,\"model\":\"%s\",\"choices\":"
        "[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"You can return any lamp within 30 days of "
        "delivery, as long as it is unused and in its original box. Shipping back is free.\",\"refusal\":null,"
        "\"annotations\":null,\"audio\":null,\"function_call\":null,\"tool_calls\":[],\"reasoning\":null},"
        "\"logprobs\":null,\"finish_reason\":\"stop\",\"stop_reason\":null,\"token_ids\":%s}],\"service_tier\":null,"
        "\"system_fingerprint\":null,\"usage\":{\"prompt_tokens\":14,\"total_tokens\":46,\"completion_tokens\":32,"
        "\"prompt_tokens_details\":null},\"prompt_logprobs\":null,\"prompt_token_ids\":%s,\"kv_transfer_params\":null}",
        c->id, c->model, ids, prompt_ids);
    c->out_length = snprintf(c->out, OUT_MAX,
        "HTTP/1.1 200 OK\r\ndate: Fri, 21 Nov 2025 02:40:00 GMT\r\nserver: uvicorn\r\ncontent-length: %d\r\n"
        "content-type: application/json\r\n\r\n%s", n, body);
}

static void add_chunk(struct connection *c, const char *data, int n) {
    c->out_length += snprintf(c->out + c->out_length, OUT_MAX - c->out_length, "%x\r\n", n);
    memcpy(c->out + c->out_length, data, n);
    c->out_length += n;
    memcpy(c->out + c->out_length, "\r\n", 2);
    c->out_length += 2;
}

static void add_event(struct connection *c) {
    char event[1024];
    const char *head = "data: {\"id\":\"chatcmpl-%s\",\"object\":\"chat.completion.chunk\",\"created\":1763692800,"
                       "\"model\":\"%s\",\"choices\":[";
    int n = snprintf(event, sizeof event, head, c->id, c->model), last = c->sent == c->chunks - 1;
    if (c->sent < c->chunks) {
        char ids[32] = "null";
        if (c->token_ids) snprintf(ids, sizeof ids, "[%d]", 1000 + c->sent);
        n += snprintf(event + n, sizeof event - n,
            "{\"index\":0,\"delta\":{%s\"content\":\" word%d\"},\"logprobs\":null,\"finish_reason\":%s,\"token_ids\":%s}]"
            "%s}\n\n", c->sent ? "" : "\"role\":\"assistant\",", c->sent, last ? "\"stop\"" : "null", ids,
            c->sent ? "" : c->token_ids ? ",\"prompt_token_ids\":[1,2,3,4,5]" : ",\"prompt_token_ids\":null");
        add_chunk(c, event, n);
    }
    if (c->sent++ < c->chunks - 1) return;
    if (c->usage) {
        n = snprintf(event, sizeof event, head, c->id, c->model);
        n += snprintf(event + n, sizeof event - n,
            "],\"usage\":{\"prompt_tokens\":14,\"total_tokens\":%d,\"completion_tokens\":%d}}\n\n", 14 + c->chunks,
            c->chunks);
        add_chunk(c, event, n);
    }
    add_chunk(c, "data: [DONE]\n\n", 14);
    memcpy(c->out + c->out_length, "0\r\n\r\n", 5);
    c->out_length += 5;
    c->streaming = 0;
}

static void begin(struct connection *c, const char *body) {
    const char *id = strcasestr(c->request, "\nx-request-id: ");
    const char *model = strstr(body, "\"model\":");
    copy_value(id && id < body ? id + 15 : "mock", c->id, sizeof c->id);
    copy_value(model ? model + 8 + strspn(model + 8, " \"") : "none", c->model, sizeof c->model);
    c->token_ids = strstr(body, "\"return_token_ids\":true") != NULL;
    c->usage = strstr(body, "\"include_usage\":true") != NULL;
    c->chunks = number_after(body, "chunks=", 64);
    c->gap_us = number_after(body, "gap=", 0);
    c->sent = 0;
    c->streaming = strstr(body, "\"stream\":true") || strstr(body, "\"stream\": true");
    if (!c->streaming) {
        answer_whole(c);
        return;
    }
    c->out_length = snprintf(c->out, OUT_MAX,
        "HTTP/1.1 200 OK\r\ndate: Fri, 21 Nov 2025 02:40:00 GMT\r\nserver: uvicorn\r\n"
        "content-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n");
    c->next_us = now_us() + c->gap_us;
    if (c->gap_us) add_event(c);
    active[active_count++] = c->fd;
}

/* 0: the peer is gone */
static int serve(struct connection *c) {
    for (;;) {
        if (c->length + 1 >= c->capacity) c->request = realloc(c->request, c->capacity *= 2);
        ssize_t n = recv(c->fd, c->request + c->length, c->capacity - c->length - 1, 0);
        if (n == 0 || (n < 0 && errno != EAGAIN)) return 0;
        if (n < 0) return 1;
        c->length += n;
        c->request[c->length] = 0;
        char *end = strstr(c->request, "\r\n\r\n");
        if (!end) continue;
        char *body = end + 4, *size = strcasestr(c->request, "content-length:");
        long length = size && size < end ? atol(size + 15) : 0;
        if (c->length - (body - c->request) < length) continue;
        if (c->request[0] == 'G')
            c->out_length = snprintf(c->out, OUT_MAX, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}");
        else
            begin(c, body);
        c->length = 0;
        if (flush(c) < 0) return 0;
    }
}

static void stream(long now) {
    for (int i = 0; i < active_count; i++) {
        struct connection *c = connections[active[i]];
        while (c->streaming && flush(c) == 1 && c->next_us <= now) {
            add_event(c);
            c->next_us += c->gap_us;
            if (!c->gap_us) break;
        }
        int flushed = flush(c);
        if (flushed < 0) {
            drop(c);
            i = -1;
        } else if (!c->streaming && flushed == 1) {
            active[i--] = active[--active_count];
        }
    }
}

static int wait_ms(long now) {
    long soonest = now + 1000000;
    for (int i = 0; i < active_count; i++) {
        struct connection *c = connections[active[i]];
        if (c->next_us < soonest) soonest = c->next_us;
    }
    return soonest <= now ? 0 : (int)((soonest - now + 999) / 1000);
}

int main(int argc, char **argv) {
    int on = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    address.sin_port = htons(argc > 1 ? atoi(argv[1]) : 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (void *)&address, sizeof address) || listen(listener, 1024)) return perror("listen"), 1;
    socklen_t size = sizeof address;
    getsockname(listener, (void *)&address, &size);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    poller = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, events[256];
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int n = epoll_wait(poller, events, 256, active_count ? wait_ms(now_us()) : -1);
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0 && fd < CONNECTIONS_MAX) {
                    struct connection *c = connections[fd] = calloc(1, sizeof *c);
                    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
                    c->fd = fd;
                    c->request = malloc(c->capacity = 8192);
                    event = (struct epoll_event){.events = EPOLLIN, .data.fd = fd};
                    epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
                }
            } else if (connections[fd] && !serve(connections[fd])) {
                drop(connections[fd]);
            }
        }
        if (active_count) stream(now_us());
    }
}
