/* The client of the comparison: HTTP/1.1 over TCP or TLS 1.3, on loopback, in one thread. Prints one line of JSON.
 *
 * Closed loop: each connection sends its next request when the last is answered. Fixed rate (--rate): request number n is
 * due at n / rate whatever the answers do, waits here while all connections are busy, and its latency counts from when it
 * was due, so that a slow answer does not hide those behind it (Tene, "How NOT to Measure Latency"; as wrk2 does).
 *
 * Every answer is checked: status 200, a Content-Length, and as many bytes of body as expected. What fails is counted, by
 * kind; a connection that fails is opened again. Each TLS connection is a full handshake: no session is kept.
 *
 * cc -O2 -o load load.c -lssl -lcrypto */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000LL
/* How long answers may take after the last request was due. */
#define PATIENCE (5 * SECOND)
#define HEAD_MOST 8192

enum state { CLOSED, CONNECTING, SHAKING, IDLE, SENDING, READING, ENDING };
enum failure { CONNECT, STATUS, FRAMING, CUT, STALLED, FAILURES, NONE };
static const char *const failures[] = {"connect", "status", "framing", "cut", "stalled"};

struct connection {
    int fd;
    SSL *ssl;
    enum state state;
    int name;       /* which host it asks for */
    int64_t due;    /* when the request in flight was due, in nanoseconds */
    size_t request; /* its length: it stands in `out` */
    size_t sent;
    size_t head; /* bytes of the answer's head so far */
    bool in_body, last;
    long body; /* bytes of the body still to come */
    char in[HEAD_MOST], out[512];
};

static struct {
    int port, connections, rate, names, paths;
    double seconds;
    long post, expect;
    const char *path;
    bool tls, close, hold;
} options = {.connections = 32, .seconds = 1, .expect = -1, .path = "/small"};

static struct connection *connections;
static int *idle, idle_count;
static int poller;
static SSL_CTX *context;
static char *upload, scratch[256 * 1024];
static long counts[FAILURES], opened, answered, issued, bytes;
static int opening, pending; /* connections being opened, requests in flight */
static uint32_t *latencies; /* in units of 100 ns */
static size_t latency_room, latency_count;
static int64_t begun, until;
static uint64_t seed = 88172645463325252ULL;

static int64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * SECOND + time.tv_nsec;
}

static int draw(int count) {
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (int)(seed % (uint64_t)count);
}

static void keep(int64_t latency) {
    if (latency_count == latency_room) {
        latency_room = latency_room ? 2 * latency_room : 1 << 16;
        latencies = realloc(latencies, latency_room * sizeof *latencies);
        if (!latencies) {
            perror("load");
            exit(2);
        }
    }
    latencies[latency_count++] = (uint32_t)(latency / 100);
}

/* When request `number` is due. In a closed loop that is now, for as long as the run lasts. */
static int64_t due(long number) {
    return options.rate ? begun + number * SECOND / options.rate : now();
}

static bool more(void) {
    return options.hold ? issued < options.connections : due(issued) < until;
}

/* The host that a connection asks for, in SNI and in Host. */
static const char *host_of(const struct connection *c) {
    static char name[64];
    if (!options.names)
        return "bench.test";
    snprintf(name, sizeof name, "h%05d.bench.test", c->name);
    return name;
}

static void drop(struct connection *c) {
    opening -= c->state == CONNECTING || c->state == SHAKING;
    pending -= c->state == SENDING || c->state == READING;
    if (c->ssl) {
        SSL_shutdown(c->ssl);
        SSL_free(c->ssl);
        c->ssl = NULL;
    }
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
    c->state = CLOSED;
}

static void rest(struct connection *c) {
    opening -= c->state == CONNECTING || c->state == SHAKING;
    c->state = IDLE;
    idle[idle_count++] = (int)(c - connections);
}

static void dial(struct connection *c) {
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int on = 1;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(c->fd, SOL_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    /* Sixteen addresses, so that ports in TIME_WAIT do not run out. */
    struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000101 + opened++ % 16)};
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(options.port), .sin_addr.s_addr = htonl(0x7f000001)};
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = c};
    c->state = CONNECTING;
    c->name = options.names ? draw(options.names) : 0;
    opening++;
    if (c->fd < 0 || bind(c->fd, (void *)&from, sizeof from) || epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event) ||
        (connect(c->fd, (void *)&to, sizeof to) && errno != EINPROGRESS)) {
        counts[CONNECT]++;
        drop(c);
    }
}

/* The connection is over: opened again while requests are still due. */
static void again(struct connection *c) {
    drop(c);
    if (more())
        dial(c);
}

static void failed(struct connection *c, enum failure failure) {
    counts[failure]++;
    drop(c);
    /* A proxy that refuses everything is not asked a million times. */
    if (counts[failure] < 1000 && more())
        dial(c);
}

static ssize_t put(struct connection *c, const char *from, size_t length, bool more) {
    if (!c->ssl)
        return send(c->fd, from, length, MSG_NOSIGNAL | (more ? MSG_MORE : 0));
    int done = SSL_write(c->ssl, from, (int)length);
    if (done > 0)
        return done;
    int error = SSL_get_error(c->ssl, done);
    errno = error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE ? EAGAIN : EPIPE;
    return -1;
}

static ssize_t take(struct connection *c, char *to, size_t length) {
    if (!c->ssl)
        return recv(c->fd, to, length, 0);
    int done = SSL_read(c->ssl, to, (int)length);
    if (done > 0)
        return done;
    int error = SSL_get_error(c->ssl, done);
    errno = error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE ? EAGAIN : EPIPE;
    return errno == EAGAIN ? -1 : 0;
}


static void compose(struct connection *c) {
    char path[64], length[64] = "";
    snprintf(path, sizeof path, "%s", options.path);
    if (options.paths)
        snprintf(path, sizeof path, "/r%d%s", draw(options.paths), options.path);
    if (options.post)
        snprintf(length, sizeof length, "Content-Length: %ld\r\n", options.post);
    const char *method = options.post ? "POST" : "GET", *last = options.close ? "Connection: close\r\n" : "";
    c->request = (size_t)snprintf(c->out, sizeof c->out, "%s %s HTTP/1.1\r\nHost: %s\r\n%s%s\r\n", method, path, host_of(c), length, last);
    c->sent = c->head = 0;
    c->in_body = false;
}

/* Sends as much of the request as the socket takes. */
static void emit(struct connection *c) {
    size_t total = c->request + (size_t)options.post;
    while (c->sent < total) {
        bool in_head = c->sent < c->request;
        const char *from = in_head ? c->out + c->sent : upload + (c->sent - c->request);
        ssize_t done = put(c, from, (in_head ? c->request : total) - c->sent, in_head && options.post);
        if (done < 0 && errno != EAGAIN)
            failed(c, CUT);
        if (done < 0)
            return;
        c->sent += (size_t)done;
    }
    c->state = READING;
}

static void issue(struct connection *c, int64_t due) {
    issued++;
    pending++;
    c->due = due;
    c->state = SENDING;
    compose(c);
    emit(c);
}

/* Reads the answer's head, which ends at `end`. */
static enum failure understand(struct connection *c, char *end) {
    *end = 0;
    const char *length = strcasestr(c->in, "\r\ncontent-length:");
    const char *field = strcasestr(c->in, "\r\nconnection:");
    c->last = options.close || (field && !strncasecmp(field + 13, " close", 6));
    c->in_body = true;
    if (strncmp(c->in, "HTTP/1.1 200", 12))
        return STATUS;
    c->body = length ? atol(length + 17) : -1;
    return c->body < 0 || (options.expect >= 0 && c->body != options.expect) ? FRAMING : NONE;
}

/* Takes `length` bytes more of a head; what follows it belongs to the body. */
static enum failure in_head(struct connection *c, size_t length) {
    size_t from = c->head > 3 ? c->head - 3 : 0;
    c->head += length;
    char *end = memmem(c->in + from, c->head - from, "\r\n\r\n", 4);
    if (!end)
        return c->head == HEAD_MOST - 1 ? FRAMING : NONE;
    long over = (long)(c->in + c->head - (end + 4));
    enum failure failure = understand(c, end);
    c->body -= over;
    return failure;
}

static void finished(struct connection *c) {
    answered++;
    pending--;
    keep(now() - c->due);
    if (c->last)
        c->state = ENDING;
    else
        rest(c);
}

/* Reads until nothing more is there. After a request with `Connection: close` that is the end of the connection. */
static void absorb(struct connection *c) {
    for (;;) {
        bool head = c->state == READING && !c->in_body;
        ssize_t done = head ? take(c, c->in + c->head, HEAD_MOST - 1 - c->head) : take(c, scratch, sizeof scratch);
        if (done < 0 && errno == EAGAIN)
            return;
        if (done <= 0 && c->state == ENDING) {
            again(c);
            return;
        }
        enum failure failure = done <= 0 ? CUT : c->state == READING ? NONE : FRAMING;
        if (failure == NONE) {
            bytes += done;
            failure = head ? in_head(c, (size_t)done) : NONE;
            c->body -= head ? 0 : done;
            failure = failure == NONE && c->in_body && c->body < 0 ? FRAMING : failure;
        }
        if (failure != NONE) {
            failed(c, failure);
            return;
        }
        if (c->in_body && c->body == 0) {
            finished(c);
            /* Nothing else can be there, but the end of the connection, which the next request would meet. */
            if (c->state == IDLE && !c->ssl)
                return;
        }
    }
}

static void shake(struct connection *c) {
    if (!c->ssl) {
        c->ssl = SSL_new(context);
        SSL_set_fd(c->ssl, c->fd);
        SSL_set_tlsext_host_name(c->ssl, host_of(c));
    }
    c->state = SHAKING;
    int done = SSL_connect(c->ssl);
    if (done == 1) {
        rest(c);
        return;
    }
    int error = SSL_get_error(c->ssl, done);
    if (error != SSL_ERROR_WANT_READ && error != SSL_ERROR_WANT_WRITE)
        failed(c, CONNECT);
}

static void connected(struct connection *c) {
    int error = 0;
    socklen_t length = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &length);
    if (error)
        failed(c, CONNECT);
    else if (options.tls)
        shake(c);
    else
        rest(c);
}

static void woken(struct connection *c, uint32_t events) {
    if (c->state == CONNECTING && events & (EPOLLOUT | EPOLLERR | EPOLLHUP))
        connected(c);
    else if (c->state == SHAKING)
        shake(c);
    if (c->state == SENDING)
        emit(c);
    if (c->state == READING || c->state == ENDING || (c->state == SENDING && events & EPOLLIN))
        absorb(c);
}

/* Opens what is not open yet, a few at a time so that no accept queue runs over, and gives idle connections what is due. */
static void feed(void) {
    static int dialled;
    while (dialled < options.connections && opening < 64)
        dial(&connections[dialled++]);
    int64_t time = now();
    while (idle_count && more() && due(issued) <= time + (options.rate ? 0 : SECOND))
        issue(&connections[idle[--idle_count]], due(issued));
}

static bool over(void) {
    if (options.hold)
        return answered >= options.connections || now() >= until;
    return !more() && now() >= until && (pending == 0 || now() >= until + PATIENCE);
}

static void run(void) {
    struct epoll_event events[256];
    begun = now();
    until = begun + (int64_t)(options.seconds * (double)SECOND);
    while (!over()) {
        feed();
        int64_t wait = options.rate && idle_count ? due(issued) - now() : SECOND / 100;
        struct timespec limit = {.tv_nsec = wait < 0 ? 0 : wait > SECOND / 100 ? SECOND / 100 : wait};
        int count = epoll_pwait2(poller, events, 256, &limit, NULL);
        for (int i = 0; i < count; i++)
            woken(events[i].data.ptr, events[i].events);
    }
    counts[STALLED] = pending;
}

static int ascending(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* In microseconds. */
static double percentile(double share) {
    size_t at = (size_t)(share * (double)latency_count);
    return latency_count ? latencies[at < latency_count ? at : latency_count - 1] / 10.0 : 0;
}

static void report(void) {
    if (latency_count)
        qsort(latencies, latency_count, sizeof *latencies, ascending);
    printf("{\"requests\": %ld, \"seconds\": %.6f, \"connections\": %ld, \"bytes\": %ld, \"errors\": {", answered,
           (double)(now() - begun) / SECOND, opened, bytes);
    for (int i = 0; i < FAILURES; i++)
        printf("%s\"%s\": %ld", i ? ", " : "", failures[i], counts[i]);
    printf("}, \"latency_us\": {\"p50\": %.1f, \"p90\": %.1f, \"p99\": %.1f, \"p99.9\": %.1f, \"max\": %.1f}}\n", percentile(0.5),
           percentile(0.9), percentile(0.99), percentile(0.999), percentile(1));
    fflush(stdout);
}

static void prepare_tls(void) {
    context = SSL_CTX_new(TLS_client_method());
    /* One cipher and one group, so that no proxy does a cheaper job than another. */
    if (!context || !SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) ||
        !SSL_CTX_set_ciphersuites(context, "TLS_AES_128_GCM_SHA256") || !SSL_CTX_set1_groups_list(context, "X25519") ||
        SSL_CTX_set_alpn_protos(context, (const unsigned char *)"\x08http/1.1", 9)) {
        fprintf(stderr, "load: no TLS 1.3\n");
        exit(2);
    }
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
}

static const struct option words[] = {
    {"port", 1, 0, 'p'},   {"connections", 1, 0, 'c'}, {"seconds", 1, 0, 's'}, {"rate", 1, 0, 'r'}, {"path", 1, 0, 'a'},
    {"post", 1, 0, 'b'},   {"expect", 1, 0, 'x'},      {"names", 1, 0, 'n'},   {"paths", 1, 0, 'g'}, {"tls", 0, 0, 't'},
    {"close", 0, 0, 'k'},  {"hold", 0, 0, 'h'},        {0},
};

static void parse(int count, char **arguments) {
    for (int word; (word = getopt_long(count, arguments, "", words, NULL)) != -1;) {
        switch (word) {
        case 'p': options.port = atoi(optarg); break;
        case 'c': options.connections = atoi(optarg); break;
        case 's': options.seconds = atof(optarg); break;
        case 'r': options.rate = atoi(optarg); break;
        case 'a': options.path = optarg; break;
        case 'b': options.post = atol(optarg); break;
        case 'x': options.expect = atol(optarg); break;
        case 'n': options.names = atoi(optarg); break;
        case 'g': options.paths = atoi(optarg); break;
        case 't': options.tls = true; break;
        case 'k': options.close = true; break;
        case 'h': options.hold = true; break;
        default: exit(2);
        }
    }
    if (options.port < 1 || options.port > 65535 || options.connections < 1 || options.connections > 100000 || options.post < 0 ||
        options.seconds <= 0 || options.seconds > 600 || options.rate < 0 || options.names < 0 || options.paths < 0 || strlen(options.path) > 40) {
        fprintf(stderr, "load: --port 1..65535, --connections 1..100000, --seconds up to 600, all others positive\n");
        exit(2);
    }
}

int main(int count, char **arguments) {
    parse(count, arguments);
    signal(SIGPIPE, SIG_IGN);
    /* Timers are to the microsecond, not the 50 that the kernel may add. And it does not outlive its parent. */
    prctl(PR_SET_TIMERSLACK, 1);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (options.tls)
        prepare_tls();
    poller = epoll_create1(EPOLL_CLOEXEC);
    connections = calloc((size_t)options.connections, sizeof *connections);
    idle = calloc((size_t)options.connections, sizeof *idle);
    upload = calloc(1, (size_t)options.post + 1);
    if (poller < 0 || !connections || !idle || !upload) {
        perror("load");
        return 2;
    }
    for (int i = 0; i < options.connections; i++)
        connections[i].fd = -1;
    run();
    report();
    /* Connections stay open until the other end of standard input is closed. */
    for (char byte; options.hold && read(0, &byte, 1) > 0;) {}
    return 0;
}
